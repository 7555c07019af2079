package dirstore_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// The true system calls fail, in another process: what in-memory faults cannot show is that our calls are the ones
// that the kernel sees (RELIABILITY §2.2).
func TestSystemCallsFail(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	cases := map[string]struct {
		inject string
		role   string
		exit   int // 3: reported a failure; -1: killed
		says   string
		leaves string // "", "whole", "temp"
	}{
		"fsync of the file":                     {"fsync:error=EIO:when=2", "create", 3, "could not be made durable", ""},
		"fsync of the new folder":               {"fsync:error=EIO:when=1", "create", 3, "names in .:", ""},
		"fsync of the object's name":            {"fsync:error=EIO:when=3", "create", 3, "names in pack:", "whole"},
		"file systems that cannot sync folders": {"fsync:error=EINVAL:when=1+2", "create", 0, "", "whole"},
		"disk full":                             {"write:error=ENOSPC:when=1", "create", 3, "no space left", ""},
		"over quota":                            {"write:error=EDQUOT:when=1", "create", 3, "quota", ""},
		"a write that only says so":             {"write:retval=160000:when=1", "create", 3, "0 of 160000 bytes arrived", ""},
		"a short write that only says so":       {"write:retval=100:when=1", "create", 3, "159900 of 160000 bytes arrived", ""},
		"close":                                 {"close:error=EIO:when=%close%", "create", 0, "", "whole"},
		"close, every time":                     {"close:error=EIO:when=%close%+", "create", 3, "could not be made durable", ""},
		"old kernel, no renameat2":              {"renameat2:error=ENOSYS", "create", 0, "", "whole"},
		"no flag for rename":                    {"renameat2:error=EINVAL", "create", 0, "", "whole"},
		"neither rename nor link":               {"renameat2,linkat:error=EPERM", "create", 3, "not permitted", ""},
		"rename without flags":                  {"renameat2:error=EINVAL --inject=linkat:error=EPERM", "create", 0, "", "whole"},
		"another file system":                   {"renameat2:error=EXDEV", "create", 3, "cross-device", ""},
		"read-only":                             {"mkdirat:error=EROFS:when=1", "create", 3, "read-only", ""},
		"too many files":                        {"openat:error=EMFILE:when=%temp%+", "create", 3, "too many open files", ""},
		"killed at the rename":                  {"renameat2:signal=KILL", "create", -1, "", "temp"},
		"killed at the last fsync":              {"fsync:signal=KILL:when=3", "create", -1, "", "whole"},
		"once, and tried again":                 {"fsync:error=EIO:when=2", "twice", 0, "", ""},
	}
	if !traces(t, strace) {
		t.Skip("strace may not trace here")
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if strings.Contains(c.inject, "%") {
				c.inject = count(t, strace, c.inject)
			}
			dir := t.TempDir()
			exit, out := straced(t, strace, dir, c.role, c.inject)
			require.Equal(t, c.exit, exit, out)
			require.Contains(t, out, c.says)
			if c.exit == 3 {
				assert.Contains(t, out, errorMessage+"create pack/one: ", "the object is named")
			}
			afterwards(t, dir, c.leaves)
		})
	}
}

func traces(t *testing.T, strace string) bool {
	return exec.CommandContext(t.Context(), strace, "-o", os.DevNull, "true").Run() == nil
}

func straced(t *testing.T, strace, dir, role, inject string) (exit int, out string) {
	t.Helper()
	args := []string{strace, "-f", "-o", filepath.Join(t.TempDir(), "trace")}
	for arg := range strings.FieldsSeq("--inject=" + inject) {
		args = append(args, arg)
	}
	cmd := process(t, dir, role, args...)
	b, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(b)
}

