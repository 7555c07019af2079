package nfsserve

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// once fails one Accept as a system does that is out of descriptors for a moment.
type once struct {
	net.Listener
	first sync.Once
}

func (l *once) Accept() (c net.Conn, err error) {
	l.first.Do(func() {
		err = &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	})
	if err != nil {
		return nil, err
	}
	return l.Listener.Accept()
}

// A moment without descriptors does not take the datastore from the VMs that run from it.
func TestAcceptFailsOnce(t *testing.T) {
	img, _ := point(1)
	s, err := New([]Disk{{Name: "web1", Image: img, Identity: "p"}}, &Options{Folder: t.TempDir()})
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(context.Background(), &once{Listener: l}) }()
	select {
	case err := <-ended:
		t.Errorf("the server ended for good: %v", err)
		require.NoError(t, s.Close())
	case <-time.After(time.Second):
		require.NoError(t, s.Close())
		<-ended
	}
}

// What is written after a line that was torn by a power cut is not lost with it.
func TestLivesAfterATornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lives")
	require.NoError(t, os.WriteFile(path, []byte("5 1\n77"), 0o600)) // "77 1\n" was cut
	l, err := openLives(path)
	require.NoError(t, err)
	require.NoError(t, l.end(9))
	again, err := openLives(path)
	require.NoError(t, err)
	require.EqualValues(t, 1, again.of(9), "after the next start handles of the removed file 9 are good again")
}

// A folder of more files than are listed at once must not look as if the rest did not exist.
func TestLongFolder(t *testing.T) {
	s := serve(t, t.TempDir(), nil)
	const n = 4200
	for i := range n {
		require.NoError(t, s.Server.share.root.WriteFile(fmt.Sprintf("f%05d", i), nil, 0o600))
	}
	names, err := s.Server.share.ReadDir(".")
	require.ErrorIs(t, err, syscall.EFBIG, "%d of %d names", len(names), n)
}

// A folder that could not be removed, because it is not empty, is still what its handle says.
func TestFailedRemovalKeepsHandles(t *testing.T) {
	s := serve(t, t.TempDir(), nil)
	require.NoError(t, s.Server.share.root.Mkdir("vm", 0o700))
	require.NoError(t, s.Server.share.root.WriteFile("vm/a", nil, 0o600))
	dir, _, err := s.lookup(s.dir, "vm")
	require.NoError(t, err)
	_, err = s.nfs(13, xdr(s.dir, "vm"))
	require.Error(t, err)
	_, _, err = s.lookup(dir, "a")
	require.NoError(t, err, "the folder is there, and its handle is stale")
}
