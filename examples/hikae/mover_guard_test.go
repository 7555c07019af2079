package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// Whoever can write to a store puts another repository's header into one of its places. The mover then serves nobody: it
// must not let in who is enrolled at the other repository (R181).
func TestServeRefusesForeignHeader(t *testing.T) {
	m, dir := newMachine(t), t.TempDir()
	mine, other := filepath.Join(dir, "mine"), filepath.Join(dir, "other")
	m.must(t, "init", "--no-encryption", mine)
	m.must(t, "init", "--no-encryption", other)
	for _, place := range []string{"header", "copy1/header", "copy2/header"} {
		t.Run(place, func(t *testing.T) {
			was := readFile(t, filepath.Join(mine, place))
			put(t, filepath.Join(mine, place), readFile(t, filepath.Join(other, place)))
			defer put(t, filepath.Join(mine, place), was)
			for _, args := range [][]string{{"serve", "--listen", "127.0.0.1:0"}, {"token", "site-a"}, {"list"}, {"revoke", "site-a"}} {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				tl, out := m.tool()
				status := tl.run(ctx, append(append([]string{"mover"}, args...), "--repo", mine))
				require.NoError(t, ctx.Err())
				cancel()
				require.Equal(t, outcome.Damaged, status, "%v: %s", args, out)
				require.Contains(t, out.String(), idOf(t, m, other), "both are named")
			}
		})
	}
	m.must(t, "mover", "list", "--repo", mine)
}

func idOf(t *testing.T, m *machine, folder string) string {
	t.Helper()
	tl, _ := m.tool()
	id, err := tl.identify(t.Context(), folder)
	require.NoError(t, err)
	return id
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return data
}

// put writes over a file of a store, which are read-only.
func put(t *testing.T, path string, data []byte) {
	t.Helper()
	require.NoError(t, os.Chmod(path, 0o600))
	require.NoError(t, os.WriteFile(path, data, 0o600))
}

// A book is that of a folder, by whatever link the folder is reached.
func TestBlindFolderByLink(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("links need a privilege on Windows")
	}
	tl, _ := newMachine(t).tool()
	dir := t.TempDir()
	require.NoError(t, os.Symlink(dir, filepath.Join(dir, "link")))
	want, err := (&served{repo: filepath.Join(dir, "vault"), blind: true}).dir(t.Context(), tl)
	require.NoError(t, err)
	got, err := (&served{repo: filepath.Join(dir, "link", "vault"), blind: true}).dir(t.Context(), tl)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// A writer's key has its name only when it is whole: what breaks off leaves no file that the next one trips over, and
// what is there stays.
func TestKeyWriterIsWholeOrAbsent(t *testing.T) {
	m, dir := newMachine(t), t.TempDir()
	r, out := filepath.Join(dir, "r"), filepath.Join(dir, "w.key")
	m.env["HIKAE_PASSWORD"] = "secret"
	m.must(t, "init", r)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	tl, _ := m.tool()
	require.NotZero(t, tl.run(ctx, []string{"key", "writer", "--repo", r, "--vm", "web1", "--out", out}))
	require.Equal(t, []string{"r"}, names(t, dir))
	require.ErrorIs(t, createWhole(out, func() ([]byte, error) {
		require.NoFileExists(t, out)
		return nil, io.ErrUnexpectedEOF
	}), io.ErrUnexpectedEOF)
	require.Equal(t, []string{"r"}, names(t, dir))

	m.must(t, "key", "writer", "--repo", r, "--vm", "web1", "--out", out)
	key := readFile(t, out)
	require.True(t, strings.HasSuffix(string(key), "\n"))
	require.Equal(t, []string{"r", "w.key"}, names(t, dir))
	status, text := m.run(t, "key", "writer", "--repo", r, "--vm", "web1", "--out", out)
	require.Equal(t, outcome.Failed, status)
	require.Contains(t, text, "w.key")
	require.Equal(t, key, readFile(t, out))
}