// count replaces %temp% and %close% by the number of the call that opens and closes the unfinished file, as an
// undisturbed run makes it. Calls are counted in the one thread that does the work.
func count(t *testing.T, strace, inject string) string {
	t.Helper()
	trace := filepath.Join(t.TempDir(), "trace")
	b, err := process(t, t.TempDir(), "create", strace, "-ff", "-o", trace).CombinedOutput()
	require.NoError(t, err, string(b))
	threads, err := filepath.Glob(trace + ".*")
	require.NoError(t, err)
	for _, thread := range threads {
		lines, err := os.ReadFile(thread)
		require.NoError(t, err)
		if opened, closed := countIn(string(lines)); closed > 0 {
			return strings.NewReplacer("%temp%", fmt.Sprint(opened), "%close%", fmt.Sprint(closed)).Replace(inject)
		}
	}
	t.Fatal("the trace shows no unfinished file")
	return ""
}

func countIn(trace string) (opened, closed int) {
	opens, closes, fd := 0, 0, ""
	for line := range strings.Lines(trace) {
		switch {
		case strings.HasPrefix(line, "openat("):
			opens++
			if strings.Contains(line, "O_EXCL") {
				_, fd, _ = strings.Cut(strings.TrimSpace(line), ") = ")
				opened = opens
			}
		case strings.HasPrefix(line, "close("):
			closes++
			if fd != "" && strings.HasPrefix(line, "close("+fd+")") {
				return opened, closes
			}
		}
	}
	return 0, 0
}

// afterwards looks at the store as the next process does.
func afterwards(t *testing.T, dir, leaves string) {
	t.Helper()
	ctx := t.Context()
	st, err := dirstore.Open(dir)
	require.NoError(t, err)
	defer st.Close()
	got, err := store.ReadAll(ctx, st, "pack/one", 1<<20)
	if leaves == "whole" {
		require.NoError(t, err)
		require.Equal(t, content(), got)
	} else {
		require.ErrorIs(t, err, os.ErrNotExist)
	}
	swept, err := st.Sweep(ctx, true)
	require.NoError(t, err)
	if leaves == "temp" {
		require.Equal(t, 1, swept.Removed)
	} else {
		require.Equal(t, 0, swept.Removed, "an unfinished file stayed")
	}
	require.NoDirExists(t, filepath.Join(dir, ".tmp"))
	require.NoError(t, st.Create(ctx, "pack/next", content()))
}

// A disk that is full in the middle: the write is short, then there is no space (RELIABILITY bar 6).
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,nr_inodes=16"); err != nil {
		t.Skipf("tmpfs cannot be mounted here: %v", err)
	}
	defer func() { require.NoError(t, syscall.Unmount(dir, 0)) }()
	ctx := t.Context()
	st, err := dirstore.Open(dir)
	require.NoError(t, err)
	defer func() { require.NoError(t, st.Close()) }()
	require.NoError(t, st.Create(ctx, "pack/old", make([]byte, 400_000)))

	for range 3 {
		err = st.Create(ctx, "pack/new", make([]byte, 800_000))
		require.ErrorIs(t, err, syscall.ENOSPC)
		require.ErrorContains(t, err, "write at byte")
	}
	free, err := st.Free(ctx)
	require.NoError(t, err)
	require.Greater(t, free, int64(500_000), "nothing of the failed ones takes room")
	info, err := st.Stat(ctx, "pack/old")
	require.NoError(t, err)
	require.EqualValues(t, 400_000, info.Size)

	// To the last byte: removing still works.
	require.NoError(t, st.Create(ctx, "pack/fill", make([]byte, free&^4095-8192)))
	require.ErrorIs(t, st.Create(ctx, "pack/new", make([]byte, 100_000)), syscall.ENOSPC)
	require.NoError(t, st.Remove(ctx, "pack/fill"))

	// No inode is left: neither a folder nor a file can be made.
	for i := range 20 {
		if err = st.Create(ctx, "many/"+string(rune('a'+i)), nil); err != nil {
			break
		}
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, st.Remove(ctx, "many/a"))
	require.NoError(t, st.Create(ctx, "many/z", nil))

	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	require.ErrorIs(t, st.Create(ctx, "pack/new", nil), syscall.EROFS)
	require.ErrorIs(t, st.Remove(ctx, "pack/old"), syscall.EROFS)
	_, err = st.Probe(ctx)
	require.ErrorIs(t, err, syscall.EROFS)
	_, err = store.ReadAll(ctx, st, "pack/old", 1<<20)
	require.NoError(t, err, "reading goes on")
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, ""))
}
