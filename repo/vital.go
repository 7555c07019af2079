package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
)

// vitals are the small objects that stand three times: header, slots, log, checkpoints, manifests.
type vitals struct {
	st   store.Store
	warn func(string)
}

// maxVital bounds what is read of one: a manifest with many disks and long blob lists stays far below.
const maxVital = 16 << 20

// vital is one vital object as it was found.
type vital struct {
	name    string
	file    []byte         // byte for byte, mended where it was damaged within its parity
	digest  hash           // of the stream
	content []byte         // of frame 0, decoded
	missing [3]bool        // places that lack it
	object  *object.Object // opened
}

// create makes a vital object: the exclusive creation of its first place decides, then the copies follow. It returns
// when all three are durable. If the answer to the first creation is lost, the object is read back.
func (v vitals) create(ctx context.Context, name string, file []byte) error {
	if err := v.createFirst(ctx, name, file); err != nil {
		return err
	}
	return v.copies(ctx, name, file)
}

func (v vitals) createFirst(ctx context.Context, name string, file []byte) error {
	err := v.st.Create(ctx, name, file)
	if err == nil {
		return nil
	}
	return v.settle(ctx, name, file, err)
}

// settle decides after a failure that says nothing, and after "it exists", which a store that tries again by itself
// also answers to the one who made it exist: if our bytes are there, the creation succeeded.
func (v vitals) settle(ctx context.Context, name string, file []byte, failure error) error {
	if errors.Is(failure, store.ErrNotDurable) {
		return failure // the store has said what it knows: that the bytes can be read proves nothing
	}
	if info, err := v.st.Stat(ctx, name); err == nil && info.Size > int64(len(file)) {
		return &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist} // it cannot be ours
	}
	got, err := store.ReadAll(ctx, v.st, name, int64(len(file)))
	switch {
	case err == nil && bytes.Equal(got, file):
		if s, ok := store.As[store.Settler](v.st); ok {
			return s.Settle(ctx, name[:strings.LastIndexByte(name, '/')+1])
		}
		return nil
	case err == nil:
		return &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	case errors.Is(failure, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist):
		return err // whose it is could not be found out
	}
	return failure
}

// copies makes the second and third place complete.
func (v vitals) copies(ctx context.Context, name string, file []byte) error {
	g, ctx := errgroup.WithContext(ctx)
	places := copiesOf(name)
	for _, place := range places[1:] {
		g.Go(func() error {
			err := v.createFirst(ctx, place, file)
			if errors.Is(err, fs.ErrExist) {
				v.warn(fmt.Sprintf("%s differs from %s: verify with repair puts it right", place, name))
				return nil
			}
			return err
		})
	}
	return g.Wait()
}

// complete makes sure that the copies of what somebody else created are there.
func (v vitals) complete(ctx context.Context, name string, file []byte) error {
	places := copiesOf(name)
	for _, place := range places[1:] {
		got, err := store.ReadAll(ctx, v.st, place, maxVital)
		if err == nil && bytes.Equal(got, file) {
			continue
		}
		return v.copies(ctx, name, file)
	}
	return nil
}

