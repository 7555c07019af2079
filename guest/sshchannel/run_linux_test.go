package sshchannel

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/guesttest"
	"github.com/stretchr/testify/require"
)

// wayTo is a way that knows the server.
func wayTo(h *guesttest.Host) *Way {
	return New(h.Addr, guest.Credential{User: h.User, PrivateKey: h.Key}, &Options{KnownHosts: []string{h.KnownHosts}})
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func open(t *testing.T, w *Way) *channel {
	t.Helper()
	c, err := w.Open(within(t, 20*time.Second))
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c.(*channel)
}

// R140: a guest that is not Windows is reached from here, by SSH.
func TestRun(t *testing.T) {
	t.Parallel()
	h := guesttest.SSHD(t, nil)
	f := wayTo(h).Probe(t.Context())
	require.NoError(t, f.Err())
	require.Empty(t, h.Left())
	c := open(t, wayTo(h))
	s := c.System()
	require.Equal(t, f.System, s)
	require.Equal(t, "linux", s.OS)
	require.Equal(t, h.User, s.User)
	require.Equal(t, os.Geteuid() == 0, s.Admin)
	require.Contains(t, s.Temp, "/tmp")
	require.NotEmpty(t, s.Name)

	r, err := c.Run(t.Context(), "/bin/sh", []string{"-c", `cat; echo "$1" >&2; exit 3`, "sh", "two  words"}, []byte("in\x00put"))
	require.NoError(t, err)
	require.Equal(t, "in\x00put", string(r.Stdout))
	require.Equal(t, "two  words\n", string(r.Stderr))
	require.Equal(t, 3, r.ExitCode)
	require.False(t, r.Truncated)

	r, err = c.Run(t.Context(), "/no/such", nil, nil)
	require.NoError(t, err)
	require.Equal(t, 127, r.ExitCode)

	r, err = c.Run(t.Context(), "/bin/sh", []string{"-c", "kill -9 $$"}, nil)
	require.NoError(t, err)
	require.NotZero(t, r.ExitCode)
}

// A guest that prints without end costs it its time and us a megabyte.
func TestEndlessOutput(t *testing.T) {
	t.Parallel()
	h := guesttest.SSHD(t, nil)
	c := open(t, wayTo(h))
	r, err := c.Run(t.Context(), "/usr/bin/head", []string{"-c", "20000000", "/dev/zero"}, nil)
	require.NoError(t, err)
	require.True(t, r.Truncated)
	require.Len(t, r.Stdout, maxStream)

	start := time.Now()
	_, err = c.Run(within(t, 300*time.Millisecond), "/usr/bin/yes", nil, nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(start), 3*time.Second)
	require.Eventually(t, func() bool { // it was told to end, and the connection is still good
		r, err := c.Run(t.Context(), "/bin/sh", []string{"-c", "grep -l ^yes /proc/[0-9]*/comm 2>/dev/null; true"}, nil)
		return err == nil && len(r.Stdout) == 0
	}, 5*time.Second, 50*time.Millisecond)
}

func TestFiles(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{"", "Subsystem sftp /bin/false"} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			h := guesttest.SSHD(t, &guesttest.SSHDOptions{Settings: []string{setting}})
			c := open(t, wayTo(h))
			dir := c.System().Temp[0] + "/hikae-t est's"
			require.NoError(t, c.MakeDir(t.Context(), dir))
			require.ErrorIs(t, c.MakeDir(t.Context(), dir), fs.ErrExist)
			info, err := os.Stat(h.Path(dir))
			require.NoError(t, err)
			require.Equal(t, fs.ModeDir|0o700, info.Mode())

			for _, size := range []int{0, 1, 32 << 10, 300 << 10} {
				data := bytes.Repeat([]byte("x\x00'\n"), size/4+1)[:size]
				name := dir + "/f $(id)" + strings.Repeat("i", size%7)
				require.NoError(t, c.Upload(t.Context(), name, data, 0o700))
				require.ErrorIs(t, c.Upload(t.Context(), name, []byte("other"), 0o700), fs.ErrExist)
				got, err := c.Download(t.Context(), name, int64(size))
				require.NoError(t, err)
				require.True(t, bytes.Equal(data, got))
				info, err := os.Stat(h.Path(name))
				require.NoError(t, err)
				require.Equal(t, fs.FileMode(0o700), info.Mode())
				if size > 0 {
					_, err = c.Download(t.Context(), name, int64(size)-1)
					require.Error(t, err)
				}
				require.NoError(t, c.Remove(t.Context(), name))
			}
			require.NoError(t, os.Symlink("/etc/passwd", h.Path(dir+"/link")))
			require.ErrorIs(t, c.Upload(t.Context(), dir+"/link", []byte("x"), 0), fs.ErrExist)
			require.Error(t, c.Upload(t.Context(), dir+"/no/such", []byte("x"), 0))
			_, err = c.Download(t.Context(), dir+"/none", 100)
			require.Error(t, err)

			// A link is removed, not what it leads to.
			require.NoError(t, c.Remove(t.Context(), dir))
			require.NoError(t, c.Remove(t.Context(), dir))
			require.FileExists(t, h.Path("/etc/passwd"))
			require.Empty(t, h.Left())
			for _, path := range []string{"", "/", "//", "/.", "/..", "relative", "/tmp/../etc", "/tmp/", "/tmp/a\nb"} {
				require.Error(t, c.Remove(t.Context(), path), path)
			}
		})
	}
}

