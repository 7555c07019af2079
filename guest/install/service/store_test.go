package service

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/install/pack"
)

func reader(p []byte) io.Reader { return bytes.NewReader(p) }

// newStore is a store whose components are started for real.
func newStore(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := openStore(dir, []ed25519.PublicKey{signer.Public().(ed25519.PublicKey)}, func(ctx context.Context, path, version string) error {
		return tryOut(ctx, filepath.Join(dir, sessionsDir), path, version)
	})
	require.NoError(t, err)
	return s
}

func (s *Store) put(t testing.TB, f *pack.File) (replaced string, err error) {
	t.Helper()
	return s.Install(t.Context(), &f.Package, reader(f.Program))
}

// clean sees that a folder holds what counts and nothing else.
func (s *Store) clean(t testing.TB) {
	t.Helper()
	st, err := s.read()
	require.NoError(t, err)
	for dir, want := range map[string][]string{incomingDir: nil, sessionsDir: nil, componentsDir: {st.Current.Folder}} {
		list, err := os.ReadDir(filepath.Join(s.dir, dir))
		require.NoError(t, err)
		var names []string
		for _, e := range list {
			if e.Name() != stateFile && e.Name() != "trust.lock" {
				names = append(names, e.Name())
			}
		}
		if len(want) == 1 && want[0] == "" {
			want = nil
		}
		require.Equal(t, want, names, dir)
	}
}

// R133, R137: a package becomes the component; a newer one takes its place, and nothing of the old one stays.
func TestStoreInstalls(t *testing.T) {
	s := newStore(t, t.TempDir())
	version, _, err := s.Installed()
	require.NoError(t, err)
	require.Empty(t, version)

	replaced, err := s.put(t, release(t, "1.0.0"))
	require.NoError(t, err)
	require.Empty(t, replaced)
	s.clean(t)
	path, err := s.verified()
	require.NoError(t, err)
	fi, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o500), fi.Mode().Perm())

	replaced, err = s.put(t, release(t, "1.1.0"))
	require.NoError(t, err)
	require.Equal(t, "1.0.0", replaced)
	s.clean(t)
	require.NoFileExists(t, path)
	_, err = s.put(t, release(t, "1.1.0"))
	require.NoError(t, err, "the same again")
	s.clean(t)
}

// R130: what is not signed by a key that was laid down, is for another system, is not whole, goes back, or does not
// answer, leaves what was there.
func TestStoreRefuses(t *testing.T) {
	s := newStore(t, t.TempDir())
	_, err := s.put(t, release(t, "1.5.0"))
	require.NoError(t, err)
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32))

	foreign := release(t, "1.6.0")
	foreign.Signature = ed25519.Sign(other, foreign.Signed())
	changed := release(t, "1.6.0")
	changed.Version = "1.7.0"
	short := release(t, "1.6.0")
	short.Program = short.Program[:10]
	long := release(t, "1.6.0")
	long.Program = append(bytes.Clone(long.Program), '\n')
	twisted := release(t, "1.6.0")
	twisted.Program = bytes.Replace(twisted.Program, []byte("exec"), []byte("Exec"), 1)

	for name, c := range map[string]struct {
		f    *pack.File
		want error
	}{
		"signed by somebody else":    {foreign, pack.ErrSignature},
		"header changed":             {changed, pack.ErrSignature},
		"cut short":                  {short, pack.ErrContent},
		"too long":                   {long, pack.ErrContent},
		"other content":              {twisted, pack.ErrContent},
		"older":                      {release(t, "1.4.9"), pack.ErrRollback},
		"same version, other bytes":  {releaseOf(t, "1.5.0", "1.5.0 x"), pack.ErrRollback},
		"another system":             {release(t, "1.6.0", func(h *pack.Header) { h.OS = "plan9" }), pack.ErrSystem},
		"another processor":          {release(t, "1.6.0", func(h *pack.Header) { h.Arch = "mips" }), pack.ErrSystem},
		"another component":          {release(t, "1.6.0", func(h *pack.Header) { h.Name = "sshd" }), pack.ErrForm},
		"calls itself otherwise":     {releaseOf(t, "1.6.0", "1.5.9"), pack.ErrContent},
		"does not know how to start": {releaseOf(t, "1.6.0", "1.6.0 extra"), nil},
	} {
		_, err := s.put(t, c.f)
		require.Error(t, err, name)
		if c.want != nil {
			require.ErrorIs(t, err, c.want, name)
		}
		version, _, err := s.Installed()
		require.NoError(t, err)
		require.Equal(t, "1.5.0", version, name)
		s.clean(t)
	}

	// Going back is for the signer to allow, each time anew: the highest version stays the floor.
	back := release(t, "1.4.0", func(h *pack.Header) { h.Downgrade = true })
	for range 2 { // what counts already may be put there again
		_, err = s.put(t, back)
		require.NoError(t, err)
	}
	version, _, _ := s.Installed()
	require.Equal(t, "1.4.0", version)
	for _, lower := range []string{"1.3.0", "1.4.5"} {
		_, err = s.put(t, release(t, lower))
		require.ErrorIs(t, err, pack.ErrRollback)
	}
	_, err = s.put(t, release(t, "2.0.0"))
	require.NoError(t, err)
	_, err = s.put(t, back) // by whoever kept it
	require.ErrorIs(t, err, pack.ErrRollback)
}

