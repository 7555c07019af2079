package requester

import (
	"context"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/windows"

	"github.com/hikae/hikae/hyperv/helper/wire"
)

// device is that of the volume which a folder of ours lies on, standing for a shadow copy, and the folder's path on it.
func device(t *testing.T) (device, path, dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "")
	require.NoError(t, err)
	t.Cleanup(func() { os.Remove(dir) })
	f, err := os.Open(dir)
	require.NoError(t, err)
	defer f.Close()
	final, err := finalPath(windows.Handle(f.Fd()))
	require.NoError(t, err)
	parts := strings.SplitN(final, `\`, 4) // "", Device, HarddiskVolume1, rest
	require.Len(t, parts, 4, final)
	device = `\\?\GLOBALROOT\` + parts[1] + `\` + parts[2]
	if f, err := os.Open(device + `\` + parts[3]); err != nil {
		t.Skipf("this system does not open files below %s: %v", device, err)
	} else {
		f.Close()
	}
	return device, parts[3], dir
}

func TestWindowsFiles(t *testing.T) {
	s, err := System()
	require.NoError(t, err)
	device, path, dir := device(t)
	name := filepath.Join(dir, "webß.vhdx")
	require.NoError(t, os.WriteFile(name, []byte("content"), 0o600))
	defer os.Remove(name)
	ctx := t.Context()
	f, err := s.Open(ctx, device, path+`\webß.vhdx`)
	require.NoError(t, err)
	require.Equal(t, int64(7), f.Size())
	got, err := io.ReadAll(io.NewSectionReader(f, 0, 100))
	require.NoError(t, err)
	require.Equal(t, "content", string(got))
	require.NoError(t, f.Close())
	list, err := s.List(ctx, device, path)
	require.NoError(t, err)
	require.Equal(t, []Entry{{Name: "webß.vhdx", Size: 7}}, list)
	_, err = s.Open(ctx, device, path+`\none`)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = s.Open(ctx, device, path)
	require.Error(t, err, "a folder is no file")
}

// A path that leads elsewhere than into the shadow copy is not followed to its end.
func TestWindowsLeadsOut(t *testing.T) {
	s, err := System()
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "")
	require.NoError(t, err)
	defer os.Remove(dir)
	name := filepath.Join(dir, "production.vhdx")
	require.NoError(t, os.WriteFile(name, []byte("content"), 0o600))
	defer os.Remove(name)
	// As a device that is none: what is opened does not lie below its name.
	_, err = s.Open(t.Context(), `\\?\`+dir, "production.vhdx")
	require.ErrorIs(t, err, fs.ErrPermission)
}

func TestWindowsVolume(t *testing.T) {
	s, err := System()
	require.NoError(t, err)
	dir, err := windows.GetSystemWindowsDirectory()
	require.NoError(t, err)
	for _, folder := range []string{dir + `\`, dir + `\none\such\`} {
		v, err := s.Volume(t.Context(), folder)
		require.NoError(t, err, folder)
		require.Equal(t, strings.ToUpper(dir[:3]), strings.ToUpper(v.Mount))
		require.Regexp(t, `^\\\\\?\\Volume\{[0-9A-Fa-f-]{36}\}\\$`, v.Name)
	}
}

// play has the library in VSS's place (guest/agent/winsvc/winetest) write down its calls.
func play(t *testing.T, words string) (calls func() string) {
	t.Helper()
	if os.Getenv("HIKAE_FAKE_VSS") == "" {
		t.Skip("needs the fake vssapi.dll: HIKAE_FAKE_VSS is not set")
	}
	dir, err := os.MkdirTemp("", "")
	require.NoError(t, err)
	name := dir + `\calls`
	t.Setenv("HIKAE_VSS_LOG", name)
	t.Setenv("HIKAE_VSS_PLAY", words)
	t.Cleanup(func() { os.Remove(name); os.Remove(dir) })
	return func() string {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		return strings.TrimSpace(strings.ReplaceAll(string(text), "\r", ""))
	}
}

const (
	windowsMark = "abcdefghijklmnopqrstuvwxyz"
	windowsVM   = "0a1b2c3d-0000-4000-8000-0000000000a1"
)

// A whole session on the real calls: a set is made, looked at and deleted, and what a dead one left is found by its mark.
func TestWindowsSession(t *testing.T) {
	calls := play(t, "")
	dir, err := os.MkdirTemp("", "")
	require.NoError(t, err)
	defer os.Remove(dir)
	book := &DirBook{Dir: dir + `\book`}
	ours, theirs := net.Pipe()
	ended := make(chan error, 1)
	s, err := System()
	require.NoError(t, err)
	go func() { ended <- Serve(context.Background(), theirs, s, &Options{Book: book}) }()
	ask := func(call uint32, m, into wire.Message) {
		t.Helper()
		require.NoError(t, ours.SetDeadline(time.Now().Add(30*time.Second)))
		f, err := wire.Encode(call, m)
		require.NoError(t, err)
		require.NoError(t, wire.Write(ours, f))
		for f.Kind != into.Kind() {
			f, err = wire.Read(ours)
			require.NoError(t, err)
			require.NotEqual(t, wire.KindFailure, f.Kind, string(f.Payload))
		}
		require.NoError(t, wire.Decode(f, into))
	}
	ask(1, &wire.Hello{Version: wire.Version}, &wire.HelloAnswer{})
	var offered wire.ComponentsAnswer
	ask(2, &wire.Components{}, &offered)
	require.Equal(t, []wire.Component{{VM: windowsVM, Caption: `Online\web1`, Files: []string{`C:\VMs\webß.vhdx`}, Volumes: []string{`C:\`}}}, offered.Components)
	var set wire.TakeAnswer
	ask(3, &wire.Take{Mark: windowsMark, VMs: []string{windowsVM}}, &set)
	require.Equal(t, "{07070707-0707-0707-0707-070707070707}", set.ID)
	require.True(t, set.Outcomes[0].Recovered)
	sets, err := book.Sets(t.Context(), windowsMark)
	require.NoError(t, err)
	require.Len(t, sets, 1)
	ask(4, &wire.Finish{Set: set.Set, Good: []string{windowsVM}}, &wire.Done{Of: wire.KindFinish})
	ask(5, &wire.Delete{Set: set.Set}, &wire.Done{Of: wire.KindDelete})
	t.Setenv("HIKAE_VSS_PLAY", "kept")
	require.NoError(t, book.Put(t.Context(), windowsMark, ID(set.ID)))
	var swept wire.SweepAnswer
	ask(6, &wire.Sweep{Mark: windowsMark}, &swept)
	require.Equal(t, []string{set.ID}, swept.Deleted)
	ask(7, &wire.Bye{}, &wire.Done{Of: wire.KindBye})
	require.NoError(t, <-ended)
	require.NoDirExists(t, book.Dir)
	all := calls()
	for _, call := range []string{"SetBackupState 1 0 5 0", "EnableWriterClasses 1 1", "DoSnapshotSet", "SetBackupSucceeded 2 0A1B2C3D-0000-4000-8000-0000000000A1 1",
		"BackupComplete", "DeleteSnapshots 1", "SetContext -1", "Query"} {
		require.Contains(t, all, call)
	}
	require.NotContains(t, all, "BAD STATE")
	require.Equal(t, 3, strings.Count(all, "Release: 0 objects, 0 descriptions left"))
}