// A full disk is said, and nothing of the file stays.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{"", "Subsystem sftp /bin/false"} {
		h := guesttest.SSHD(t, &guesttest.SSHDOptions{Settings: []string{setting}, Setup: "mount -t tmpfs -o mode=1777,size=1m none /tmp"})
		c := open(t, wayTo(h))
		err := c.Upload(t.Context(), "/tmp/hikae-big", make([]byte, 2<<20), 0)
		require.ErrorIs(t, err, syscall.ENOSPC)
		require.Empty(t, h.Left())
	}
}

// What start files print, and what they do with the standard error, does not matter; nor which shell it is.
func TestNoisyAccounts(t *testing.T) {
	t.Parallel()
	noise := `echo welcome; echo "MARK begin"; echo oops >&2; head -c 100000 /dev/zero; false`
	h := guesttest.SSHD(t, &guesttest.SSHDOptions{Settings: []string{"Banner /etc/passwd"}, Accounts: []guesttest.Account{
		{Name: "bash", Shell: "/bin/bash", RC: noise, Sudo: true},
		{Name: "tcsh", Shell: guesttest.Program(t, "tcsh"), RC: noise},
		{Name: "mute", Shell: "/usr/sbin/nologin"},
		{Name: "loud", Shell: "/bin/bash", RC: "yes"},
	}})
	for _, name := range []string{"bash", "tcsh"} {
		w := New(h.Addr, guest.Credential{User: name, PrivateKey: h.Key}, &Options{KnownHosts: []string{h.KnownHosts}})
		c := open(t, w)
		require.Equal(t, name, c.System().User)
		for range 2 {
			r, err := c.Run(t.Context(), "/bin/sh", []string{"-c", "echo out; echo err >&2"}, nil)
			require.NoError(t, err)
			require.Equal(t, "out\n", string(r.Stdout))
			require.Equal(t, "err\n", string(r.Stderr))
		}
		require.NoError(t, c.Upload(t.Context(), "/tmp/hikae-"+name, []byte(name), 0))
		got, err := c.Download(t.Context(), "/tmp/hikae-"+name, 100)
		require.NoError(t, err)
		require.Equal(t, name, string(got))
	}
	for name, step := range map[string]string{"mute": "shell", "loud": "shell"} {
		w := New(h.Addr, guest.Credential{User: name, PrivateKey: h.Key}, &Options{KnownHosts: []string{h.KnownHosts}})
		f := w.Probe(within(t, 10*time.Second))
		require.False(t, f.Open)
		require.True(t, f.Reached)
		require.Equal(t, step, f.Step, f.Problem)
	}
}

// Root's rights come by sudo where it asks for no password, and where it does the finding says so.
func TestSudo(t *testing.T) {
	t.Parallel()
	guesttest.Program(t, "sudo")
	h := guesttest.SSHD(t, &guesttest.SSHDOptions{Accounts: []guesttest.Account{{Name: "may", Sudo: true}, {Name: "maynot"}}})
	w := New(h.Addr, guest.Credential{User: "may", PrivateKey: h.Key}, &Options{KnownHosts: []string{h.KnownHosts}})
	c := open(t, w)
	require.True(t, c.System().Admin)
	require.Equal(t, []string{"sudo", "-n"}, c.System().Elevate)
	r, err := guest.RunAdmin(t.Context(), c, "/usr/bin/id", []string{"-u"}, nil)
	require.NoError(t, err)
	require.Equal(t, "0\n", string(r.Stdout))

	// What root made in our folder goes too.
	require.NoError(t, c.MakeDir(t.Context(), "/tmp/hikae-x"))
	h.Run("mkdir -m 700 /tmp/hikae-x/roots; touch /tmp/hikae-x/roots/file")
	require.NoError(t, c.Remove(t.Context(), "/tmp/hikae-x"))
	require.Empty(t, h.Left())

	w = New(h.Addr, guest.Credential{User: "maynot", PrivateKey: h.Key}, &Options{KnownHosts: []string{h.KnownHosts}})
	f := w.Probe(t.Context())
	require.True(t, f.Open)
	require.False(t, f.System.Admin)
	require.Equal(t, "rights", f.Step)
	require.Contains(t, f.Hint, "sudo")
}