// A component that says nothing does not hold an installation up for ever.
func TestStoreGivesUpOnTheMute(t *testing.T) {
	s := newStore(t, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	f := releaseOf(t, "1.0.0", "mute")
	_, err := s.Install(ctx, &f.Package, reader(f.Program))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	s.clean(t)
}

// Nothing of a program is read before its header is verified.
func TestStoreReadsNothingUnsigned(t *testing.T) {
	s := newStore(t, t.TempDir())
	f := release(t, "1.0.0")
	f.Signature[0] ^= 1
	_, err := s.Install(t.Context(), &f.Package, failing{t})
	require.ErrorIs(t, err, pack.ErrSignature)
}

type failing struct{ t *testing.T }

func (f failing) Read([]byte) (int, error) { f.t.Error("it was read"); return 0, io.EOF }

// What was changed on the disk is not started.
func TestStoreLooksAgain(t *testing.T) {
	s := newStore(t, t.TempDir())
	_, err := s.put(t, release(t, "1.0.0"))
	require.NoError(t, err)
	_, path, err := s.Installed()
	require.NoError(t, err)
	require.NoError(t, os.Chmod(path, 0o700))
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\ntouch /tmp/never\n"), 0o700))
	_, err = s.verified()
	require.ErrorIs(t, err, pack.ErrContent)

	// Without the state nobody knows what was installed: that is said, and not taken for an empty folder.
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, componentsDir, stateFile), []byte(`{"current":`), 0o600))
	_, err = openStore(s.dir, s.signers, s.answers)
	require.Error(t, err)
	for _, evil := range []string{"../../etc", "hikae-agent-../../x", "/etc", "x"} {
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, componentsDir, stateFile),
			fmt.Appendf(nil, `{"current":{"version":"1.0.0","folder":%q,"sha256":""},"floor":"1.0.0"}`, evil), 0o600))
		_, _, err := s.Installed()
		require.Error(t, err, evil)
	}
}

// A kill at each step leaves the old component or the new one, working, and the next one removes the rest.
func TestStoreKilledAtEachStep(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, dir)
	_, err := s.put(t, release(t, "1.0.0"))
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "next"+pack.Ending)

	survived := false
	for step := 1; !survived; step++ {
		require.Less(t, step, 50)
		f := release(t, fmt.Sprintf("1.%d.0", step))
		require.NoError(t, os.WriteFile(path, append(f.Encode(), f.Program...), 0o600))
		before, _, err := s.Installed()
		require.NoError(t, err)

		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		out, err := exec.CommandContext(ctx, self, "kill", dir, path, fmt.Sprint(step)).CombinedOutput()
		cancel()
		if survived = err == nil; !survived {
			require.True(t, killed(err), "step %d: %s", step, out)
		}

		s = newStore(t, dir) // as at the next start
		s.clean(t)
		version, program, err := s.Installed()
		require.NoError(t, err)
		require.Contains(t, []string{before, f.Version}, version, "step %d", step)
		_, err = s.verified()
		require.NoError(t, err)
		require.NoError(t, tryOut(t.Context(), filepath.Join(dir, sessionsDir), program, version), "step %d", step)
	}
}

// A disk that is full at any point leaves the old component, working. It needs a file system of its own.
func TestStoreOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	smallDisk(t, dir)
	s := newStore(t, dir)
	_, err := s.put(t, release(t, "1.0.0"))
	require.NoError(t, err)

	full, installed := false, false
	for left := 0; left <= 64<<10; left += 4 << 10 {
		ballast := filepath.Join(dir, "ballast")
		fill(t, ballast, left)
		f := release(t, fmt.Sprintf("1.1.%d", left))
		_, err := s.put(t, f)
		require.NoError(t, os.Remove(ballast))
		full = full || errors.Is(err, errFull)
		installed = installed || err == nil
		s = newStore(t, dir)
		s.clean(t)
		version, path, err := s.Installed()
		require.NoError(t, err)
		require.NoError(t, tryOut(t.Context(), filepath.Join(dir, sessionsDir), path, version), "%d bytes left", left)
	}
	require.True(t, full, "the disk was never full")
	require.True(t, installed, "it was always full")
}

// fill fills a file system but for so many bytes.
func fill(t *testing.T, path string, left int) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	page := make([]byte, 4<<10)
	for err == nil {
		_, err = f.Write(page)
	}
	require.ErrorIs(t, err, errFull)
	fi, err := f.Stat()
	require.NoError(t, err)
	require.NoError(t, f.Truncate(max(0, fi.Size()-int64(left))))
}
