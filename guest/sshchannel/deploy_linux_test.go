package sshchannel

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/guesttest"
	"github.com/stretchr/testify/require"
)

func programs(t testing.TB) guest.Programs {
	t.Helper()
	return guest.ProgramsIn(os.DirFS(guesttest.Agents(t)))
}

// nothingLeft waits the moment that a process takes to be gone after its end was seen.
func nothingLeft(t *testing.T, h *guesttest.Host) {
	t.Helper()
	var left []string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if left = h.Left(); len(left) == 0 {
			return
		}
	}
	require.Empty(t, left)
}

// R120, R121, R188: the component is brought in when a session starts and is gone when it ends.
func TestDeploy(t *testing.T) {
	t.Parallel()
	programs := programs(t)
	h := guesttest.SSHD(t, nil)
	c := open(t, wayTo(h))
	start := time.Now()
	d, err := guest.Deploy(within(t, 20*time.Second), c, programs, &guest.DeployOptions{Guest: "web1", Session: "s1"})
	require.NoError(t, err)
	up := time.Since(start)
	hello := d.Component.Hello()
	require.Equal(t, "linux", hello.OS)
	require.Equal(t, runtime.GOARCH, hello.Arch)
	require.NotEmpty(t, h.Left())
	info, err := os.Stat(h.Path(d.Program.Path))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode())

	start = time.Now()
	require.NoError(t, d.Remove(within(t, 20*time.Second)))
	require.NoError(t, d.Remove(t.Context()))
	t.Logf("component answering after %v, removed in %v", up, time.Since(start))
	require.Empty(t, h.Left())
}

// A component that runs by sudo, from the folder of an account that is not root's, goes too.
func TestDeployBySudo(t *testing.T) {
	t.Parallel()
	guesttest.Program(t, "sudo")
	programs := programs(t)
	h := guesttest.SSHD(t, &guesttest.SSHDOptions{
		Accounts: []guesttest.Account{{Name: "ann", Shell: "/bin/bash", RC: "echo welcome", Sudo: true}},
		Setup:    "mount -t tmpfs -o noexec,mode=1777 none /tmp",
		Settings: []string{"Subsystem sftp /bin/false"},
	})
	c := open(t, New(h.Addr, guest.Credential{User: "ann", PrivateKey: h.Key}, &Options{KnownHosts: []string{h.KnownHosts}}))
	d, err := guest.Deploy(within(t, 20*time.Second), c, programs, nil)
	require.NoError(t, err)
	require.Contains(t, d.Program.Path, "/var/tmp/hikae-")
	require.NoError(t, d.Remove(within(t, 20*time.Second)))
	require.Empty(t, h.Left())
}

// journal notes what is intended and what is done, in order, with what the guest had at that moment.
type journal struct {
	mu      sync.Mutex
	effects []hikae.Effect
	open    int
	fail    error
	before  func()
}

func (j *journal) Intend(_ context.Context, e hikae.Effect) (func(context.Context) error, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fail != nil {
		return nil, j.fail
	}
	if j.before != nil {
		j.before()
	}
	j.effects = append(j.effects, e)
	j.open++
	return func(context.Context) error {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.open--
		return nil
	}, nil
}

// The journal knows of a component before there is anything of it, and a later start takes it away by that note.
func TestJournal(t *testing.T) {
	t.Parallel()
	programs := programs(t)
	h := guesttest.SSHD(t, nil)
	c := open(t, wayTo(h))
	j := &journal{before: func() { require.Empty(t, h.Left()) }}
	d, err := guest.Deploy(within(t, 20*time.Second), c, programs, &guest.DeployOptions{Guest: "web1", Journal: j})
	require.NoError(t, err)
	require.Equal(t, guest.EffectKind, j.effects[0].Kind)
	require.Equal(t, "web1", j.effects[0].VM)
	require.Equal(t, 1, j.open)

	// Our process dies: another one has the note alone.
	later := open(t, wayTo(h))
	require.NoError(t, guest.UndoDeploy(within(t, 20*time.Second), later, j.effects[0]))
	require.Empty(t, h.Left())
	require.NoError(t, guest.UndoDeploy(within(t, 20*time.Second), later, j.effects[0]))
	require.NoError(t, d.Remove(within(t, 20*time.Second)))
	require.Zero(t, j.open)

	for _, folder := range []string{"/", "/tmp", "/etc", "/tmp/hikae-", "/tmp/hikae-../../etcetcetcetcetc", "", "/tmp/HIKAE-abcdefghijklmnop", "/tmp/hikae-abcdefghijklmnop/sub"} {
		e := j.effects[0]
		e.Facts = map[string]string{"folder": folder, "program": folder + "/hikae-agent", "service": folder[strings.LastIndexByte(folder, '/')+1:]}
		require.Error(t, guest.UndoDeploy(t.Context(), later, e), folder)
	}

	j.fail = errors.New("disk full")
	_, err = guest.Deploy(within(t, 20*time.Second), c, programs, &guest.DeployOptions{Guest: "web1", Journal: j})
	require.ErrorIs(t, err, j.fail)
	require.Empty(t, h.Left())
}

