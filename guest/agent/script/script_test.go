//go:build unix

package script

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/guest/agent/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// place is a runner over a folder of this test's, and the log that its scripts write to.
func place(t *testing.T) (r *Runner, dir, log string) {
	t.Helper()
	root := t.TempDir()
	dir, log = filepath.Join(root, "freeze.d"), filepath.Join(root, "log")
	require.NoError(t, os.Mkdir(dir, 0o755))
	return New(&Options{
		Folders: []Folder{{Path: dir}},
		Singles: []Single{{filepath.Join(root, "pre"), Freeze}, {filepath.Join(root, "post"), Thaw}},
		Owner:   os.Getuid(),
	}), dir, log
}

func put(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o600))
	require.NoError(t, os.Chmod(path, mode))
}

func logged(t *testing.T, log string) []string {
	t.Helper()
	text, err := os.ReadFile(log)
	require.NoError(t, err)
	return strings.Fields(string(text))
}

func TestPhases(t *testing.T) {
	t.Parallel()
	r, dir, log := place(t)
	for _, name := range []string{"20-b", "10-a", ".hidden", "30-c.dpkg-old", "edited~"} {
		put(t, filepath.Join(dir, name), fmt.Sprintf("echo %s:$1 >>%s; echo said", name, log), 0o755)
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "folder"), 0o755))
	put(t, filepath.Join(dir, "../pre"), fmt.Sprintf("echo pre:$# >>%s", log), 0o700)
	put(t, filepath.Join(dir, "../post"), fmt.Sprintf("echo post:$# >>%s", log), 0o700)
	require.Len(t, r.List(), 4)
	for _, phase := range []string{Freeze, Thaw, FreezeFail} {
		results, err := r.Run(t.Context(), phase, 10_000)
		require.NoError(t, err)
		require.Len(t, results, 3)
		for _, res := range results {
			require.Equal(t, phase, res.Phase)
			require.Zero(t, res.ExitCode, res)
			require.Empty(t, res.Problem)
		}
	}
	require.Equal(t, []string{
		"10-a:freeze", "20-b:freeze", "pre:0",
		"post:0", "20-b:thaw", "10-a:thaw",
		"post:0", "20-b:freezeFail", "10-a:freezeFail"}, logged(t, log))
}

// R194's other side: a script before the freeze that fails is a veto, and what it said is told.
func TestVeto(t *testing.T) {
	t.Parallel()
	r, dir, log := place(t)
	put(t, filepath.Join(dir, "10-a"), "echo the database is busy >&2; exit 3", 0o755)
	put(t, filepath.Join(dir, "20-b"), "echo ran >>"+log, 0o755)
	results, err := r.Run(t.Context(), Freeze, 10_000)
	var f *wire.Failure
	require.ErrorAs(t, err, &f)
	require.Equal(t, wire.CodeVeto, f.Code)
	require.Contains(t, f.Message, "the database is busy")
	require.Contains(t, f.Message, "10-a: it ended with 3")
	require.Len(t, results, 1)
	require.Equal(t, 3, results[0].ExitCode)
	require.NoFileExists(t, log, "the next one is not run")
	results, err = r.Run(t.Context(), Thaw, 10_000)
	require.NoError(t, err, "after a thaw all are run")
	require.Len(t, results, 2)
	require.FileExists(t, log)
}

// A script that runs too long goes with its children, also those that hold its output open.
func TestTooLong(t *testing.T) {
	t.Parallel()
	r, dir, log := place(t)
	put(t, filepath.Join(dir, "10-a"), "(sleep 3; echo late >>"+log+") & sleep 60", 0o755)
	start := time.Now()
	results, err := r.Run(t.Context(), Freeze, 300)
	require.Error(t, err)
	require.Contains(t, results[0].Problem, "longer than 300ms")
	require.Less(t, time.Since(start), 2500*time.Millisecond)
	time.Sleep(time.Until(start.Add(3500 * time.Millisecond)))
	require.NoFileExists(t, log, "its child was killed")
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	r, dir, _ := place(t)
	put(t, filepath.Join(dir, "10-a"), "sleep 60", 0o755)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	results, err := r.Run(ctx, Freeze, 60_000)
	require.Error(t, err)
	require.Contains(t, results[0].Problem, "it was stopped")
}

// A child that went its own way and holds the output does not hold us.
func TestBackground(t *testing.T) {
	t.Parallel()
	r, dir, _ := place(t)
	put(t, filepath.Join(dir, "10-a"), "sleep 4 & echo done", 0o755)
	start := time.Now()
	results, err := r.Run(t.Context(), Freeze, 30_000)
	require.NoError(t, err)
	require.Equal(t, "done\n", results[0].Output)
	require.Less(t, time.Since(start), 3*time.Second)
}

