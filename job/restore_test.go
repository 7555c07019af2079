package job

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
)

// memoryRestorer brings a VM back into memory.
type memoryRestorer struct {
	vm        hikae.VM
	disks     map[string]*pipe.Memory
	committed bool
	closed    int
	longer    int64 // what its disks are longer by
	spoil     bool  // what is read back is not what was written
}

func (r *memoryRestorer) Create(_ context.Context, vm hikae.VM, _ *hikae.RestoreOptions) (hikae.Draft, error) {
	r.vm, r.disks = vm, map[string]*pipe.Memory{}
	return r, nil
}

func (r *memoryRestorer) InPlace(context.Context, string, *hikae.RestoreOptions) (hikae.Draft, error) {
	return nil, errors.ErrUnsupported
}

func (r *memoryRestorer) OpenDisk(_ context.Context, key string) (pipe.Target, error) {
	for _, d := range r.vm.Disks {
		if d.Key == key {
			r.disks[key] = pipe.NewMemory(d.Size + r.longer)
		}
	}
	return r.disks[key], nil
}

func (r *memoryRestorer) Reread(ctx context.Context, key string) (pipe.Image, error) {
	data := make([]byte, r.disks[key].Size())
	if _, err := r.disks[key].ReadAt(ctx, data, 0); err != nil {
		return nil, err
	}
	if r.spoil {
		data[12345] ^= 1
	}
	return pipetest.Bytes(data), nil
}

func (r *memoryRestorer) Commit(context.Context) (string, error) {
	r.committed = true
	return "vm-new", nil
}

func (r *memoryRestorer) Close() error {
	r.closed++
	return nil
}

// plain is a restorer whose drafts cannot be read back.
type plain struct{ *memoryRestorer }

func (p plain) Create(ctx context.Context, vm hikae.VM, opts *hikae.RestoreOptions) (hikae.Draft, error) {
	d, err := p.memoryRestorer.Create(ctx, vm, opts)
	return struct{ hikae.Draft }{d}, err
}

func pointToRestore(t *testing.T) (*host, *pipetest.Backend, pipe.PointInfo) {
	t.Helper()
	h := filled(30, 6*block+1, 3*block)
	h.facts = map[string]string{"guest": "linux"}
	b := pipetest.NewBackend(block)
	info, err := FindPoint(t.Context(), b, run(t, h, b, nil).Point)
	require.NoError(t, err)
	return h, b, info
}

func TestRestoreOfAVM(t *testing.T) {
	h, b, point := pointToRestore(t)
	r, s := &memoryRestorer{}, openSessions(t)
	var phases []Phase
	res, err := Restore(t.Context(), b, point, r, &RestoreOptions{Compare: true, Sessions: s, Events: func(e Event) {
		if p, ok := e.(PhaseStarted); ok {
			phases = append(phases, p.Phase)
		}
	}})
	require.NoError(t, err)
	require.Equal(t, []Phase{PhasePlan, PhaseCopy, PhaseCompare, PhaseCommit}, phases)
	require.Equal(t, "vm-new", res.ID)
	require.True(t, r.committed)
	require.Equal(t, 1, r.closed)
	require.Equal(t, h.config, r.vm.Config)
	require.Equal(t, h.facts, r.vm.Facts)
	require.Equal(t, "web1", r.vm.Name)
	for i, key := range h.order {
		got, err := io.ReadAll(io.NewSectionReader(pipe.ReaderAt(t.Context(), r.disks[key]), 0, r.disks[key].Size()))
		require.NoError(t, err)
		require.True(t, bytes.Equal(h.content(key), got))
		require.True(t, res.Disks[i].Compared)
		require.Equal(t, res.Disks[i].Size, res.Disks[i].Written+res.Disks[i].Skipped["zero"])
	}
	kept, err := s.Load("latest")
	require.NoError(t, err)
	require.Equal(t, res.Disks, kept.Restore.Disks)

	one := &memoryRestorer{}
	_, err = Restore(t.Context(), b, point, one, &RestoreOptions{Disks: []string{"d1"}})
	require.NoError(t, err)
	require.Len(t, one.disks, 1)
}

