package vmware

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/vmware/nfc"
	"github.com/hikae/hikae/vmware/vmdk"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/simulator"
)

// A transport that says "this disk is no longer the one that I opened" is left for another, which goes on with the content of
// another moment; nobody hears of it.
func TestChangedIsNotFailedOver(t *testing.T) {
	const size = 64 << 20
	for name, why := range map[string]error{
		"https: FileChangedError": &FileChangedError{"[store1] web1/web1-flat.vmdk", "it was of yesterday"},
		"nbd: ErrChanged":         nfc.ErrChanged,
	} {
		t.Run(name, func(t *testing.T) {
			before := pipetest.NewPattern(1, size)
			now, err := io.ReadAll(io.NewSectionReader(pipe.ReaderAt(t.Context(), before), 0, size))
			require.NoError(t, err)
			// somebody writes 4 KiB of what was read, and 4 KiB of what was not while it is read
			for i := range 4096 {
				now[i+7<<20] ^= 0xff
				now[size-1-i] ^= 0xff
			}
			left := 32
			a := &standing{name: "a", img: func() pipe.Image {
				return pipetest.HookImage(before, func(_ context.Context, op *pipetest.Op) error {
					if op.Name == "readat" {
						if left--; left < 0 {
							return why
						}
					}
					return nil
				})
			}}
			b := &standing{name: "b", img: func() pipe.Image { return pipetest.Bytes(now) }}
			img, _, err := chooserOf(t, a, b).open(t.Context(), pinnedOf(size))
			require.NoError(t, err)
			defer img.Close()
			got := make([]byte, size)
			for off := 0; off < size && err == nil; off += 1 << 20 {
				_, err = img.ReadAt(t.Context(), got[off:off+1<<20], int64(off))
			}
			if err != nil {
				t.Log(err)
				return
			}
			t.Errorf("the whole disk was read without an error: the start is of one moment, the end of another (%v)", img.(*chosen).Choice())
		})
	}
}

// A retired or live transport whose Close failed (a disk stays attached) is forgotten: the second Close says that all is well.
func TestSecondCloseTellsTheTruth(t *testing.T) {
	want := pipetest.NewPattern(1, 1<<20)
	stuck := &stuckImage{Image: want}
	a := &standing{name: "a", img: func() pipe.Image { return stuck }}
	c := chooserOf(t, a)
	img, _, err := c.open(t.Context(), pinnedOf(1<<20))
	require.NoError(t, err)
	require.Error(t, img.Close(), "it stays attached")
	err = img.Close()
	require.False(t, err == nil && !stuck.gone, "Close returned nil, and the disk is still attached: nobody tried again")
}

type stuckImage struct {
	pipe.Image
	tries int
	gone  bool
}

func (s *stuckImage) Close() error {
	if s.tries++; s.tries == 1 {
		return errors.New("the VM has other work")
	}
	s.gone = true
	return nil
}

// A transport that ends in the middle of the disk has failed: it is not the end of the disk.
func TestEndInTheMiddle(t *testing.T) {
	const size = 1 << 20
	want := pipetest.NewPattern(1, size)
	a := &standing{name: "a", img: func() pipe.Image { return shortImage{want, size / 2} }}
	b := &standing{name: "b", img: func() pipe.Image { return want }}
	img, _, err := chooserOf(t, a, b).open(t.Context(), pinnedOf(size))
	require.NoError(t, err)
	defer img.Close()
	p := make([]byte, 64<<10)
	n, err := img.ReadAt(t.Context(), p, size/2)
	require.NoError(t, err, "%d bytes; transport %s", n, img.(*chosen).Choice().Transport)
}

type shortImage struct {
	pipe.Image
	end int64
}

func (s shortImage) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off >= s.end {
		return 0, io.EOF
	}
	return s.Image.ReadAt(ctx, p, off)
}

// A reader whose context is over waits for as long as another one opens the next transport: an export takes hours.
func TestCancelledReaderLeaves(t *testing.T) {
	const size = 1 << 20
	want := pipetest.NewPattern(1, size)
	a := &standing{name: "a", img: func() pipe.Image { return breaking(want, 1) }}
	opening, proceed := make(chan struct{}), make(chan struct{})
	b := &standing{name: "b", img: func() pipe.Image { close(opening); <-proceed; return want }}
	img, _, err := chooserOf(t, a, b).open(t.Context(), pinnedOf(size))
	require.NoError(t, err)
	first := make(chan struct{})
	go func() { defer close(first); img.ReadAt(t.Context(), make([]byte, 512), 0) }()
	<-opening
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	second := make(chan error, 1)
	go func() { _, err := img.ReadAt(ctx, make([]byte, 512), 0); second <- err }()
	select {
	case err := <-second:
		require.ErrorIs(t, err, context.DeadlineExceeded)
	case <-time.After(3 * time.Second):
		t.Error("its context ended 3 s ago, and it still waits for somebody else's opening")
	}
	close(proceed)
	<-first
	require.NoError(t, img.Close())
}

// The folder that is "the datastore" is a replica of it: descriptors are the same, the content is older.
func TestStaleReplicaIsNotRead(t *testing.T) {
	const size = 1 << 20
	s := newShop(t, simulator.VPX())
	want := pipetest.NewPattern(42, size)
	p := s.put(t, "web1/web1.vmdk", vmdk.VMFS, want)
	replica := t.TempDir()
	require.NoError(t, os.CopyFS(replica, os.DirFS(s.dir)))
	// The VM goes on writing: a VM that runs does not change the content id of a disk that it has open.
	flat := filepath.Join(s.dir, "web1", "web1-flat.vmdk")
	now, err := os.ReadFile(flat)
	require.NoError(t, err)
	for i := range now[:4096] {
		now[i] ^= 0xff
	}
	later := time.Now().Add(time.Hour)
	require.NoError(t, os.WriteFile(flat, now, 0o600))
	require.NoError(t, os.Chtimes(flat, later, later))
	img, err := newNFS(map[string]string{s.store: replica}, newHTTPS()).Open(t.Context(), p)
	if err != nil {
		t.Log(err)
		return
	}
	defer img.Close()
	got := make([]byte, 4096)
	_, err = img.ReadAt(t.Context(), got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(now[:4096], got), "bytes of another moment, without an error")
}
