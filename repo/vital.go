package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	return v.settle(ctx, name, file, err)
}

// settle decides after a failure that says nothing: if our bytes are there, the creation succeeded.
func (v vitals) settle(ctx context.Context, name string, file []byte, failure error) error {
	got, err := store.ReadAll(ctx, v.st, name, int64(len(file)))
	switch {
	case err == nil && bytes.Equal(got, file):
		if s, ok := store.As[store.Settler](v.st); ok {
			return s.Settle(ctx, name[:strings.LastIndexByte(name, '/')+1])
		}
		return nil
	case err == nil:
		return &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	return failure
}

// copies makes the second and third place complete.
func (v vitals) copies(ctx context.Context, name string, file []byte) error {
	g, ctx := errgroup.WithContext(ctx)
	places := copiesOf(name)
	for _, place := range places[1:] {
		g.Go(func() error {
			if err := v.createFirst(ctx, place, file); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			return nil
		})
	}
	return g.Wait()
}

// read finds a vital object in the first place that has it whole, or can be mended from its own parity. The error is
// fs.ErrNotExist only if all three places say that it is not there; *ErrCorrupt if what is there cannot be used.
func (v vitals) read(ctx context.Context, name string, kind uint8, repo [16]byte, un []object.Unwrapper) (*vital, error) {
	var failures []error
	out := &vital{name: name}
	for i, place := range copiesOf(name) {
		err := out.load(ctx, v.st, place, kind, repo, un)
		if err == nil {
			if i > 0 && len(failures) > 0 {
				v.warn(fmt.Sprintf("%s was read from %s: %v", name, place, errors.Join(failures...)))
			}
			return out, nil
		}
		if errors.Is(err, object.ErrNoKey) {
			return nil, err
		}
		if errors.Is(err, fs.ErrNotExist) {
			out.missing[i] = true
			continue
		}
		failures = append(failures, err)
	}
	if len(failures) == 0 {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	return nil, &ErrCorrupt{Object: name, Reason: "none of its three places can be used", Err: errors.Join(failures...)}
}

func (o *vital) load(ctx context.Context, st store.Store, place string, kind uint8, repo [16]byte, un []object.Unwrapper) error {
	file, err := store.ReadAll(ctx, st, place, maxVital)
	if err != nil {
		return err
	}
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
