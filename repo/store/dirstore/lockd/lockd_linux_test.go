package lockd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/repo/store/dirstore/lockd/lockline"
)

const user = 64123 // nobody has it

func TestMain(m *testing.M) {
	if role := os.Getenv("LOCKD_TEST_ROLE"); role != "" {
		if err := roles[role](os.Getenv("LOCKD_TEST_DIR")); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// roles are what this binary does as another process.
var roles = map[string]func(dir string) error{
	"create":    create,
	"lock":      lock,
	"attack":    attack,
	"replace":   replaceFolders,
	"unlocked":  removeOwn,
	"capless":   capless,
	"forbidden": forbidden,
	"open":      openForWriting,
	"die":       die,
}

func play(t testing.TB, role, dir string, uid uint32, env ...string) error {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	// The binary lies where only its maker may look.
	exe := filepath.Join(dir, "..", "bin")
	if _, err := os.Stat(exe); err != nil {
		self, err := os.Executable()
		require.NoError(t, err)
		data, err := os.ReadFile(self)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(exe, data, 0o755))
	}
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), "LOCKD_TEST_ROLE="+role, "LOCKD_TEST_DIR="+dir)
	cmd.Env = append(cmd.Env, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", role, err, out)
	}
	return nil
}

func create(dir string) error {
	st, err := dirstore.Open(dir)
	if err != nil {
		return err
	}
	defer st.Close()
	for _, name := range []string{"header", "pack/7f/a", "pack/7f/b"} {
		if err := st.Create(context.Background(), name, []byte("content of "+name)); err != nil {
			return err
		}
	}
	return nil
}

func lock(dir string) error {
	st, err := dirstore.Open(dir)
	if err != nil {
		return err
	}
	defer st.Close()
	ctx := context.Background()
	if can, err := st.CanLock(ctx); err != nil || !can {
		return fmt.Errorf("no locks: %w", err)
	}
	now, err := st.Now(ctx)
	if err != nil {
		return err
	}
	if err := store.LockAll(ctx, st, []string{"header", "pack/7f/a"}, now.Add(time.Hour)); err != nil {
		return err
	}
	if err := st.Lock(ctx, "pack/7f/a", now.Add(time.Minute)); err != nil { // changes nothing
		return err
	}
	until, err := st.Locked(ctx, "pack/7f/a")
	if err != nil || until.Before(now.Add(time.Hour)) {
		return fmt.Errorf("locked until %v, not for an hour from %v: %w", until, now, err)
	}
	if free, err := st.Locked(ctx, "pack/7f/b"); err != nil || !free.IsZero() {
		return fmt.Errorf("what nobody locked is locked until %v: %w", free, err)
	}
	for name, want := range map[string]error{"pack/none": fs.ErrNotExist, "header/x": store.ErrForeign} {
		if err := st.Lock(ctx, name, now.Add(time.Hour)); !errors.Is(err, want) {
			return fmt.Errorf("lock %s: %v, not %v", name, err, want)
		}
	}
	if err := st.Lock(ctx, "pack/7f/b", now.Add(401*24*time.Hour)); !errors.Is(err, fs.ErrInvalid) {
		return fmt.Errorf("longer than allowed: %v", err)
	}
	if err := st.Remove(ctx, "pack/7f/a"); !errors.Is(err, store.ErrLocked) || !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("remove: %v", err)
	}
	if err := st.Mend(ctx, "pack/7f/a", []byte("other")); !errors.Is(err, store.ErrLocked) {
		return fmt.Errorf("mend: %v", err)
	}
	return nil
}