func TestOutput(t *testing.T) {
	t.Parallel()
	r, dir, _ := place(t)
	put(t, filepath.Join(dir, "10-a"), "head -c 5000000 /dev/zero | tr '\\0' x; printf '\\377' >&2", 0o755)
	results, err := r.Run(t.Context(), Freeze, 30_000)
	require.NoError(t, err)
	require.Len(t, results[0].Output, maxOutput)
	require.True(t, results[0].Truncated)
	put(t, filepath.Join(dir, "10-a"), "env; cat", 0o755)
	t.Log(os.Getenv("PATH"))
	results, err = r.Run(t.Context(), Freeze, 30_000)
	require.NoError(t, err, "its input is empty")
	require.NotContains(t, results[0].Output, "GOPATH")
	require.Contains(t, results[0].Output, "HOME=/root")
}

// What anybody but root could have written is not run as root. Before a freeze that is a veto.
func TestTrust(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, dir, path string){
		"group":  func(t *testing.T, _, path string) { require.NoError(t, os.Chmod(path, 0o775)) },
		"others": func(t *testing.T, _, path string) { require.NoError(t, os.Chmod(path, 0o757)) },
		"folder": func(t *testing.T, dir, _ string) { require.NoError(t, os.Chmod(dir, 0o777)) },
		"dangling": func(t *testing.T, dir, path string) {
			require.NoError(t, os.Rename(path, dir+"/../gone"))
			require.NoError(t, os.Symlink("nowhere", path))
		},
		"link to others": func(t *testing.T, dir, path string) {
			open := filepath.Join(dir, "..", "open")
			require.NoError(t, os.Mkdir(open, 0o700))
			require.NoError(t, os.Rename(path, filepath.Join(open, "s")))
			require.NoError(t, os.Chmod(open, 0o777))
			require.NoError(t, os.Symlink(filepath.Join(open, "s"), path))
		},
		"owner": func(t *testing.T, _, path string) {
			if os.Getuid() != 0 {
				t.Skip("needs root: it gives a file away")
			}
			require.NoError(t, os.Chown(path, 65534, 65534))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, dir, log := place(t)
			path := filepath.Join(dir, "10-a")
			put(t, path, "echo ran >>"+log, 0o755)
			spoil(t, dir, path)
			results, err := r.Run(t.Context(), Freeze, 10_000)
			var f *wire.Failure
			require.ErrorAs(t, err, &f)
			require.Equal(t, wire.CodeVeto, f.Code)
			require.Contains(t, results[0].Problem, "it was not run")
			require.NoFileExists(t, log)
		})
	}
}

// What hook folders hold besides scripts is passed over, and keeps no guest from a freeze.
func TestNoScripts(t *testing.T) {
	t.Parallel()
	r, dir, log := place(t)
	put(t, filepath.Join(dir, "README"), "echo ran >>"+log, 0o644)
	for _, name := range []string{"a.bk", "a.rpmorig", "a~", ".hidden"} {
		put(t, filepath.Join(dir, name), "echo ran >>"+log, 0o755)
	}
	require.NoError(t, os.Symlink("/dev/null", filepath.Join(dir, "disabled")))
	results, err := r.Run(t.Context(), Freeze, 10_000)
	require.NoError(t, err)
	require.Empty(t, results)
	require.Empty(t, r.List())
	require.NoFileExists(t, log)
}

// A folder whose scripts cannot be known is a veto before a freeze, and said after a thaw.
func TestUnreadableFolder(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	r := New(&Options{Folders: []Folder{{Path: file}}})
	_, err := r.Run(t.Context(), Freeze, 10_000)
	var f *wire.Failure
	require.ErrorAs(t, err, &f)
	require.Equal(t, wire.CodeVeto, f.Code)
	require.Contains(t, f.Message, file)
	results, err := r.Run(t.Context(), Thaw, 10_000)
	require.NoError(t, err)
	require.Len(t, results, 1)
	require.Contains(t, results[0].Problem, file)
}

func TestTooMany(t *testing.T) {
	t.Parallel()
	r, dir, _ := place(t)
	for i := range maxScripts + 1 {
		put(t, filepath.Join(dir, fmt.Sprint(i)), "", 0o755)
	}
	_, err := r.Run(t.Context(), Freeze, 10_000)
	require.ErrorContains(t, err, "65 scripts")
}

func TestNoPlaces(t *testing.T) {
	t.Parallel()
	r := New(&Options{Folders: []Folder{{Path: filepath.Join(t.TempDir(), "none")}}})
	results, err := r.Run(t.Context(), Freeze, 10_000)
	require.NoError(t, err)
	require.Empty(t, results)
	require.Empty(t, r.List())
	require.NotEmpty(t, New(nil).opts.Folders)
	require.True(t, New(nil).opts.Folders[2].NoFail)
	require.Equal(t, Thaw, New(nil).opts.Folders[2].argument(FreezeFail))
}
