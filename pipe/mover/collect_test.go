package mover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/pipe/pipetest"
)

// shelfSource is a source of patterns, which backs up one disk as it is told.
type shelfSource struct {
	images map[string]pipe.Image
	before func(ctx context.Context, to pipe.Backend) error // ahead of what is ordered
}

func (s *shelfSource) Images(context.Context) (list []wire.NamedImage, err error) {
	for name, img := range s.images {
		list = append(list, wire.NamedImage{Name: name, Size: img.Size()})
	}
	return list, nil
}

func (s *shelfSource) Open(_ context.Context, name string) (pipe.Image, error) {
	if img, ok := s.images[name]; ok {
		return img, nil
	}
	return nil, fmt.Errorf("image %q: %w", name, fs.ErrNotExist)
}

func (s *shelfSource) Collect(ctx context.Context, order *wire.Collect, to pipe.Backend) ([]byte, error) {
	if s.before != nil {
		if err := s.before(ctx, to); err != nil {
			return nil, err
		}
	}
	img, err := s.Open(ctx, order.Disks[0].Image)
	if err != nil {
		return nil, err
	}
	id, err := backup(ctx, to, order.VM, img, nil)
	return []byte(id), err
}

// R011, R012: the target drives. It gives the order, and the source brings what was ordered.
func TestCollect(t *testing.T) {
	t.Parallel()
	img := pipetest.NewPattern(3, 40*testBlock+512, pipetest.RandomLayout(3, 40*testBlock+512, pipe.Data, pipe.Zero)...)
	src := &shelfSource{images: map[string]pipe.Image{"sda": img}}
	y := newYard(t, &ServerOptions{Source: src})
	target := newRepo(t)
	opts := &DialOptions{Identity: y.enrol("repository", trust.Full), ServerPin: y.id.Pin(), CacheDir: t.TempDir()}
	order := &wire.Collect{VM: "vm1", Disks: []wire.CollectDisk{{Key: "disk0", Image: "sda"}}}
	id, err := Collect(t.Context(), y.address, order, target, opts)
	require.NoError(t, err)
	requireSame(t, target, string(id), img)
	again, err := Collect(t.Context(), y.address, order, target, opts)
	require.NoError(t, err)
	requireSame(t, target, string(again), img)
	p, err := target.Resolve(t.Context(), string(again))
	require.NoError(t, err)
	require.Equal(t, "vm1", p.VM)

	order.Disks[0].Image = "sdb"
	_, err = Collect(t.Context(), y.address, order, target, opts)
	require.ErrorIs(t, err, fs.ErrNotExist)

	opts.Identity = y.enrol("web", trust.Append)
	_, err = Collect(t.Context(), y.address, order, target, opts)
	require.ErrorContains(t, err, "not for this peer's role")
}

// A source that was taken over gets no further than its order: no other VM, no content, no other's points.
func TestCollectHoldsTheSourceToItsOrder(t *testing.T) {
	t.Parallel()
	target := newRepo(t)
	img := pipetest.NewPattern(4, 10*testBlock)
	other, own := mustBackup(t, target, "other", img, nil), mustBackup(t, target, "vm1", img, nil)
	var found []string
	src := &shelfSource{images: map[string]pipe.Image{"sda": img}}
	src.before = func(ctx context.Context, to pipe.Backend) error {
		_, err := to.Begin(ctx, "other", nil)
		if !errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("another VM: %v", err)
		}
		if _, err = to.Begin(ctx, "vm1", &pipe.PointOptions{Base: other}); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("another's base: %v", err)
		}
		if _, err = to.Open(ctx, other, "disk0"); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("another's disk: %v", err)
		}
		i, err := to.Open(ctx, own, "disk0")
		if err != nil {
			return err
		}
		defer i.Close()
		if _, err := i.ReadAt(ctx, make([]byte, 1), 0); !errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("content: %v", err)
		}
		for p, err := range to.Points(ctx, "") {
			if err != nil {
				return err
			}
			found = append(found, p.ID)
		}
		return nil
	}
	y := newYard(t, &ServerOptions{Source: src})
	opts := &DialOptions{Identity: y.enrol("repository", trust.Full), ServerPin: y.id.Pin()}
	_, err := Collect(t.Context(), y.address, &wire.Collect{VM: "vm1", Disks: []wire.CollectDisk{{Key: "disk0", Image: "sda"}}}, target, opts)
	require.NoError(t, err)
	require.Equal(t, []string{own}, found)
}

// The images of a source are read over the wire as they are.
func TestSourceImages(t *testing.T) {
	t.Parallel()
	img := pipetest.NewPattern(5, 9<<20+512, pipetest.RandomLayout(5, 9<<20+512, pipe.Data, pipe.Zero, pipe.Free)...)
	y := newYard(t, &ServerOptions{Source: &shelfSource{images: map[string]pipe.Image{"sda": img}}})
	c := y.dial(y.enrol("repository", trust.Full))
	list, err := c.Images(t.Context())
	require.NoError(t, err)
	require.Equal(t, []wire.NamedImage{{Name: "sda", Size: img.Size()}}, list)
	far, err := c.OpenImage(t.Context(), "sda")
	require.NoError(t, err)
	pipetest.TestImage(t, far, img)
	_, err = c.OpenImage(t.Context(), "sdb")
	require.ErrorIs(t, err, fs.ErrNotExist)

	web := y.dial(y.enrol("web", trust.Append))
	_, err = web.Images(t.Context())
	require.ErrorIs(t, err, fs.ErrPermission)
	_, err = web.OpenImage(t.Context(), "sda")
	require.ErrorIs(t, err, fs.ErrPermission)
}

// Two sources are two tenants, however much of their keys is the same.
func TestSourcesAreNamedByTheirWholeKey(t *testing.T) {
	t.Parallel()
	a := trust.Pin{1, 2, 3, 4, 5, 6}
	for i := range a {
		b := a
		b[i] ^= 1
		require.NotEqual(t, sourceName(a), sourceName(b))
	}
	require.LessOrEqual(t, len(sourceName(a))+1+len("vm"), wire.MaxName)
}
