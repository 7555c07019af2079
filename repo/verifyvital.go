package repo

import (
	"context"
	"errors"
	"io/fs"
	"slices"

	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
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
	all := []mustBe{{headerName, kindHeader, func(o *object.Object, _ []byte) bool { return contentHash(o) == v.r.headerHash }, nil}}
	for _, s := range slots {
		if id, ok := slotID(s); ok && !v.r.inForce(id) {
			v.note(s + " is not in force: it is left of a change of keys that broke off, or somebody put it back. The next change removes it, or a prune")
			continue // and is not put back
		}
		all = append(all, mustBe{s, kindSlot, func(o *object.Object, _ []byte) bool { return o == nil || slotName(o.Header.Object) == s }, nil})
	}
	var hashes []hash
	var first uint64
	v.r.log.view(func(l *ledger) {
		hashes, first = slices.Clone(l.hashes), l.base+1
		for i := range hashes {
			hashes[i] = l.stored(first+uint64(i), hashes[i])
		}
	})
	last := v.r.lastCheckpoint(ctx)
	for k := uint64(1); k <= last; k++ {
		all = append(all, mustBe{checkpointName(k), kindCheckpoint, func(o *object.Object, _ []byte) bool { return v.r.isCheckpoint(o, k) }, nil})
	}
	for i, h := range hashes {
		if first+uint64(i) < last*v.r.log.every {
			continue // the checkpoint stands for it
		}
		if h == (hash{}) {
			continue // a gap stands for it
		}
		all = append(all, mustBe{logName(first + uint64(i)), kindLog, func(o *object.Object, _ []byte) bool { return contentHash(o) == h }, nil})
	}
	for _, c := range list {
		all = append(all, mustBe{manifestName(c.lease, c.point), kindManifest, func(_ *object.Object, stream []byte) bool { return hashBytes(stream) == c.manifest }, &c})
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
	of   *committed                                 // of a manifest: its point
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
	var found []foundPlace
	var wrong []Damage
	sealed := false // nobody here can open it
	for _, place := range copiesOf(name) {
		file, err := readSteady(ctx, v.r.st, place, maxVital)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if isUnread(err) {
			if err := v.unreadable(place, err); err != nil {
				return err
			}
			continue
		}
		v.rep.Checked.Objects++
		v.rep.Checked.Bytes += int64(len(file))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			wrong = append(wrong, Damage{Object: place, Reason: missingPlace})
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
				sealed = true
			}
			if err == nil && !want.is(o, streamOf(fixed)) {
				err = errors.New("it is another object")
			}
		}
		if err != nil {
			wrong = append(wrong, Damage{Object: place, Reason: err.Error()})
			continue
		}
		found = append(found, foundPlace{place, fixed, damaged})
	}
	good := rightPlace(found, sealed)
	if good == nil && kind != kindSlot {
		good = v.fromCopies(ctx, want)
	}
	for _, f := range found {
		if good == nil || string(good) != string(f.file) {
			wrong = append(wrong, Damage{Object: f.name, Reason: "it differs from the other places"})
			continue
		}
		for _, c := range f.damaged {
			wrong = append(wrong, Damage{Object: f.name, Offset: int64(c) * cell.Size, Length: cell.Size, Reason: "cell"})
		}
	}
	if len(wrong) > 0 && want.of != nil {
		if stands, err := v.manifestStands(ctx, *want.of); err != nil || !stands {
			return err // its point was forgotten meanwhile: nothing is put back
		}
	}
	if v.opts.Repair && good != nil {
		wrong = v.repairPlaces(ctx, name, good, wrong)
	}
	for i := range wrong {
		wrong[i].Mendable = good != nil
	}
	v.rep.Damaged = append(v.rep.Damaged, wrong...)
	return nil
}

// fromCopies takes a vital object that no place has from a copy of this repository: the log says what it must be.
func (v *verification) fromCopies(ctx context.Context, want mustBe) []byte {
	for _, from := range v.from {
		if from.header.ID != v.r.header.ID {
			continue // another one has other objects
		}
		for _, place := range copiesOf(want.name) {
			file, err := readAll(ctx, from.st, place, maxVital)
			if err != nil {
				continue
			}
			fixed, _, err := cell.Repair(file)
			if err != nil {
				continue
			}
			o, _, err := object.OpenFile(slices.Clone(fixed), cell.Ident{Kind: want.kind, Repo: v.r.header.ID}, v.r.keys.unwraps)
			if err == nil && want.is(o, streamOf(fixed)) {
				return fixed
			}
		}
	}
	return nil
}

// foundPlace is a place of a vital object in which there is one that may be right.
type foundPlace struct {
	name    string
	file    []byte // mended in memory
	damaged []int  // cells
}

// rightPlace is what all places have to hold. What could be opened was held against the log, and any of it is right. Another
// person's slot nobody here can open, and whoever writes into one of its places can make that look whole: then most of the places
// that are whole have to agree. Nil: they do not, and nothing is written over any of them.
func rightPlace(found []foundPlace, sealed bool) []byte {
	if len(found) == 0 {
		return nil
	}
	if !sealed {
		return found[0].file
	}
	for _, f := range found {
		same := 0
		for _, other := range found {
			if string(other.file) == string(f.file) {
				same++
			}
		}
		if 2*same > len(found) {
			return f.file
		}
	}
	return nil
}

const missingPlace = "missing"

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