func TestRestoreIsNotBelieved(t *testing.T) {
	_, b, point := pointToRestore(t)
	var differs *DiffersError
	spoilt := &memoryRestorer{spoil: true}
	_, err := Restore(t.Context(), b, point, spoilt, &RestoreOptions{Compare: true})
	require.ErrorAs(t, err, &differs)
	require.Equal(t, DiffersError{Disk: "d0", Offset: 12345}, *differs)
	require.False(t, spoilt.committed)
	require.Equal(t, 1, spoilt.closed)

	for name, try := range map[string]func() error{
		"not to be read back": func() error {
			_, err := Restore(t.Context(), b, point, plain{&memoryRestorer{}}, &RestoreOptions{Compare: true})
			require.ErrorIs(t, err, errors.ErrUnsupported)
			return err
		},
		"in place": func() error {
			_, err := Restore(t.Context(), b, point, &memoryRestorer{}, &RestoreOptions{InPlace: "vm-1"})
			return err
		},
		"target of another size": func() error {
			_, err := Restore(t.Context(), b, point, &memoryRestorer{longer: 1}, nil)
			return err
		},
		"point's description wrong": func() error {
			wrong := point
			wrong.Disks = append([]pipe.DiskInfo{}, point.Disks...)
			wrong.Disks[0].Size++
			_, err := Restore(t.Context(), b, wrong, &memoryRestorer{}, nil)
			return err
		},
		"blob longer than promised": func() error {
			wrong := point
			wrong.Blobs = []pipe.BlobInfo{{Name: "web1.xml", Size: 3}}
			_, err := Restore(t.Context(), b, wrong, &memoryRestorer{}, nil)
			return err
		},
		"blob beyond all bounds": func() error {
			wrong := point
			wrong.Blobs = []pipe.BlobInfo{{Name: "web1.xml", Size: 1 << 50}}
			_, err := Restore(t.Context(), b, wrong, &memoryRestorer{}, nil)
			return err
		},
		"point gone": func() error {
			_, err := Restore(t.Context(), b, pipe.PointInfo{ID: "gone", Disks: point.Disks}, &memoryRestorer{}, nil)
			require.ErrorIs(t, err, fs.ErrNotExist)
			return err
		},
		"wrapper refuses": func() error {
			_, err := Restore(t.Context(), b, point, &memoryRestorer{}, &RestoreOptions{Wrap: func(context.Context, hikae.Disk, pipe.Image) (pipe.Image, error) {
				return nil, pipetest.ErrFault
			}})
			require.ErrorIs(t, err, pipetest.ErrFault)
			return err
		},
	} {
		require.Error(t, try(), name)
	}
}

// A salvage also goes on without a configuration that cannot be read.
func TestSalvageOfConfiguration(t *testing.T) {
	_, b, point := pointToRestore(t)
	fault := pipetest.FailNth(1, true, "openblob")
	_, err := Restore(t.Context(), pipetest.HookBackend(b, fault.Hook), point, &memoryRestorer{}, nil)
	require.ErrorIs(t, err, pipetest.ErrFault)
	r := &memoryRestorer{}
	res, err := Restore(t.Context(), pipetest.HookBackend(b, fault.Hook), point, r, &RestoreOptions{Salvage: true})
	require.NoError(t, err)
	require.Empty(t, r.vm.Config)
	require.Contains(t, res.Warnings[0], "web1.xml")
}

func TestHolesSplitExtents(t *testing.T) {
	h := &holed{Image: pipetest.Bytes(make([]byte, 100)), holes: []Hole{{Offset: 0, Length: 10}, {Offset: 50, Length: 5}, {Offset: 55, Length: 1}, {Offset: 99, Length: 1}}}
	var got []pipe.Extent
	for e, err := range h.Extents(t.Context(), 5, 95) {
		require.NoError(t, err)
		got = append(got, e)
	}
	require.Equal(t, []pipe.Extent{
		{Off: 5, Len: 5, Kind: pipe.Zero}, {Off: 10, Len: 40, Kind: pipe.Data}, {Off: 50, Len: 5, Kind: pipe.Zero},
		{Off: 55, Len: 1, Kind: pipe.Zero}, {Off: 56, Len: 43, Kind: pipe.Data}, {Off: 99, Len: 1, Kind: pipe.Zero},
	}, got)
}
