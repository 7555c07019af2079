package nbd_test

import (
	"context"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/nbd"
)

func TestParseURI(t *testing.T) {
	for uri, want := range map[string]nbd.Address{
		"nbd://example.com":                             {Network: "tcp", Host: "example.com:10809"},
		"nbd://example.com/disk":                        {Network: "tcp", Host: "example.com:10809", Export: "disk"},
		"nbd://example.com//disk":                       {Network: "tcp", Host: "example.com:10809", Export: "/disk"},
		"nbd://example.com:1/hello%20world":             {Network: "tcp", Host: "example.com:1", Export: "hello world"},
		"nbd://[::1]/x":                                 {Network: "tcp", Host: "[::1]:10809", Export: "x"},
		"nbd+unix:///sda?socket=/run/a%20b.sock":        {Network: "unix", Host: "/run/a b.sock", Export: "sda"},
		"nbd+unix://?socket=s":                          {Network: "unix", Host: "s"},
		"nbds://h/x?tls-hostname=y&tls-certificates=/c": {Network: "tcp", Host: "h:10809", Export: "x", TLS: true, TLSHostname: "y", TLSCertificates: "/c"},
		"nbds+unix:///x?socket=s&tls-type=x509":         {Network: "unix", Host: "s", Export: "x", TLS: true},
	} {
		got, err := nbd.ParseURI(uri)
		require.NoError(t, err, uri)
		require.Equal(t, want, got, uri)
		again, err := nbd.ParseURI(got.String())
		require.NoError(t, err, got.String())
		require.Equal(t, want, again, got.String())
	}
	for _, uri := range []string{
		"", "nbd", "nbd:", "nbd:localhost:10809", "http://x", "nbd://", "nbd:///x", "nbd://x?socket=s", "nbd+unix:///x", "nbd+unix://h/x?socket=s",
		"nbd+unix:///x?socket=a&socket=b", "nbd://x?tls-hostname=y", "nbds://x?tls-verify-peer=0", "nbds://x?tls-type=anon", "nbds://x?tls-type=psk",
		"nbd://x?y=z", "nbd://x/%00", "nbd://x/" + strings.Repeat("a", 5000), "nbd://x/" + strings.Repeat("a", 50_000), "nbd://x#y", "nbd://%zz", "nbd://x?%zz",
	} {
		_, err := nbd.ParseURI(uri)
		require.ErrorIs(t, err, fs.ErrInvalid, uri)
	}
}

// A socket is its owner's from its first moment, takes the place of one that nobody listens on, and of nothing else.
func TestListenUnix(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("rights of sockets are those of folders here")
	}
	path := filepath.Join(socketDir(t), "s")
	l, err := nbd.Listen(t.Context(), "unix:"+path)
	require.NoError(t, err)
	fi, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), fi.Mode().Perm())
	require.Equal(t, path, l.Addr().String())
	_, err = nbd.Listen(t.Context(), "unix:"+path)
	require.ErrorIs(t, err, fs.ErrExist)
	require.NoError(t, l.Close())
	_, err = os.Stat(path)
	require.ErrorIs(t, err, fs.ErrNotExist)

	left, err := net.Listen("unix", path)
	require.NoError(t, err)
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, left.Close())
	l, err = nbd.Listen(t.Context(), "unix:"+path)
	require.NoError(t, err, "a socket that was left over")
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.WriteFile(path, []byte("mine"), 0o600))
	require.NoError(t, l.Close())
	_, err = os.Stat(path)
	require.NoError(t, err, "another file in its place stays")
	_, err = nbd.Listen(t.Context(), "unix:"+path)
	require.ErrorIs(t, err, fs.ErrExist)
	for _, bad := range []string{"unix:", "unix:" + strings.Repeat("x", 104), "unix:/no/such/folder/s", "nowhere"} {
		_, err = nbd.Listen(context.Background(), bad)
		require.Error(t, err, bad)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 1, "no folder is left")
}
