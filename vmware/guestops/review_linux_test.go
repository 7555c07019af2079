package guestops

import (
	"bytes"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hikae/hikae/guest"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"
)

// meddling calls before with each request's body, and after when it was answered.
type meddling struct {
	http.RoundTripper
	before, after func(body []byte)
}

func (m *meddling) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	if m.before != nil {
		m.before(body)
	}
	res, err := m.RoundTripper.RoundTrip(r)
	if m.after != nil {
		m.after(body)
	}
	return res, err
}

// A folder that was made and could not be closed to others goes at once; one that was filled in between is not used.
func TestFolderMeddledWith(t *testing.T) {
	h := newHost(t, small())
	c := h.open(t)
	plain := h.client.Client.Client.Transport
	defer func() { h.client.Client.Client.Transport = plain }()
	m := &meddling{RoundTripper: plain}
	h.client.Client.Client.Transport = m
	folders := func() []string {
		list, err := filepath.Glob(h.dir + "/hikae-run-*")
		require.NoError(t, err)
		return list
	}
	m.after = func(body []byte) {
		if bytes.Contains(body, []byte("<MakeDirectoryInGuest")) {
			for _, f := range folders() {
				require.NoError(t, os.WriteFile(f+"/out", nil, 0o600))
			}
		}
	}
	_, err := c.Run(soon(t), "/bin/true", nil, nil)
	require.ErrorIs(t, err, errNotEmpty)
	require.NotErrorIs(t, err, guest.ErrLeftover)
	require.Empty(t, h.left(t))

	m.after = nil
	m.before = func(body []byte) {
		if bytes.Contains(body, []byte("<ChangeFileAttributesInGuest")) {
			for _, f := range folders() {
				require.NoError(t, os.Remove(f)) // so that it fails
			}
		}
	}
	_, err = c.Run(soon(t), "/bin/true", nil, nil)
	require.Error(t, err)
	require.Empty(t, h.left(t))
}

// On Windows the guest names the folder. What is not called as we asked is neither used nor deleted.
func TestOursWindows(t *testing.T) {
	for _, f := range []string{`C:\Temp\hikae-run-a1`, `C:\Users\x\AppData\Local\Temp\HIKAE-RUN-7`} {
		require.True(t, oursWindows(f), f)
	}
	for _, f := range []string{`C:\Users`, `C:\`, `C:`, ``, `C:\hikae-run-a\x`, `C:\hikae-run-1`, `C:\x\hikae-`} {
		require.False(t, oursWindows(f), f)
	}
	p := &program{windows: true, folder: `C:\Users`}
	require.ErrorIs(t, p.remove(t.Context()), errFolder)
}

// The guest ends a program before we stop to wait for it, and we end the whole tree of it.
func TestWindowsDeadline(t *testing.T) {
	require.Equal(t, 55*time.Second, limitOf(time.Minute))
	require.Equal(t, 2*time.Second, limitOf(4*time.Second))
	require.Zero(t, limitOf(-time.Second))
	p := &program{windows: true, pid: 4711}
	spec := p.killSpec().(*types.GuestWindowsProgramSpec)
	require.Equal(t, taskkill, spec.ProgramPath)
	require.Equal(t, "/PID 4711 /T /F", spec.Arguments)
	require.Nil(t, (&program{windows: true}).killSpec())
	require.ErrorIs(t, (&program{windows: true, started: true}).kill(t.Context()), guest.ErrLeftover)
	require.NoError(t, (&program{windows: true, started: true, refused: true}).kill(t.Context()))
}

func TestDownloadBounds(t *testing.T) {
	h := newHost(t, small())
	c := h.open(t)
	require.NoError(t, c.Upload(soon(t), h.dir+"/a", []byte("abc"), 0o600))
	got, err := c.Download(soon(t), h.dir+"/a", math.MaxInt64)
	require.NoError(t, err)
	require.Equal(t, "abc", string(got))
	for _, most := range []int64{-1, math.MinInt64, 0} {
		_, err = c.Download(soon(t), h.dir+"/a", most)
		require.ErrorContains(t, err, "longer than 0")
	}
}