// Folders that let nothing run, that are full, or in which others could put their own in the place of ours, are passed over.
func TestTemp(t *testing.T) {
	t.Parallel()
	h := guesttest.SSHD(t, &guesttest.SSHDOptions{Setup: `mount -t tmpfs -o noexec,mode=1777 none /tmp
mkdir -m 755 /run/good; mkdir -m 777 /run/open; chmod 777 /run/open; ln -s /run/good /run/link
mkdir /run/full; mount -t tmpfs -o size=4k,nr_inodes=2 none /run/full; echo x >/run/full/x`})
	w := wayTo(h)
	w.opts.Temp = []string{"/run/full", "/run/open", "/run/link", "/run/none", "relative"}
	c := open(t, w)
	require.Equal(t, "/run/good", c.System().Temp[0])
	require.NotContains(t, c.System().Temp, "/tmp")
	require.NotContains(t, c.System().Temp, "/run/open")
	require.Empty(t, h.Left())

	none := guesttest.SSHD(t, &guesttest.SSHDOptions{Setup: `for d in /tmp /var/tmp /root /dev/shm /var/lib /opt; do mount -t tmpfs -o noexec,mode=1777 none $d; done`})
	f := wayTo(none).Probe(t.Context())
	require.False(t, f.Open)
	require.Equal(t, "temp", f.Step)
	require.Contains(t, f.Problem, "/tmp lets no program run")
	require.ErrorIs(t, func() error { _, err := wayTo(none).Open(t.Context()); return err }(), guest.ErrNoTemp)
}

// One connection and few sessions: a server that allows one at a time is served by one at a time.
func TestFewSessions(t *testing.T) {
	t.Parallel()
	h := guesttest.SSHD(t, &guesttest.SSHDOptions{Settings: []string{"MaxSessions 1"}})
	c := open(t, wayTo(h))
	var group sync.WaitGroup
	for range 12 {
		group.Go(func() {
			r, err := c.Run(within(t, 20*time.Second), "/bin/echo", []string{"hi"}, nil)
			if err != nil || string(r.Stdout) != "hi\n" {
				t.Error(err, string(r.Stdout))
			}
		})
	}
	group.Wait()
	require.Equal(t, 1, strings.Count(h.Log(), "Accepted publickey"))
}

// A host that hangs costs what the context allows and a moment; what is called off on it ends too.
func TestHangs(t *testing.T) {
	t.Parallel()
	h := guesttest.SSHD(t, nil)
	c := open(t, wayTo(h))
	h.Pause()
	defer h.Resume()
	start := time.Now()
	_, err := c.Run(within(t, 200*time.Millisecond), "/bin/true", nil, nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(start), 3*time.Second)
	_, err = c.Run(t.Context(), "/bin/true", nil, nil)
	require.ErrorIs(t, err, ErrLinkLost)

	start = time.Now()
	f := wayTo(h).Probe(within(t, 300*time.Millisecond))
	require.False(t, f.Open)
	require.Equal(t, "connect", f.Step)
	require.Less(t, time.Since(start), 3*time.Second)
	require.NoError(t, c.Close())
}

// Without a deadline it is the keep-alive that ends what waits for a host that hangs.
func TestKeepAlive(t *testing.T) {
	t.Parallel()
	h := guesttest.SSHD(t, nil)
	w := wayTo(h)
	w.opts.KeepAlive = 200 * time.Millisecond
	c := open(t, w)
	_, err := c.Run(t.Context(), "/bin/sleep", []string{"1"}, nil) // a program that is silent is no host that hangs
	require.NoError(t, err)
	h.Pause()
	defer h.Resume()
	_, err = c.Run(t.Context(), "/bin/true", nil, nil)
	require.ErrorIs(t, err, ErrLinkLost)
}

// The stream of a program: noise before it is cut off, its end is told, Close ends it.
func TestStream(t *testing.T) {
	t.Parallel()
	h := guesttest.SSHD(t, &guesttest.SSHDOptions{Accounts: []guesttest.Account{{Name: "ann", Shell: "/bin/bash", RC: "echo noise; echo noise >&2"}}})
	c := open(t, New(h.Addr, guest.Credential{User: "ann", PrivateKey: h.Key}, &Options{KnownHosts: []string{h.KnownHosts}}))
	s, err := c.link.start(within(t, 10*time.Second), []string{"/bin/cat"})
	require.NoError(t, err)
	_, err = s.Write([]byte("ping"))
	require.NoError(t, err)
	got := make([]byte, 4)
	_, err = io.ReadFull(s, got)
	require.NoError(t, err)
	require.Equal(t, "ping", string(got))
	require.NoError(t, s.Close())
	require.NoError(t, s.Err())
	_, err = s.Read(got)
	require.ErrorIs(t, err, io.EOF)

	s, err = c.link.start(within(t, 10*time.Second), []string{"/bin/sh", "-c", "echo because >&2; exit 5"})
	require.NoError(t, err)
	_, err = io.ReadAll(s)
	require.NoError(t, err)
	require.ErrorContains(t, s.Err(), "exit code 5: because")
	require.NoError(t, s.Close())

	s, err = c.link.start(within(t, 10*time.Second), []string{"/bin/cat"})
	require.NoError(t, err)
	h.Cut()
	_, err = io.ReadAll(s)
	require.NoError(t, err)
	require.ErrorIs(t, s.Err(), ErrLinkLost)
	require.NoError(t, s.Close())
}
