package repo

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
)

// Slots are the ways into an encrypted repository: each holds all of its secrets, sealed for one passphrase, key file or
// set of age recipients. The log names those that are in force, so that one which was taken away and is put back by whoever keeps the
// store does not count again.

// SlotKey is what a slot can be made for: every [Secret], and age recipients, whose owner need not be here.
type SlotKey interface {
	wrapper() (object.Wrapper, error)
}

// AgeRecipients reads age recipients ("age1…", one a line). A slot for them opens with any of their identities.
func AgeRecipients(r io.Reader) (SlotKey, error) {
	to, err := age.ParseRecipients(io.LimitReader(r, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("age recipients: %w", err)
	}
	return ageRecipients(to), nil
}

type ageRecipients []age.Recipient

func (to ageRecipients) wrapper() (object.Wrapper, error) { return object.AgeRecipients(to), nil }

// SlotInfo describes one slot.
type SlotInfo struct {
	ID    string    `json:"id"`   // 32 hexadecimal digits
	Kind  string    `json:"kind"` // passphrase, keyfile, age, or unreadable
	Own   bool      `json:"own"`  // the one that this Repository was opened with
	Note  string    `json:"note,omitempty"`
	Added time.Time `json:"added,omitzero"` // by the clock of who added it; zero for the first one
}

// slotNote is what the log says of a slot.
type slotNote struct {
	note string
	time time.Time
}

var (
	// ErrRevokedSlot says that the secret opens a slot that was taken away.
	ErrRevokedSlot = errors.New("this passphrase, key or identity was taken away from the repository")
	// ErrLastSlot says that a slot cannot be removed: it is the one that the repository was opened with, or the last.
	ErrLastSlot = errors.New("open the repository with the key that stays, and remove the other one then")
	// ErrNotEncrypted says that a repository without encryption has no keys.
	ErrNotEncrypted = errors.New("the repository is not encrypted: it has no keys")
)

// maxMasters bounds the master keys that a slot holds: each opens what was written while it was the newest.
const maxMasters = 64

// Slots lists the slots that are in force.
func (r *Repository) Slots(ctx context.Context) (list []SlotInfo, err error) {
	if err := r.encrypted(); err != nil {
		return nil, err
	}
	if err := r.log.refresh(ctx); err != nil {
		return nil, err
	}
	names, err := r.slots(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		id, ok := slotID(name)
		if !ok || !r.inForce(id) {
			continue
		}
		info := SlotInfo{ID: id.String(), Kind: r.slotKind(ctx, name), Own: id == r.slot}
		r.log.view(func(l *ledger) {
			n := l.slotNotes[id]
			info.Note, info.Added = n.note, n.time
		})
		list = append(list, info)
	}
	return list, nil
}

// AddSlot makes one more way into the repository, and returns the new slot's id. why is for people. Whoever can open any slot can do
// that.
func (r *Repository) AddSlot(ctx context.Context, key SlotKey, why string) (string, error) {
	if err := r.keyChangeable(ctx); err != nil {
		return "", err
	}
	made, err := r.changeSlots(ctx, why, func() ([]id16, error) {
		id, err := r.createSlot(ctx, key, r.keys.slot)
		return []id16{id}, err
	}, func(now, made []id16) ([]id16, error) { return append(now, made...), nil })
	if len(made) == 0 {
		return "", err
	}
	return made[0].String(), err
}

// RemoveSlot takes one way into the repository away. It cannot be the one that this Repository was opened with. What its owner has
// kept of the repository's secrets opens what was written until the next [Repository.RotateMaster]. Errors: fs.ErrNotExist,
// ErrLastSlot.
func (r *Repository) RemoveSlot(ctx context.Context, slot, why string) error {
	if err := r.keyChangeable(ctx); err != nil {
		return err
	}
	var id id16
	if decodeHex(id[:], []byte(slot)) != nil {
		return fmt.Errorf("slot %q: %w", slot, fs.ErrNotExist)
	}
	if id == r.slot {
		return ErrLastSlot
	}
	_, err := r.changeSlots(ctx, why, nil, func(now, _ []id16) ([]id16, error) {
		if !slices.Contains(now, id) {
			return nil, fmt.Errorf("slot %s: %w", slot, fs.ErrNotExist)
		}
		return slices.DeleteFunc(now, func(o id16) bool { return o == id }), nil
	})
	if err != nil {
		return err
	}
	return r.removeSlot(ctx, id)
}

// ChangeSecret puts a new secret in the place of the one that this Repository was opened with: the new one is proven to open before the old one
// goes. This Repository goes on as it is.
func (r *Repository) ChangeSecret(ctx context.Context, secret Secret, why string) error {
	if err := r.keyChangeable(ctx); err != nil {
		return err
	}
	old := r.slot
	made, err := r.changeSlots(ctx, why, func() ([]id16, error) {
		id, err := r.createSlot(ctx, secret, r.keys.slot)
		if err == nil {
			err = r.proveSlot(ctx, id, secret)
		}
		return []id16{id}, err
	}, func(now, made []id16) ([]id16, error) {
		return append(slices.DeleteFunc(now, func(o id16) bool { return o == old }), made...), nil
	})
	if err != nil {
		return err
	}
	r.slot = made[0]
	return r.removeSlot(ctx, old)
}

// RotateMaster makes a new master key, that wraps the keys of everything that is written from here on, by sessions that open the repository
// after it. Nothing is written again: what is there opens with the keys before. Only these secrets open the repository afterwards,
// each with a slot of its own; all other slots go. One of them must be the one that this Repository was opened with or stand for it: they are
// proven to open before anything goes.
//
// Ids of blocks do not depend on the master key, and the key that signs enrolments does not change either: somebody who has kept a copy
// of a slot and can still write to the store can still add to the repository. Against that a new repository and a copy help.
func (r *Repository) RotateMaster(ctx context.Context, secrets []Secret, why string) error {
	if err := r.keyChangeable(ctx); err != nil {
		return err
	}
	if len(secrets) == 0 {
		return fmt.Errorf("%w: a master key for nobody", ErrSecret)
	}
	doc := r.keys.slot
	if len(doc.Masters) >= maxMasters {
		return fmt.Errorf("the repository has %d master keys, and more are not possible: copy it to a new one", len(doc.Masters))
	}
	doc.Masters = append(slices.Clone(doc.Masters), newSecret())
	var gone []id16
	made, err := r.changeSlots(ctx, why, func() (made []id16, err error) {
		for _, s := range secrets {
			id, err := r.createSlot(ctx, s, doc)
			if err == nil {
				err = r.proveSlot(ctx, id, s)
			}
			if err != nil {
				return nil, err
			}
			made = append(made, id)
		}
		return made, nil
	}, func(now, made []id16) ([]id16, error) {
		gone = slices.Clone(now)
		return slices.Clone(made), nil
	})
	if err != nil {
		return err
	}
	r.slot = made[0]
	for _, id := range gone {
		err = errors.Join(err, r.removeSlot(ctx, id))
	}
	return err
}

func (r *Repository) encrypted() error {
	switch {
	case r.writer != nil:
		return errWriteOnly
	case r.header.Suite == object.SuiteClear:
		return ErrNotEncrypted
	}
	return nil
}

func (r *Repository) keyChangeable(ctx context.Context) error {
	if err := r.encrypted(); err != nil {
		return err
	}
	if err := r.writable(ctx); err != nil {
		return err
	}
	return r.sayFirst(ctx)
}

// createSlot seals the repository's secrets once more. The slot counts for nothing until a record names it.
func (r *Repository) createSlot(ctx context.Context, key SlotKey, doc slotDocument) (id id16, err error) {
	w, err := key.wrapper()
	if err != nil {
		return id, err
	}
	content, err := encodeJSON(doc)
	if err != nil {
		return id, err
	}
	id, file, err := r.keys.maker(r.header.Suite, []object.Wrapper{w})(kindSlot, content)
	if err != nil {
		return id, err
	}
	return id, r.vital.create(ctx, slotName(id), file)
}

// proveSlot opens a slot as somebody would who has nothing but the secret.
func (r *Repository) proveSlot(ctx context.Context, id id16, secret Secret) error {
	u, err := secret.unwrapper()
	if err != nil {
		return err
	}
	if _, ok := secret.(passphrase); ok {
		work := int64(maxStretch) // the store may show another slot than the one that was made
		u = &frugal{u, &work}
	}
	for _, place := range copiesOf(slotName(id)) {
		var v vital
		if err := v.load(ctx, r.st, place, kindSlot, r.header.ID, []object.Unwrapper{u}); err != nil {
			return fmt.Errorf("%s does not open: %w", place, err)
		}
	}
	return nil
}

// sayslots writes to the log which slots are in force. change is told those that are now.
func (r *Repository) sayslots(ctx context.Context, why string, change func(now []id16) ([]id16, error)) error {
	key, err := r.signingKey(ctx)
	if err != nil {
		return err
	}
	_, err = r.log.append(ctx, key, func() (*record, error) {
		if !slices.Contains(r.log.slots, r.slot) {
			return nil, ErrRevokedSlot
		}
		next, err := change(slices.Clone(r.log.slots))
		if err != nil {
			return nil, err
		}
		return slotsRecord(next, why)
	})
	if err != nil {
		return err
	}
	return r.client.advance(r.log)
}

// sayFirst is done before the first change: a record of its own says which slots there are, so that those that a change makes can be told
// from them, and one that was made and never named counts for nothing.
func (r *Repository) sayFirst(ctx context.Context) error {
	if err := r.log.refresh(ctx); err != nil {
		return err
	}
	said := false
	r.log.view(func(l *ledger) { said = l.slots != nil })
	if said {
		return nil
	}
	there, err := r.slots(ctx)
	if err != nil {
		return err
	}
	var ids []id16
	for _, name := range there {
		if id, ok := slotID(name); ok {
			ids = append(ids, id)
		}
	}
	key, err := r.signingKey(ctx)
	if err != nil {
		return err
	}
	_, err = r.log.append(ctx, key, func() (*record, error) {
		if r.log.slots != nil {
			return nil, errAppendRefused
		}
		return slotsRecord(ids, "")
	})
	if errors.Is(err, errAppendRefused) {
		return nil // another client was faster
	}
	return err
}

func slotsRecord(slots []id16, why string) (*record, error) {
	slices.SortFunc(slots, func(a, b id16) int { return slices.Compare(a[:], b[:]) })
	slots = slices.Compact(slots)
	if len(slots) == 0 || len(slots) > maxSlots {
		return nil, fmt.Errorf("%d slots: %w", len(slots), ErrLastSlot)
	}
	return &record{Kind: recordSlots, Slots: slots, Note: note(why)}, nil
}

// removeSlot removes a slot that is not in force, in all of its places. A place that is gone already is none that fails.
func (r *Repository) removeSlot(ctx context.Context, id id16) error {
	var all error
	for _, place := range copiesOf(slotName(id)) {
		if err := r.st.Remove(ctx, place); err != nil && !errors.Is(err, fs.ErrNotExist) {
			all = errors.Join(all, fmt.Errorf("the slot counts no more, but %s is still there: %w", place, err))
		}
	}
	return all
}

// inForce reports whether a slot counts.
func (r *Repository) inForce(id id16) (yes bool) {
	r.log.view(func(l *ledger) { yes = l.slots == nil || slices.Contains(l.slots, id) })
	return yes
}

// applySlots takes a record of kind slots into the state.
func (l *ledger) applySlots(r *record) {
	if len(r.Slots) == 0 {
		return // nobody is shut out by a record that names none
	}
	if l.slotNotes == nil {
		l.slotNotes = map[id16]slotNote{}
	}
	first := l.slots == nil // that record says what there was
	for _, id := range r.Slots {
		if _, known := l.slotNotes[id]; !known && !first && !slices.Contains(l.slots, id) {
			l.slotNotes[id] = slotNote{r.Note, r.Time}
		}
	}
	l.slots, l.slotsAt = r.Slots, r.N
}

// slotKind says what opens a slot, as its header tells everybody.
func (r *Repository) slotKind(ctx context.Context, name string) string {
	for _, place := range copiesOf(name) {
		file, err := readAll(ctx, r.st, place, maxVital)
		if err != nil {
			continue
		}
		if fixed, _, err := cell.Repair(file); err == nil {
			if h, err := object.ParseHeader(streamOf(fixed)); err == nil && len(h.Wraps) > 0 {
				return slotKinds[h.Wraps[0].Type]
			}
		}
	}
	return "unreadable"
}

var slotKinds = map[uint8]string{object.WrapPassphrase: "passphrase", object.WrapKeyFile: "keyfile", object.WrapAge: "age"}

func slotID(name string) (id id16, ok bool) {
	digits, ok := strings.CutPrefix(name, "slot/")
	if !ok || len(digits) != 2*len(id) {
		return id, false
	}
	_, err := hex.Decode(id[:], []byte(digits))
	return id, err == nil
}