// faulty fails one of its calls, before or after the guest has done it.
type faulty struct {
	*channel
	calls atomic.Int64
	at    int64
	after bool
	cut   func()
}

var errInjected = errors.New("injected")

func (f *faulty) step(do func() error) error {
	now := f.calls.Add(1) == f.at
	if now && f.cut != nil {
		f.cut()
	}
	if now && !f.after {
		return errInjected
	}
	err := do()
	if now && f.after {
		return errInjected
	}
	return err
}

func (f *faulty) Run(ctx context.Context, path string, args []string, stdin []byte) (r hikae.RunResult, err error) {
	err = f.step(func() error { r, err = f.channel.Run(ctx, path, args, stdin); return err })
	return r, err
}

func (f *faulty) MakeDir(ctx context.Context, path string) error {
	return f.step(func() error { return f.channel.MakeDir(ctx, path) })
}

func (f *faulty) Upload(ctx context.Context, path string, data []byte, mode uint32) error {
	return f.step(func() error { return f.channel.Upload(ctx, path, data, mode) })
}

// A deployment in which any one call fails, or is done and its answer lost, either works all the same or leaves nothing; if
// it is the looking itself that fails, it says so and the journal still knows.
func TestEveryFailure(t *testing.T) {
	t.Parallel()
	programs := programs(t)
	h := guesttest.SSHD(t, nil)
	for _, after := range []bool{false, true} {
		step := int64(1)
		if after && !long() {
			step = 3
		}
		for n := int64(1); ; n += step {
			f := &faulty{channel: open(t, wayTo(h)), at: n, after: after}
			j := &journal{}
			d, err := guest.Deploy(within(t, 30*time.Second), f, programs, &guest.DeployOptions{Guest: "web1", Journal: j, Way: wayTo(h)})
			if err == nil {
				err = d.Remove(within(t, 30*time.Second))
			}
			if err != nil {
				require.ErrorIs(t, err, errInjected)
			}
			nothingLeft(t, h)
			require.Zero(t, j.open)
			if f.calls.Load() < n {
				break
			}
			f.Close()
		}
	}
}

// The same with the link itself cut: what the guest has is taken away over a second one, or by the component alone.
func TestEveryCut(t *testing.T) {
	t.Parallel()
	programs := programs(t)
	h := guesttest.SSHD(t, nil)
	for n := int64(1); ; n++ {
		c := open(t, wayTo(h))
		f := &faulty{channel: c, at: n, cut: h.Cut}
		j := &journal{}
		d, err := guest.Deploy(within(t, 30*time.Second), f, programs, &guest.DeployOptions{Guest: "web1", Journal: j, Way: wayTo(h)})
		if err == nil {
			require.NoError(t, d.Remove(within(t, 30*time.Second)))
		}
		nothingLeft(t, h)
		require.Zero(t, j.open)
		if f.calls.Load() < n {
			break
		}
	}
}

// lying has a component that is not what it should be.
type lying func(os, arch string) (*guest.Build, error)

func (l lying) Build(os, arch string) (*guest.Build, error) { return l(os, arch) }

// scripted has a script in the place of the component.
func scripted(content string) guest.Programs {
	b := &guest.Build{OS: "linux", Arch: runtime.GOARCH, Content: []byte(content), SHA256: sha256.Sum256([]byte(content))}
	return lying(func(string, string) (*guest.Build, error) { return b, nil })
}