// attack is what the owner of the files tries with them. Each must fail.
func attack(dir string) error {
	a := filepath.Join(dir, "pack/7f/a")
	other := filepath.Join(dir, "mine")
	if err := os.WriteFile(other, []byte("x"), 0o600); err != nil {
		return err
	}
	tries := map[string]func() error{
		"remove":         func() error { return os.Remove(a) },
		"rename":         func() error { return os.Rename(a, a+"x") },
		"rename over":    func() error { return os.Rename(other, a) },
		"truncate":       func() error { return os.Truncate(a, 0) },
		"write":          func() error { return os.WriteFile(a, []byte("x"), 0o600) },
		"link":           func() error { return os.Link(a, a+"x") },
		"mode":           func() error { return os.Chmod(a, 0o777) },
		"times":          func() error { return os.Chtimes(a, time.Now(), time.Now()) },
		"rename folder":  func() error { return os.Rename(filepath.Dir(a), filepath.Dir(a)+"x") },
		"rename upper":   func() error { return os.Rename(filepath.Join(dir, "pack"), filepath.Join(dir, "packx")) },
		"rename all":     func() error { return os.Rename(dir, dir+"x") },
		"remove all":     func() error { return os.RemoveAll(filepath.Join(dir, "pack/7f/a")) },
		"mode of folder": func() error { return os.Chmod(filepath.Dir(a), 0o700) },
		"folder over": func() error {
			return unix.Renameat2(unix.AT_FDCWD, other, unix.AT_FDCWD, filepath.Join(dir, "pack"), unix.RENAME_EXCHANGE)
		},
		"replace socket": func() error { return os.Remove(filepath.Join(dir, lockline.Socket)) },
		"clear flag": func() error {
			f, err := os.Open(a)
			if err != nil {
				return nil // it must be readable: a success is what fails here
			}
			defer f.Close()
			return setFlag(int(f.Fd()), false)
		},
	}
	for what, try := range tries {
		if err := try(); err == nil {
			return fmt.Errorf("%s succeeded", what)
		}
	}
	return nil
}

// replaceFolders is tried where nothing is locked yet: an object goes away together with its folder.
func replaceFolders(dir string) error {
	return os.Rename(filepath.Join(dir, "pack"), filepath.Join(dir, "packx"))
}

func removeOwn(dir string) error {
	st, err := dirstore.Open(dir)
	if err != nil {
		return err
	}
	defer st.Close()
	ctx := context.Background()
	return errors.Join(st.Remove(ctx, "pack/7f/b"), st.Create(ctx, "pack/7f/c", []byte("c")), st.Create(ctx, "pack/80/d", []byte("d")), st.Remove(ctx, "pack/80/d"))
}

// capless is root without the one right.
func capless(dir string) error {
	f, err := os.Open(filepath.Join(dir, "pack/7f/a"))
	if err != nil {
		return err
	}
	defer f.Close()
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return err
	}
	for _, set := range []*uint32{&data[0].Effective, &data[0].Permitted, &data[0].Inheritable} {
		*set &^= 1 << unix.CAP_LINUX_IMMUTABLE
	}
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return err
	}
	if err := setFlag(int(f.Fd()), false); !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("cleared: %v", err)
	}
	if err := os.Remove(f.Name()); !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("removed: %v", err)
	}
	return nil
}

// forbidden is another user, root too: the helper does not answer it.
func forbidden(dir string) error {
	c, err := net.Dial("unix", filepath.Join(dir, lockline.Socket))
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	line, err := io.ReadAll(c)
	if err == nil && !strings.HasPrefix(string(line), "no denied ") {
		err = fmt.Errorf("it answered %q", line)
	}
	return err
}

