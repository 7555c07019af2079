package mover

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// A mover in a process of its own: its folder and its address.
const (
	processDirEnv     = "HIKAE_TEST_MOVER_DIR"
	processAddressEnv = "HIKAE_TEST_MOVER_ADDRESS"
)

// TestMoverProcess is that process. It ends when its parent does.
func TestMoverProcess(t *testing.T) {
	dir := os.Getenv(processDirEnv)
	if dir == "" {
		t.Skip("it is a part of other tests")
	}
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(1)
	}()
	st, err := dirstore.Open(filepath.Join(dir, "repo"))
	require.NoError(t, err)
	r, err := repo.Open(t.Context(), st, nil, &repo.OpenOptions{StateDir: filepath.Join(dir, "state"), CacheDir: filepath.Join(dir, "cache")})
	require.NoError(t, err)
	id, err := trust.LoadIdentity(filepath.Join(dir, "home"))
	require.NoError(t, err)
	book, err := trust.OpenBook(filepath.Join(dir, "home"))
	require.NoError(t, err)
	s, err := NewServer(&ServerOptions{Identity: id, Book: book, Backend: r, StateDir: filepath.Join(dir, "tenants")})
	require.NoError(t, err)
	l, err := net.Listen("tcp", os.Getenv(processAddressEnv))
	require.NoError(t, err)
	fmt.Println("listening")
	_ = s.Serve(t.Context(), l)
}

// process runs movers one after another in the same folder and at the same address.
type process struct {
	t       testing.TB
	dir     string
	address string
	cmd     *exec.Cmd
}

func newProcess(t testing.TB) (p *process, id *trust.Identity, pin trust.Pin) {
	t.Helper()
	p = &process{t: t, dir: t.TempDir()}
	st, err := dirstore.Init(filepath.Join(p.dir, "repo"))
	require.NoError(t, err)
	r, err := repo.Init(t.Context(), st, nil, &repo.InitOptions{BlockSize: testBlock, NoEncryption: true},
		&repo.OpenOptions{StateDir: filepath.Join(p.dir, "state")})
	require.NoError(t, err)
	require.NoError(t, errors.Join(r.Close(), st.Close()))
	own, err := trust.LoadIdentity(filepath.Join(p.dir, "home"))
	require.NoError(t, err)
	book, err := trust.OpenBook(filepath.Join(p.dir, "home"))
	require.NoError(t, err)
	token, err := book.AddToken(own.Pin(), "web", trust.Full, time.Hour)
	require.NoError(t, err)
	once, err := token.Identity()
	require.NoError(t, err)
	id, err = trust.NewIdentity()
	require.NoError(t, err)
	_, err = book.Enrol(once.Pin(), id.PublicKey(), "test")
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p.address = l.Addr().String()
	require.NoError(t, l.Close())
	t.Cleanup(p.kill)
	return p, id, own.Pin()
}

// start returns when the mover listens.
func (p *process) start() error {
	p.cmd = exec.Command(os.Args[0], "-test.run=^TestMoverProcess$", "-test.timeout=5m")
	p.cmd.Env = append(os.Environ(), processDirEnv+"="+p.dir, processAddressEnv+"="+p.address)
	p.cmd.Stderr = os.Stderr
	if _, err := p.cmd.StdinPipe(); err != nil { // it ends with us
		return err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	for in := bufio.NewScanner(out); in.Scan(); {
		if in.Text() == "listening" {
			return nil
		}
	}
	return errors.New("the mover did not come up")
}

func (p *process) kill() {
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		p.cmd = nil
	}
}

// RELIABILITY bars 20, 25, and "kill -9 of either mover at every step": a mover over a repository in a folder is killed
// and started again and again while a point is written, and once more behind its commit. The point is what the source
// was, it is the only one, the repository is sound, and no byte of the source was read twice.
func TestMoverProcessKilledAgainAndAgain(t *testing.T) {
	times := int64(3)
	if longTier() {
		times = 20
	}
	size := times * (3 << 20)
	p, id, pin := newProcess(t)
	require.NoError(t, p.start())
	c, err := Dial(t.Context(), p.address, &DialOptions{Identity: id, ServerPin: pin, CacheDir: t.TempDir(), GiveUp: time.Minute})
	require.NoError(t, err)
	defer c.Close()
	src := pipe.Meter(dense(7, size))
	w, err := c.Begin(t.Context(), "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	d, err := w.Disk(t.Context(), "disk0", size)
	require.NoError(t, err)
	defer d.Close()

	again := make(chan struct{}, times)
	restarted := make(chan error, 1)
	go func() {
		var err error
		for range again {
			p.kill()
			err = errors.Join(err, p.start())
		}
		restarted <- err
	}()
	var put atomic.Int64
	_, err = pipe.Copy(t.Context(), &watched{d.(*farBlocks), func(n int) {
		if all := put.Add(int64(n)); all*times/size > (all-int64(n))*times/size {
			again <- struct{}{}
		}
	}}, src, nil)
	close(again)
	require.NoError(t, <-restarted)
	require.NoError(t, err)
	require.NoError(t, d.Commit(t.Context()))
	point, err := w.Commit(t.Context(), map[string]string{"disk0": "1"})
	require.NoError(t, err)
	t.Logf("%+v", c.Stats())
	require.LessOrEqual(t, src.Counts().Bytes, size)

	p.kill()
	require.NoError(t, p.start())
	requireSame(t, c, point, dense(7, size))
	p.kill()

	st, err := dirstore.Open(filepath.Join(p.dir, "repo"))
	require.NoError(t, err)
	defer st.Close()
	r, err := repo.Open(context.WithoutCancel(t.Context()), st, nil, &repo.OpenOptions{StateDir: filepath.Join(p.dir, "state")})
	require.NoError(t, err)
	defer r.Close()
	for info, err := range r.Points(t.Context(), "") {
		require.NoError(t, err)
		require.Equal(t, point, info.ID, "exactly one point")
	}
	report, err := r.Verify(t.Context(), &repo.VerifyOptions{DataPercent: 100})
	require.NoError(t, err)
	require.True(t, report.OK, "%+v", report)
}
