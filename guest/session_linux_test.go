package guest_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/guesttest"
	"github.com/hikae/hikae/guest/sshchannel"
)

// Real sessions against a real SSH server. A loop device and a file system of its own are frozen where the test may.

func sshWay(h *guesttest.Host) guest.Way {
	return sshchannel.New(h.Addr, guest.Credential{User: h.User, PrivateKey: h.Key}, &sshchannel.Options{KnownHosts: []string{h.KnownHosts}})
}

func sessionOver(t testing.TB, way guest.Way, agents string, opts *guest.SessionOptions) *guest.Session {
	opts.Guest, opts.ID, opts.NoApplications, opts.Scripts = "web1", "s1", true, guest.Disable
	s, err := guest.NewSession([]guest.Deployer{&guest.Here{Guest: "web1", Ways: []guest.Way{way}, Programs: guest.ProgramsIn(os.DirFS(agents))}}, opts)
	require.NoError(t, err)
	return s
}

// R119–R122, R140, R183–R188: the runtime component comes when a session begins and is gone when it ends.
func TestSessionOverSSH(t *testing.T) {
	agents := guesttest.Agents(t)
	t.Cleanup(guesttest.RemoveAgents)
	t.Run("story", func(t *testing.T) { storyOverSSH(t, agents) })
	t.Run("killed", func(t *testing.T) { killedOverSSH(t, agents) })
}

