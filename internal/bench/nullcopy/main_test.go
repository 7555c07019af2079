package main

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/nbd"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// Both ways read everything, and say so.
func TestCopies(t *testing.T) {
	dir := t.TempDir()
	st, err := dirstore.Init(filepath.Join(dir, "r"))
	require.NoError(t, err)
	r, err := repo.Init(t.Context(), st, nil, &repo.InitOptions{NoEncryption: true}, &repo.OpenOptions{StateDir: filepath.Join(dir, "state")})
	require.NoError(t, err)
	img := pipe.FromReaderAt(bytes.NewReader(bytes.Repeat([]byte("hikae"), 100_000)), 500_000)
	w, err := r.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	target, err := w.Disk(t.Context(), "disk0", img.Size())
	require.NoError(t, err)
	_, err = pipe.Copy(t.Context(), target, img, nil)
	require.NoError(t, err)
	require.NoError(t, target.Commit(t.Context()))
	_, err = w.Commit(t.Context(), nil)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.NoError(t, run(t.Context(), []string{filepath.Join(dir, "r"), "vm@latest", "disk0"}))
	require.Error(t, run(t.Context(), []string{filepath.Join(dir, "r"), "vm@latest", "other"}))
	require.ErrorContains(t, run(t.Context(), nil), "usage")

	socket := filepath.Join(dir, "s")
	l, err := nbd.Listen(t.Context(), "unix:"+socket)
	require.NoError(t, err)
	server, err := nbd.NewServer([]nbd.Export{{Name: "disk0", Image: img}}, nil)
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(t.Context(), l) }()
	require.NoError(t, run(t.Context(), []string{"nbd+unix:///disk0?socket=" + socket}))
	require.NoError(t, l.Close())
	<-ended
}