func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// Passwords stand in no error, wherever somebody wrote them.
func TestPasswordsStayOutOfErrors(t *testing.T) {
	m := newMachine(t)
	file := filepath.Join(t.TempDir(), "credentials")
	m.env[smbCredentials] = file
	const share = "smb://127.0.0.1:1/share/x"
	for _, text := range []string{"username=u\npassword\nhunter2-secret\n", "username=u\npassword: hunter2-secret\n", "hunter2-secret"} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		for _, format := range []string{"--json", "--quiet"} {
			status, said := m.run(t, "points", "--repo", share, format)
			require.NotZero(t, status, said)
			require.NotContains(t, said, "hunter2")
			require.Contains(t, said, "line ")
		}
	}
	require.NoError(t, os.WriteFile(file, []byte("username=u\npassword=p\n"), 0o600))
	for _, place := range []string{"smb://u:hunter2-secret@127.0.0.1:1/share/x", "mover://u:hunter2-secret@127.0.0.1:1/x", "mover://u:hunter2 /secret@h/x", "smb://u:hunter2%zz@h/s"} {
		for _, args := range [][]string{{"points", "--repo", place}, {"points", "--repo", place, "--json"}, {"mover", "rotate", place}, {"mover", "enrol", place, "--writer-key", file}, {"init", place, "--json"}} {
			status, said := m.run(t, args...)
			require.NotZero(t, status)
			require.NotContains(t, said, "hunter2", "%q", args)
		}
	}
	if runtime.GOOS != "windows" {
		require.NoError(t, os.Chmod(file, 0o644))
		_, said := m.run(t, "points", "--repo", share)
		require.Contains(t, said, "chmod 600")
		require.NoError(t, os.Chmod(file, 0o600))
		_, said = m.run(t, "points", "--repo", share)
		require.NotContains(t, said, "chmod 600")
	}
}

// A service starts in another folder, and sees a device only where it is told to.
func TestInstallMakesPathsAbsolute(t *testing.T) {
	m, dir := newMachine(t), t.TempDir()
	t.Chdir(dir)
	m.must(t, "init", "--no-encryption", "r")
	for _, name := range []string{"d.raw", "limits", "token", "secret", "credentials"} {
		require.NoError(t, os.WriteFile(name, []byte("username=u\n"), 0o600))
	}
	unit := m.must(t, "mover", "install", "--print", "--listen", ":7420", "--repo", "r", "--source", "web1=d.raw", "--source", "web2=d.raw,format=raw", "--limit-file", "limits",
		"--metrics", "127.0.0.1:9", "--metrics-token-file", "token", "--metrics-file", "m.prom", "--secret", "secret")
	real, err := os.Getwd()
	require.NoError(t, err)
	for _, part := range []string{"--repo " + real + "/r ", "--source web1=" + real + "/d.raw ", "--source web2=" + real + "/d.raw,format=raw ", "--limit-file " + real + "/limits ",
		"--metrics-token-file " + real + "/token ", "--metrics-file " + real + "/m.prom ", "LoadCredential=secret:" + real + "/secret\n", "PrivateDevices=yes\n"} {
		require.Contains(t, filepath.ToSlash(unit), filepath.ToSlash(part))
	}
	status, text := m.run(t, "mover", "install", "--print", "--listen", ":7420", "--source", "web1=missing.raw")
	require.Equal(t, outcome.Failed, status, text)

	m.env[smbCredentials] = "credentials"
	unit = m.must(t, "mover", "install", "--print", "--listen", ":7420", "--repo", "smb://nas/backup")
	require.Contains(t, unit, "LoadCredential=smb:"+real+"/credentials\nEnvironment=HIKAE_SMB_CREDENTIALS=%d/smb\n")
	if fi, err := os.Stat("/dev/loop0"); err == nil && fi.Mode()&os.ModeDevice != 0 {
		require.Contains(t, m.must(t, "mover", "install", "--print", "--listen", ":7420", "--source", "d=/dev/loop0"), "PrivateDevices=no\n")
	}
}

// What a mover calls its points, and itself, does not steer the terminal.
func TestFarNamesAreCleaned(t *testing.T) {
	const evil = "\x1b]0;owned\x07"
	at, m := standHostile(t, func(req wire.Message) (wire.Message, error) {
		switch q := req.(type) {
		case *wire.Points:
			return &wire.PointList{Points: []wire.Point{{ID: evil, VM: "web1", Disks: []wire.PointDisk{{Key: "disk0", Size: 512}}}}}, nil
		case *wire.OpenDisk:
			return &wire.ImageOpened{Image: 1, Size: 512}, nil
		case *wire.ReadImage:
			return &wire.Content{Plain: q.Len, Data: make([]byte, q.Len)}, nil
		case *wire.CloseImage:
			return &wire.OK{}, nil
		case *wire.ReadBlob:
			return &wire.BlobContent{}, nil
		case *wire.Health:
			return &wire.HealthIs{Version: evil, Mode: evil, Role: evil}, nil
		}
		return nil, errors.ErrUnsupported
	}), newMachine(t)
	m.enrolled(t, at, enrolment{Name: "desk", Role: "full", Mode: "trusted"})
	place := "mover://" + at.address + "/desk"
	for _, args := range [][]string{{"points", "--repo", place}, {"restore", "--repo", place, "web1@latest", "--to", filepath.Join(t.TempDir(), "x.raw")}, {"mover", "status", place}} {
		_, text := m.run(t, args...)
		require.Contains(t, text, "owned", "%q", args)
		require.NotContains(t, text, "\x1b", "%q", args)
	}
}