func storyOverSSH(t *testing.T, agents string) {
	if os.Geteuid() != 0 {
		t.Skip("freezing a file system needs root")
	}
	// A file system of the server's own is frozen, and nothing of the machine.
	h := guesttest.SSHD(t, &guesttest.SSHDOptions{MayFreeze: true, Setup: `set -e
		truncate -s 64M /root/disk
		mkfs.ext4 -q -F /root/disk
		mkdir /root/mnt
		mount -o loop /root/disk /root/mnt`})
	journal, err := hikae.OpenFileJournal(filepath.Join(t.TempDir(), "journal"))
	require.NoError(t, err)
	defer journal.Close()
	var steps []string
	s := sessionOver(t, sshWay(h), agents, &guest.SessionOptions{Journal: journal, Mounts: []string{"/root/mnt"},
		Events: func(e guest.Event) { steps = append(steps, e.Step) }})
	began := time.Now()
	require.NoError(t, s.Begin(t.Context()))
	t.Logf("begun in %v", time.Since(began).Round(time.Millisecond))
	require.NotEmpty(t, h.Left(), "it is there")

	require.NoError(t, s.Freeze(t.Context()))
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(h.Path("/root/mnt/file"), []byte("x"), 0o600) }()
	select {
	case err := <-written:
		t.Errorf("it was written to while frozen: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	require.NoError(t, s.Thaw(t.Context()))
	require.NoError(t, <-written)
	require.NoError(t, s.Finish(t.Context()))
	kept := map[string]bool{}
	require.NoError(t, s.Keep(t.Context(), func(name string, r io.Reader) error {
		kept[name] = true
		_, err := io.Copy(io.Discard, r)
		return err
	}))
	require.Contains(t, kept, "guest/guest.json")
	require.NoError(t, s.Settle(t.Context(), true))
	began = time.Now()
	require.NoError(t, s.Close(t.Context()))
	t.Logf("removed in %v", time.Since(began).Round(time.Millisecond))
	require.Empty(t, h.Left())
	reached, r := s.Reached()
	require.Equal(t, hikae.Filesystem, reached)
	require.Equal(t, []string{"/root/mnt"}, r.Frozen)
	require.Equal(t, "ssh, from backup server", r.Way)
	require.NotContains(t, fmt.Sprintf("%+v %+v %+v", s, r, steps), "OPENSSH PRIVATE KEY")
	for e, err := range journal.Pending(t.Context()) {
		t.Errorf("left in the journal: %v %v", e, err)
	}
}

const childEnv = "HIKAE_TEST_SESSION"

// The process that is killed: a session that tells each step and then waits a moment.
func TestSessionChild(t *testing.T) {
	text := os.Getenv(childEnv)
	if text == "" {
		t.Skip("it is run by TestSessionOverSSH alone")
	}
	f := strings.Split(text, "\n")
	key, err := os.ReadFile(f[2])
	require.NoError(t, err)
	way := sshchannel.New(f[0], guest.Credential{User: f[1], PrivateKey: key}, &sshchannel.Options{KnownHosts: []string{f[3]}})
	journal, err := hikae.OpenFileJournal(f[4])
	require.NoError(t, err)
	s := sessionOver(t, way, f[5], &guest.SessionOptions{Journal: journal, Lease: time.Hour, Choice: guest.Choice{},
		Events: func(e guest.Event) { fmt.Printf("step %s\n", e.Step) }})
	fmt.Println("step start")
	require.NoError(t, s.Begin(t.Context()))
	fmt.Println("step begun")
	time.Sleep(time.Minute)
}

// R188, RELIABILITY 1.5: a session that is killed leaves nothing that the next start does not take away. The times of the
// kills are spread over the whole deployment.
func killedOverSSH(t *testing.T, agents string) {
	h := guesttest.SSHD(t, nil)
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	require.NoError(t, os.WriteFile(key, h.Key, 0o600))
	kills := 4
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier == "long" || tier == "release" {
		kills = 30
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	swept := 0
	for i := range kills {
		journalDir := filepath.Join(dir, fmt.Sprint("journal", i))
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestSessionChild$", "-test.v")
		cmd.Env = append(os.Environ(), childEnv+"="+strings.Join([]string{h.Addr, h.User, key, h.KnownHosts, journalDir, agents}, "\n"))
		// In the middle of the deployment, before it, or when it is surely done.
		at := []string{"step begun", "step decide", "step decide", "step start"}[i%4]
		out := &watched{want: at, seen: make(chan struct{})}
		cmd.Stdout = out
		require.NoError(t, cmd.Start())
		select {
		case <-out.seen:
		case <-ctx.Done():
			t.Errorf("kill %d: %q did not come: %s", i, out.want, out.text)
		}
		time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond)
		require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
		_ = cmd.Wait()
		cancel()

		next, err := hikae.OpenFileJournal(journalDir)
		require.NoError(t, err)
		sweeper := &guest.Sweeper{Way: func(_ context.Context, name string, kind guest.Kind) (guest.Way, error) {
			require.Equal(t, "web1", name)
			require.Equal(t, guest.SSH, kind)
			return sshWay(h), nil
		}}
		n, err := next.Sweep(t.Context(), map[string]hikae.Sweeper{guest.EffectKind: sweeper}, nil)
		require.NoError(t, err, "kill %d", i)
		require.Empty(t, h.Left(), "kill %d", i)
		swept += n
		n, err = next.Sweep(t.Context(), map[string]hikae.Sweeper{guest.EffectKind: sweeper}, nil)
		require.NoError(t, err)
		require.Zero(t, n, "swept is swept")
		require.NoError(t, next.Close())
	}
	t.Logf("%d kills, %d of them left something to sweep", kills, swept)
	require.Positive(t, swept)
}

// watched says when a text was written.
type watched struct {
	text, want string
	seen       chan struct{}
	done       bool
}

func (w *watched) Write(p []byte) (int, error) {
	w.text += string(p)
	if !w.done && strings.Contains(w.text, w.want) {
		w.done = true
		close(w.seen)
	}
	return len(p), nil
}

// A sweeper does what its effect says, and refuses what none of ours can say.
func TestSweeperRefuses(t *testing.T) {
	s := &guest.Sweeper{Way: func(context.Context, string, guest.Kind) (guest.Way, error) {
		t.Error("it was asked for a way")
		return nil, guest.ErrNoWay
	}}
	for _, e := range []hikae.Effect{{}, {Kind: guest.EffectKind}, {Kind: guest.EffectKind, Facts: map[string]string{"way": "telnet"}},
		{Kind: "kvm.bitmap", Facts: map[string]string{"way": "ssh"}}} {
		require.Error(t, s.Undo(t.Context(), e, nil))
	}
	unreachable := &guest.Sweeper{Way: func(context.Context, string, guest.Kind) (guest.Way, error) { return nil, guest.ErrNoWay }}
	require.ErrorIs(t, unreachable.Undo(t.Context(), hikae.Effect{Kind: guest.EffectKind, VM: "web1", Facts: map[string]string{"way": "ssh"}}, nil), guest.ErrNoWay)
}
