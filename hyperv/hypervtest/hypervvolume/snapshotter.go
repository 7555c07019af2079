// Package hypervvolume is a storage vendor's means of pinning volumes, as package hyperv wants it, on the array of the fake hosts of
// package hypervtest: an example of what a vendor writes, and what off-host reading is tested with.
//
//	opts := &hyperv.ProviderOptions{Mode: hyperv.OffHost, Volumes: []hyperv.VolumeSnapshotter{hypervvolume.New(host)}}
//
// It met our own fake array only: nothing here talks to a real one.
package hypervvolume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/hypervtest"
	"github.com/hikae/hikae/pipe"
)

// Name is how the snapshotter is called in plans, reports and effects.
const Name = "fake-array"

const (
	kindSnapshot = "hyperv.volume.array"
	kindImport   = "hyperv.volume.array-import"
)

// Snapshotter pins volumes of some hosts. Its methods may be called at once.
type Snapshotter struct{ hosts []*hypervtest.Host }

var _ hyperv.SetTransporter = (*Snapshotter)(nil)

// New is that of the arrays that these hosts' volumes lie on.
func New(hosts ...*hypervtest.Host) *Snapshotter { return &Snapshotter{hosts} }

// Name implements [hyperv.VolumeSnapshotter].
func (s *Snapshotter) Name() string { return Name }

func (s *Snapshotter) storage(host string) (*hypervtest.Storage, error) {
	for _, h := range s.hosts {
		if strings.EqualFold(h.Name(), host) {
			return h.Storage(), nil
		}
	}
	return nil, fmt.Errorf("no array of host %s is known: %w", host, errors.ErrUnsupported)
}

// Volume implements [hyperv.VolumeSnapshotter].
func (s *Snapshotter) Volume(_ context.Context, host, file string) (string, error) {
	array, err := s.storage(host)
	if err != nil {
		return "", err
	}
	return array.Volume(file)
}

// Take implements [hyperv.VolumeSnapshotter]: a snapshot in the array, mounted on the proxy (R096, R097).
func (s *Snapshotter) Take(ctx context.Context, host, mark string, volumes []string, j hikae.Journal) (hyperv.VolumeSnapshot, error) {
	return s.bring(ctx, host, mark, kindSnapshot, j, func(array *hypervtest.Storage) (string, error) { return array.Snapshot(ctx, mark, volumes) })
}

// Transport implements [hyperv.SetTransporter].
func (s *Snapshotter) Transport(ctx context.Context, host, mark, set string, _ []string, j hikae.Journal) (hyperv.VolumeSnapshot, error) {
	return s.bring(ctx, host, mark, kindImport, j, func(array *hypervtest.Storage) (string, error) { return array.Import(mark, set) })
}

// bring makes or imports a snapshot, and mounts it.
func (s *Snapshotter) bring(ctx context.Context, host, mark, kind string, j hikae.Journal, do func(*hypervtest.Storage) (string, error)) (hyperv.VolumeSnapshot, error) {
	array, err := s.storage(host)
	if err != nil {
		return nil, err
	}
	p := &pinned{array: array, done: func(context.Context) error { return nil }}
	if j != nil {
		p.done, err = j.Intend(ctx, hikae.Effect{Kind: kind, Facts: map[string]string{"snapshotter": Name, "host": host, "mark": mark}})
		if err != nil {
			return nil, err
		}
	}
	if p.id, err = do(array); err == nil {
		_, err = array.Mount(ctx, p.id)
	}
	if err != nil {
		return nil, errors.Join(err, p.Delete(context.WithoutCancel(ctx)))
	}
	return p, nil
}

// Undo implements [hyperv.VolumeSnapshotter]: what was made with the effect's mark is found by it.
func (s *Snapshotter) Undo(ctx context.Context, e hikae.Effect) error {
	if e.Kind != kindSnapshot && e.Kind != kindImport || e.Facts["snapshotter"] != Name || e.Facts["mark"] == "" {
		return fmt.Errorf("effect %s of kind %q is not one of the array's: %w", e.ID, e.Kind, fs.ErrInvalid)
	}
	array, err := s.storage(e.Facts["host"])
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range array.Find(e.Facts["mark"]) {
		errs = append(errs, remove(ctx, array, id))
	}
	return errors.Join(errs...)
}

func remove(ctx context.Context, array *hypervtest.Storage, id string) error {
	if err := array.Unmount(ctx, id); err != nil {
		return err
	}
	return array.Delete(ctx, id)
}

// pinned is volumes that are pinned and mounted.
type pinned struct {
	array *hypervtest.Storage
	id    string
	done  func(context.Context) error
}

// ID implements [hyperv.VolumeSnapshot].
func (p *pinned) ID() string { return p.id }

// Open implements [hyperv.Files].
func (p *pinned) Open(ctx context.Context, name string) (pipe.Image, error) {
	return p.array.Open(ctx, p.id, name)
}

// Delete implements [hyperv.VolumeSnapshot].
func (p *pinned) Delete(ctx context.Context) error {
	if p.id != "" {
		if err := remove(ctx, p.array, p.id); err != nil {
			return err
		}
	}
	return p.done(ctx)
}