// read finds a vital object in the first place that has it whole, or can be mended from its own parity, and where
// right agrees that it is this object and not another one under its name. The error is fs.ErrNotExist only if all
// three places say that it is not there; *ErrCorrupt if what is there cannot be used; anything else if the store failed.
func (v vitals) read(ctx context.Context, name string, kind uint8, repo [16]byte, un []object.Unwrapper, right func(*vital) error) (*vital, error) {
	var damage []error
	failed := false
	out := &vital{name: name}
	for i, place := range copiesOf(name) {
		err := out.load(ctx, v.st, place, kind, repo, un)
		if err == nil {
			err = right(out)
		}
		switch {
		case err == nil:
			if len(damage) > 0 {
				v.warn(fmt.Sprintf("%s was read from %s: %v", name, place, errors.Join(damage...)))
			}
			return out, nil
		case errors.Is(err, object.ErrNoKey):
			return nil, err
		case errors.Is(err, fs.ErrNotExist):
			out.missing[i] = true
		default:
			failed = failed || isFailure(err)
			damage = append(damage, err)
		}
	}
	if len(damage) > 0 && !failed && kind != kindLog && kind != kindCheckpoint && out.otherVersion(ctx, v.st, name, kind, repo, un, right) {
		v.warn(fmt.Sprintf("%s was read from a later version: %v", name, errors.Join(damage...)))
		return out, nil
	}
	switch {
	case failed:
		return nil, fmt.Errorf("%s: %w", name, errors.Join(damage...))
	case len(damage) == 0:
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	return nil, &ErrCorrupt{Object: name, Reason: "none of its three places can be used", Err: errors.Join(damage...)}
}

// failure is an error of the store that says nothing about the object: another try may go well. Whatever is not one is
// about what the store holds.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

func isFailure(err error) bool {
	_, ok := errors.AsType[failure](err)
	return ok
}

// storeError tells the store's failures from what it says of an object: that it is absent, short or something else.
func storeError(err error) error {
	for _, about := range []error{fs.ErrNotExist, io.EOF, io.ErrUnexpectedEOF, store.ErrForeign} {
		if err == nil || errors.Is(err, about) {
			return err
		}
	}
	return failure{err}
}

// readAll is store.ReadAll with its errors told apart.
func readAll(ctx context.Context, st store.Store, name string, limit int64) ([]byte, error) {
	b, err := store.ReadAll(ctx, st, name, limit)
	if err = storeError(err); isFailure(err) {
		if info, statErr := st.Stat(ctx, name); statErr == nil && info.Size > limit {
			return nil, fmt.Errorf("%d bytes are more than it may have", info.Size)
		}
	}
	return b, err
}

func (o *vital) load(ctx context.Context, st store.Store, place string, kind uint8, repo [16]byte, un []object.Unwrapper) error {
	file, err := readAll(ctx, st, place, maxVital)
	if err != nil {
		return err
	}
	return o.parse(file, kind, repo, un)
}

// otherVersion looks for a version other than the oldest that is the object.
func (o *vital) otherVersion(ctx context.Context, st store.Store, name string, kind uint8, repo [16]byte, un []object.Unwrapper, right func(*vital) error) bool {
	for _, place := range copiesOf(name) {
		for file := range otherVersions(ctx, st, place, maxVital) {
			if o.parse(file, kind, repo, un) == nil && right(o) == nil {
				return true
			}
		}
	}
	return false
}

func (o *vital) parse(file []byte, kind uint8, repo [16]byte, un []object.Unwrapper) error {
	stream, _, damaged, err := cell.Decode(file)
	if err != nil {
		return err
	}
	if len(damaged) > 0 {
		if file, _, err = cell.Repair(file); err != nil {
			return err
		}
	}
	o.digest = hashBytes(stream)
	if kind == kindHeader { // says which repository this is
		h, err := object.ParseHeader(stream)
		if err != nil {
			return err
		}
		repo = h.Repo
	}
	obj, _, err := object.OpenFile(file, cell.Ident{Repo: repo, Kind: kind}, un)
	if err != nil {
		return err
	}
	if len(obj.Entries()) != 1 || obj.Entries()[0].Type != object.TypeDocument {
		return fmt.Errorf("%d frames where one document belongs", len(obj.Entries()))
	}
	content, err := obj.Content(0)
	if err != nil {
		return err
	}
	o.file, o.content, o.object = file, content, obj
	return nil
}

// streamHash is the hash of an object's stream: what a commit record names, whatever the cells are like.
func streamHash(file []byte) (hash, error) {
	stream, _, _, err := cell.Decode(file)
	if err != nil {
		return hash{}, err
	}
	return hashBytes(stream), nil
}