// What cannot run, does not speak, or is not what was sent leaves nothing and says why.
func TestBadComponents(t *testing.T) {
	t.Parallel()
	h := guesttest.SSHD(t, nil)
	t.Cleanup(func() { nothingLeft(t, h) }) // after all of them, before the server ends
	for name, content := range map[string]string{
		"exit code":   "\x7fELF not really",
		"exit code 7": "#!/bin/sh\necho because >&2\nexit 7\n",
		"malformed":   "#!/bin/sh\nexec cat /dev/zero\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := guest.Deploy(within(t, 30*time.Second), open(t, wayTo(h)), scripted(content), &guest.DeployOptions{Guest: "web1"})
			var step *guest.StepError
			require.ErrorAs(t, err, &step)
			require.Equal(t, "web1", step.Guest)
			require.ErrorContains(t, err, name)
		})
	}
	t.Run("silent", func(t *testing.T) {
		t.Parallel()
		c := open(t, wayTo(h))
		start := time.Now()
		_, err := guest.Deploy(within(t, 500*time.Millisecond), c, scripted("#!/bin/sh\nexec sleep 100\n"), nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Less(t, time.Since(start), 15*time.Second)
	})
	t.Run("changed on the way", func(t *testing.T) {
		t.Parallel()
		b := &guest.Build{OS: "linux", Arch: runtime.GOARCH, Content: []byte("#!/bin/sh\n")}
		_, err := guest.Deploy(within(t, 30*time.Second), open(t, wayTo(h)), lying(func(string, string) (*guest.Build, error) { return b, nil }), nil)
		require.ErrorIs(t, err, guest.ErrUpload)
	})
}

// A disk that is full, and a folder in which nothing runs, send the component to the next folder, or back home.
func TestBadFolders(t *testing.T) {
	t.Parallel()
	programs := programs(t)
	full := guesttest.SSHD(t, &guesttest.SSHDOptions{Setup: "mount -t tmpfs -o mode=1777,size=1m none /tmp"})
	c := open(t, wayTo(full))
	require.Equal(t, "/tmp", c.System().Temp[0])
	d, err := guest.Deploy(within(t, 20*time.Second), c, programs, nil)
	require.NoError(t, err)
	require.Contains(t, d.Program.Path, "/var/tmp/")
	require.Len(t, full.Left(), 2) // a folder and a process: nothing in /tmp
	require.NoError(t, d.Remove(within(t, 20*time.Second)))
	require.Empty(t, full.Left())

	tight := guesttest.SSHD(t, &guesttest.SSHDOptions{Setup: "for d in /tmp /var/tmp /root /dev/shm /var/lib /opt; do mount -t tmpfs -o mode=1777,size=1m none $d; done"})
	j := &journal{}
	_, err = guest.Deploy(within(t, 20*time.Second), open(t, wayTo(tight)), programs, &guest.DeployOptions{Journal: j})
	require.ErrorContains(t, err, "no space left")
	require.Zero(t, j.open)
	require.Empty(t, tight.Left())
}

// R121: a component whose session dies takes itself away; a host that hangs keeps nobody waiting.
func TestSessionDies(t *testing.T) {
	t.Parallel()
	programs := programs(t)
	h := guesttest.SSHD(t, nil)
	c := open(t, wayTo(h))
	_, err := guest.Deploy(within(t, 20*time.Second), c, programs, nil)
	require.NoError(t, err)
	h.Cut()
	nothingLeft(t, h)

	c = open(t, wayTo(h))
	j := &journal{}
	d, err := guest.Deploy(within(t, 20*time.Second), c, programs, &guest.DeployOptions{Journal: j, Guest: "web1"})
	require.NoError(t, err)
	h.Pause()
	start := time.Now()
	err = d.Remove(within(t, time.Second))
	require.ErrorIs(t, err, guest.ErrLeftover)
	require.Less(t, time.Since(start), 8*time.Second)
	require.Equal(t, 1, j.open)
	h.Resume()
	nothingLeft(t, h)
	require.NoError(t, guest.UndoDeploy(within(t, 20*time.Second), open(t, wayTo(h)), j.effects[0]))
}