// openForWriting asks for a lock of a file that it can still write to.
func openForWriting(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "header"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	until := time.Now().Add(time.Hour).Unix()
	_, err = lockline.Ask(context.Background(), dir, lockline.Request{Verb: "lock", Until: until, Name: "header"})
	if !errors.Is(err, lockline.ErrBusy) {
		return fmt.Errorf("a file that is open for writing was locked: %v", err)
	}
	if _, err := f.WriteAt([]byte("C"), 0); err != nil {
		return fmt.Errorf("it stayed immutable: %w", err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	_, err = lockline.Ask(context.Background(), dir, lockline.Request{Verb: "lock", Until: until, Name: "header"})
	return err
}

// die is a helper that is killed at a step of its work.
func die(dir string) error {
	k, err := Open(context.Background(), dir, filepath.Join(dir, "..", "book"), user, user, nil)
	if err != nil {
		return err
	}
	k.step = func(at string) {
		if at == os.Getenv("LOCKD_TEST_STEP") {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	if os.Getenv("LOCKD_TEST_STEP") == "cleared" {
		_, err := k.Lock("pack/7f/a", k.Now()+1)
		if err != nil {
			return err
		}
		time.Sleep(2100 * time.Millisecond)
		return k.tick()
	}
	_, err = k.Lock("pack/7f/a", k.Now()+3600)
	return err
}

// place is a folder on an ext4 of its own, with an object of the user.
func place(t *testing.T) (dir string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts a file system and makes files immutable")
	}
	for _, program := range []string{"mkfs.ext4", "mount", "umount"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("needs " + program)
		}
	}
	// Not below the test's own folder, which other users may not enter.
	top, err := os.MkdirTemp("/tmp", "lockd")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(top)) })
	require.NoError(t, os.Chmod(top, 0o755))
	image, at := filepath.Join(top, "image"), filepath.Join(top, "at")
	require.NoError(t, os.Mkdir(at, 0o755))
	f, err := os.Create(image)
	require.NoError(t, err)
	require.NoError(t, errors.Join(f.Truncate(96<<20), f.Close()))
	run := func(args ...string) ([]byte, error) {
		ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
		defer stop()
		return exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	}
	out, err := run("mkfs.ext4", "-q", "-F", image)
	require.NoError(t, err, string(out))
	if out, err := run("mount", "-o", "loop", image, at); err != nil {
		t.Skipf("needs a loop mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		out, err := run("umount", at)
		require.NoError(t, err, string(out))
	})
	dir = filepath.Join(at, "repo")
	require.NoError(t, os.Mkdir(dir, 0o755))
	require.NoError(t, os.Chown(dir, user, user))
	require.NoError(t, play(t, "create", dir, user))
	return dir
}

func serve(t *testing.T, dir string, opts *Options) (k *Keeper, stop func()) {
	t.Helper()
	k, err := Open(t.Context(), dir, filepath.Join(dir, "..", "book"), user, user, opts)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- k.Serve(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		require.NoError(t, err)
	}
	var once atomic.Bool
	stop = func() {
		if once.CompareAndSwap(false, true) {
			cancel()
			assert.NoError(t, <-ended)
			assert.NoError(t, k.Close())
		}
	}
	t.Cleanup(stop)
	return k, stop
}

func flagged(t *testing.T, dir, name string) bool {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, name))
	require.NoError(t, err)
	defer f.Close()
	on, err := getFlag(int(f.Fd()))
	require.NoError(t, err)
	return on
}

// The backup user locks what it wrote and cannot take it away by any way that the owner of files and folders has.
func TestTheUserCannot(t *testing.T) {
	dir := place(t)
	_, stop := serve(t, dir, nil)
	require.NoError(t, play(t, "lock", dir, user))
	require.NoError(t, play(t, "attack", dir, user))
	require.NoError(t, play(t, "capless", dir, 0))
	require.NoError(t, play(t, "forbidden", dir, user+1))
	require.NoError(t, play(t, "forbidden", dir, 0))
	require.NoError(t, play(t, "unlocked", dir, user), "what is not locked is the user's as before")
	stop()
	require.NoError(t, play(t, "attack", dir, user, "HELPER=gone"), "without the helper too")
}

// What the folders are taken over for: before, their owner moves them.
func TestFoldersBefore(t *testing.T) {
	dir := place(t)
	require.NoError(t, play(t, "replace", dir, user))
}

func TestOpenForWriting(t *testing.T) {
	dir := place(t)
	serve(t, dir, nil)
	require.NoError(t, play(t, "open", dir, user))
	require.True(t, flagged(t, dir, "header"))
}

