package vmware

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/vmware/vmwaretest"
	"github.com/stretchr/testify/require"
)

// A disk that could not be detached stops the release; the second release tries to detach it again, and does not remove the
// snapshot below it.
func TestReleaseAgainDetachesFirst(t *testing.T) {
	l := newLab(t, vmwaretest.Options{})
	attached := 0
	var stuck *foreverStuck
	tr := &standing{name: "sticky", img: nil}
	tr.img = func() pipe.Image {
		attached++
		stuck = &foreverStuck{Image: pipetest.NewPattern(1, labDisk)}
		return stuck
	}
	opts := l.opts
	opts.Transports = &TransportOptions{Order: []string{"sticky"}, More: []Transport{rawStanding{tr}}}
	p, err := New(l.client, l.refs(), &opts)
	require.NoError(t, err)
	s, err := p.Snapshot(t.Context(), l.vm().Ref().Value, &hikae.SnapshotOptions{})
	require.NoError(t, err)
	key := s.VM().Disks[0].Key
	_, err = s.OpenDisk(t.Context(), key)
	require.NoError(t, err)
	require.Error(t, s.Release(t.Context()))
	require.Len(t, l.vm().Snapshots(), 1, "it stays while a disk of it is attached")
	err = s.Release(t.Context())
	if len(l.vm().Snapshots()) == 0 {
		t.Errorf("the snapshot was removed by the second release (%v) while its disk was still attached: closed %d times", err, stuck.tries)
	}
	stuck.free = true
	_ = s.Release(t.Context())
}

type foreverStuck struct {
	pipe.Image
	tries int
	free  bool
}

func (s *foreverStuck) Close() error {
	s.tries++
	if !s.free {
		return errors.New("stays attached")
	}
	return nil
}

// rawStanding does not count.
type rawStanding struct{ *standing }

func (r rawStanding) Open(context.Context, *Pinned) (pipe.Image, error) { return r.img(), nil }

// That a disk changed under one reader is final, also where another reader's change of transports ends after it.
func TestChangedStays(t *testing.T) {
	const size = 1 << 20
	want := pipetest.NewPattern(1, size)
	a := &standing{name: "a", img: func() pipe.Image {
		return pipetest.HookImage(want, func(_ context.Context, op *pipetest.Op) error {
			switch {
			case op.Name == "readat" && op.Off == 4096:
				return errors.New("the line broke")
			case op.Name == "readat" && op.Off == 8192:
				return &FileChangedError{"web1-flat.vmdk", "it was of yesterday"}
			}
			return nil
		})
	}}
	opening, proceed := make(chan struct{}), make(chan struct{})
	b := &standing{name: "b", img: func() pipe.Image { close(opening); <-proceed; return want }}
	img, _, err := chooserOf(t, a, b).open(t.Context(), pinnedOf(size))
	require.NoError(t, err)
	defer img.Close()
	first := make(chan error, 1)
	go func() { _, err := img.ReadAt(t.Context(), make([]byte, 512), 4096); first <- err }()
	<-opening
	_, err = img.ReadAt(t.Context(), make([]byte, 512), 8192)
	if err == nil {
		t.Fatal("no error")
	}
	close(proceed)
	select {
	case <-first:
	case <-time.After(5 * time.Second):
		t.Fatal("stuck")
	}
	n, err := img.ReadAt(t.Context(), make([]byte, 512), 0)
	var changed *FileChangedError
	require.ErrorAs(t, err, &changed, "%d bytes were read as if nothing had been", n)

}
