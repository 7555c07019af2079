package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
)

// vitals checks every place of header, slots, log and manifests.
func (v *verification) vitals(ctx context.Context, list []committed) error {
	slots, err := v.r.slots(ctx)
	if err != nil {
		return err
	}
	if damage, ok := errors.AsType[*ErrCorrupt](v.r.log.damage()); ok {
		v.damage(Damage{Object: damage.Object, Reason: damage.Reason})
	}
	all := []mustBe{{headerName, kindHeader, func(o *object.Object, _ []byte) bool { return contentHash(o) == v.r.headerHash }}}
	for _, s := range slots {
		all = append(all, mustBe{s, kindSlot, func(o *object.Object, _ []byte) bool { return o == nil || slotName(o.Header.Object) == s }})
	}
	var hashes []hash
	v.r.log.view(func(l *ledger) { hashes = slices.Clone(l.hashes) })
	for i, h := range hashes {
		all = append(all, mustBe{logName(uint64(i) + 1), kindLog, func(o *object.Object, _ []byte) bool { return contentHash(o) == h }})
	}
	for _, c := range list {
		all = append(all, mustBe{manifestName(c.lease, c.point), kindManifest, func(_ *object.Object, stream []byte) bool { return hashBytes(stream) == c.manifest }})
	}
	for _, o := range all {
		if err := v.vital(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// mustBe is a vital object, and what tells it from another one that stands under its name.
type mustBe struct {
	name string
	kind uint8
	is   func(o *object.Object, stream []byte) bool // o is nil for another person's slot
}

func contentHash(o *object.Object) hash {
	content, err := o.Content(0)
	if err != nil {
		return hash{}
	}
	return hashBytes(content)
}

// vital checks the three places of one object. The measure is what the log and the slots say that it must be, so that
// nothing that was put in its place, whole as it may be, is ever written over the right ones.
func (v *verification) vital(ctx context.Context, want mustBe) error {
	name, kind := want.name, want.kind
	var good []byte
	var wrong []Damage
	for _, place := range copiesOf(name) {
		file, err := store.ReadAll(ctx, v.r.st, place, maxVital)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		v.rep.Checked.Objects++
		v.rep.Checked.Bytes += int64(len(file))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			wrong = append(wrong, Damage{Object: place, Reason: "missing"})
			continue
		case err != nil:
			wrong = append(wrong, Damage{Object: place, Reason: err.Error()})
			continue
		}
		fixed, damaged, err := cell.Repair(file)
		if err == nil {
			var o *object.Object
			o, _, err = object.OpenFile(slices.Clone(fixed), cell.Ident{Kind: kind, Repo: v.r.header.ID}, v.r.keys.unwraps)
			if kind == kindSlot && (errors.Is(err, object.ErrNoKey)) {
				o, err = nil, v.slotHeader(name, fixed) // another person's
			}
			if err == nil && !want.is(o, streamOf(fixed)) {
				err = errors.New("it is another object")
			}
		}
		if err == nil && good != nil && string(good) != string(fixed) {
			err = errors.New("it differs from the other places")
		}
		if err != nil {
			wrong = append(wrong, Damage{Object: place, Reason: err.Error()})
			continue
		}
		if good == nil {
			good = fixed
		}
		for _, c := range damaged {
			wrong = append(wrong, Damage{Object: place, Offset: int64(c) * cell.Size, Length: cell.Size, Reason: "cell"})
		}
	}
	for i := range wrong {
		wrong[i].Mendable = good != nil
		if v.opts.Repair && good != nil && v.repairPlace(ctx, wrong[i].Object, name, good) {
			v.rep.Repaired = append(v.rep.Repaired, wrong[i].Object)
			continue
		}
		v.rep.Damaged = append(v.rep.Damaged, wrong[i])
	}
	return nil
}

// slotHeader checks what can be seen of a slot without opening it: that its id is the one in its name.
func (v *verification) slotHeader(name string, file []byte) error {
	h, err := object.ParseHeader(streamOf(file))
	if err == nil && slotName(h.Object) != name {
		err = errors.New("it is another slot")
	}
	return err
}

// streamOf is the stream of a file whose cells are whole.
func streamOf(file []byte) []byte {
	stream, _, _, err := cell.Decode(file)
	if err != nil {
		return nil
	}
	return stream
}

// repairPlace writes one place of a vital object again. The first place of a log record is only ever filled when it is
// missing, never removed: between the two steps of a replacement another writer could take its number.
func (v *verification) repairPlace(ctx context.Context, place, name string, good []byte) bool {
	if v.r.writable() != nil {
		return false
	}
	err := v.r.st.Create(ctx, place, good)
	if errors.Is(err, fs.ErrExist) && (place != name || !strings.HasPrefix(name, "log/")) {
		if err = v.r.st.Remove(ctx, place); err == nil || errors.Is(err, fs.ErrNotExist) {
			err = v.r.st.Create(ctx, place, good)
		}
	}
	if err != nil {
		v.note(fmt.Sprintf("%s could not be put back: %v", place, err))
	}
	return err == nil
}