// A lock ends by itself, and not before an extension has.
func TestItEnds(t *testing.T) {
	dir := place(t)
	k, _ := serve(t, dir, &Options{Every: 100 * time.Millisecond})
	_, err := k.Lock("pack/7f/a", k.Now()+2)
	require.NoError(t, err)
	_, err = k.Lock("pack/7f/b", k.Now()+2)
	require.NoError(t, err)
	_, err = k.Lock("pack/7f/b", k.Now()+3600)
	require.NoError(t, err)
	require.Eventually(t, func() bool { at, err := k.Locked("pack/7f/a"); return err == nil && at == 0 }, 10*time.Second, 50*time.Millisecond)
	require.False(t, flagged(t, dir, "pack/7f/a"))
	require.True(t, flagged(t, dir, "pack/7f/b"))
}

// Killed at each step: what it answered for is locked after the next start, and nothing is locked without a date.
func TestKilled(t *testing.T) {
	dir := place(t)
	for _, step := range []string{"opened", "written", "flagged", "locked", "cleared"} {
		err := play(t, "die", dir, 0, "LOCKD_TEST_STEP="+step)
		require.ErrorContains(t, err, "killed", step)
		k, err := Open(t.Context(), dir, filepath.Join(dir, "..", "book"), user, user, nil)
		require.NoError(t, err, step)
		at, err := k.Locked("pack/7f/a")
		require.NoError(t, err)
		assert.Equal(t, step == "written" || step == "flagged" || step == "locked", at > 0, step)
		assert.Equal(t, at > 0, flagged(t, dir, "pack/7f/a"), step)
		if at > 0 { // its time comes
			require.NoError(t, k.release("pack/7f/a", at))
		}
		require.False(t, flagged(t, dir, "pack/7f/a"))
		require.NoError(t, k.Close())
	}
}

// What is immutable without a date, because the book was lost, gets one.
func TestBookLost(t *testing.T) {
	dir := place(t)
	k, stop := serve(t, dir, nil)
	_, err := k.Lock("header", k.Now()+3600)
	require.NoError(t, err)
	stop()
	require.NoError(t, os.Remove(filepath.Join(dir, "..", "book", bookName)))
	var said []string
	k, _ = serve(t, dir, &Options{Adopt: 48 * time.Hour, Log: func(s string) { said = append(said, s) }})
	at, err := k.Locked("header")
	require.NoError(t, err)
	assert.InDelta(t, k.Now()+48*3600, at, 60)
	assert.Len(t, said, 1)
}

// Things that are no objects, and places where the user rules.
func TestRefused(t *testing.T) {
	dir := place(t)
	k, _ := serve(t, dir, nil)
	outside := filepath.Join(dir, "..", "outside")
	require.NoError(t, os.WriteFile(outside, nil, 0o600))
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "link")))
	require.NoError(t, os.Symlink("..", filepath.Join(dir, "up")))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	for _, name := range []string{"link", "up/outside", "pipe", "pack"} {
		_, err := k.Lock(name, k.Now()+60)
		require.ErrorIs(t, err, store.ErrForeign, name)
	}
	for _, name := range []string{"../outside", "/etc/passwd", "", ".lockd"} {
		_, err := k.Lock(name, k.Now()+60)
		require.ErrorIs(t, err, fs.ErrInvalid, name)
	}
	_, err := k.Lock("header", k.Now())
	require.ErrorIs(t, err, fs.ErrInvalid)
	_, err = Open(t.Context(), dir, filepath.Join(dir, "..", "book2"), 0, 0, nil)
	require.ErrorIs(t, err, fs.ErrInvalid)
	theirs := filepath.Join(dir, "..", "theirs")
	require.NoError(t, os.MkdirAll(filepath.Join(theirs, "repo"), 0o755))
	require.NoError(t, os.Chown(theirs, user, user))
	_, err = Open(t.Context(), filepath.Join(theirs, "repo"), filepath.Join(dir, "..", "book2"), user, user, nil)
	require.ErrorIs(t, err, fs.ErrPermission, "the user can move the repository")
	_, err = Open(t.Context(), dir, filepath.Join(theirs, "book"), user, user, nil)
	require.ErrorIs(t, err, fs.ErrPermission, "the user can move the book")
	_, err = Open(t.Context(), dir, filepath.Join(dir, "..", "book"), user, user, nil)
	require.ErrorContains(t, err, "another helper")
}
