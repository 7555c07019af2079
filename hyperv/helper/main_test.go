package helper

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/helper/requester"
	"github.com/hikae/hikae/hyperv/helper/requester/requestertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	web1 = "0a1b2c3d-0000-4000-8000-0000000000a1"
	mark = "abcdefghijklmnopqrstuvwxyz"
	disk = `C:\VMs\web1.vhdx`
)

// machine is a host with one VM, whose disk has that many bytes.
func machine(t testing.TB, size int) (*requestertest.Service, []byte) {
	t.Helper()
	dir := t.TempDir()
	content := make([]byte, size)
	noise := rand.NewChaCha8([32]byte{1})
	_, err := noise.Read(content)
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "VMs"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "VMs", "web1.vhdx"), content, 0o600))
	return &requestertest.Service{Volumes: map[string]string{`C:\`: dir}, VMs: []requester.Component{
		{Type: requester.FileGroup, Name: web1, Caption: `Online\web1`, Files: []requester.FileSet{{Path: `C:\VMs`, Spec: "web1.vhdx"}}}}}, content
}

// dial starts a helper in this process, and speaks to it.
func dial(t testing.TB, s *requestertest.Service, opts *DialOptions) (*Requester, func() error) {
	t.Helper()
	ours, theirs := net.Pipe()
	ended := make(chan error, 1)
	book := &requester.DirBook{Dir: filepath.Join(t.TempDir(), "book")}
	go func() {
		ended <- requester.Serve(context.WithoutCancel(t.Context()), theirs, s, &requester.Options{Book: book, Host: "HV1", Tick: 10 * time.Millisecond})
	}()
	r, err := Dial(t.Context(), ours, opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r, func() error { return <-ended }
}

func request() hyperv.SetRequest { return hyperv.SetRequest{Mark: mark, VMs: []string{web1}} }

func take(t testing.TB, r *Requester) hyperv.Set {
	t.Helper()
	set, err := r.Take(t.Context(), request())
	require.NoError(t, err)
	return set
}

// whole reads an image.
func whole(t testing.TB, set hyperv.Set, content []byte) {
	t.Helper()
	img, err := set.Open(t.Context(), disk)
	require.NoError(t, err)
	require.Equal(t, int64(len(content)), img.Size())
	got := make([]byte, len(content)+1)
	n, err := img.ReadAt(t.Context(), got, 0)
	require.ErrorIs(t, err, io.EOF)
	require.True(t, bytes.Equal(content, got[:n]))
	require.NoError(t, img.Close())
	require.NoError(t, img.Close())
}
