package requester_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/hyperv/helper/requester"
	"github.com/hikae/hikae/hyperv/helper/requester/requestertest"
	"github.com/hikae/hikae/hyperv/helper/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	web1 = "0a1b2c3d-0000-4000-8000-0000000000a1"
	db1  = "0a1b2c3d-0000-4000-8000-0000000000a2"
	mark = "abcdefghijklmnopqrstuvwxyz"
)

// machine is a host of two volumes with two VMs, of which the second lies on both.
func machine(t testing.TB) *requestertest.Service {
	t.Helper()
	c, d := t.TempDir(), t.TempDir()
	for name, content := range map[string]string{
		filepath.Join(c, "VMs", "web1", "web1.vhdx"): "disk of web1", filepath.Join(c, "VMs", "web1", "conf", "a.xml"): "<a/>",
		filepath.Join(c, "VMs", "db1.vhdx"): "disk of db1", filepath.Join(d, "db1-data.vhdx"): "data of db1", filepath.Join(c, "secret"): "nobody's",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o700))
		require.NoError(t, os.WriteFile(name, []byte(content), 0o600))
	}
	return &requestertest.Service{
		Volumes: map[string]string{`C:\`: c, `C:\ClusterStorage\Volume1\`: d},
		VMs: []requester.Component{
			{Type: requester.FileGroup, Name: "0A1B2C3D-0000-4000-8000-0000000000A1", Caption: `Online\web1`, Files: []requester.FileSet{
				{Path: `C:\VMs\web1\`, Spec: "web1.vhdx"}, {Path: `C:\VMs\web1\conf`, Spec: "*"}}},
			{Type: requester.FileGroup, Name: db1, Caption: `Offline\db1`, Files: []requester.FileSet{
				{Path: `c:\vms`, Spec: "db1.vhdx"}, {Path: `C:\ClusterStorage\Volume1`, Spec: "db1-data.vhdx"}}},
			{Type: requester.FileGroup, Name: "Host Component", Caption: "Host Component"},
		},
	}
}

// peer is a client that is put together by hand.
type peer struct {
	t      testing.TB
	conn   net.Conn
	frames chan wire.Frame
	ended  chan error
	stop   context.CancelFunc
	book   *requester.DirBook
	call   uint32
}

func serve(t testing.TB, s requester.VSS, opts *requester.Options) *peer {
	t.Helper()
	if opts == nil {
		opts = &requester.Options{}
	}
	ours, theirs := net.Pipe()
	ctx, stop := context.WithCancel(t.Context())
	p := &peer{t: t, conn: ours, frames: make(chan wire.Frame, 64), ended: make(chan error, 1), stop: stop,
		book: &requester.DirBook{Dir: filepath.Join(t.TempDir(), "book")}}
	if opts.Book == nil {
		opts.Book = p.book
	}
	go func() { p.ended <- requester.Serve(ctx, theirs, s, opts) }()
	go func() {
		defer close(p.frames)
		for {
			f, err := wire.Read(ours)
			if err != nil {
				return
			}
			p.frames <- f
		}
	}()
	t.Cleanup(func() {
		stop()
		_ = ours.Close()
		for range p.frames {
		}
	})
	return p
}

func (p *peer) hello(lease time.Duration) *peer {
	p.t.Helper()
	var a wire.HelloAnswer
	p.must(&wire.Hello{Version: wire.Version, LeaseMillis: uint32(lease.Milliseconds()), Session: "s1"}, &a)
	require.Contains(p.t, a.Unverified, "not yet verified on Windows")
	return p
}

func (p *peer) send(m wire.Message) uint32 {
	p.t.Helper()
	p.call++
	p.sendAs(p.call, m)
	return p.call
}

func (p *peer) sendAs(call uint32, m wire.Message) {
	p.t.Helper()
	f, err := wire.Encode(call, m)
	require.NoError(p.t, err)
	require.NoError(p.t, wire.Write(p.conn, f))
}

// next is the next frame that is no progress.
func (p *peer) next() wire.Frame {
	p.t.Helper()
	for {
		select {
		case f, open := <-p.frames:
			require.True(p.t, open, "the session ended")
			if f.Kind != wire.KindProgress {
				return f
			}
		case <-time.After(20 * time.Second):
			require.FailNow(p.t, "no answer")
		}
	}
}

// ask makes a call, whose failure it returns.
func (p *peer) ask(m, into wire.Message) error {
	p.t.Helper()
	call := p.send(m)
	return p.read(call, into)
}

func (p *peer) read(call uint32, into wire.Message) error {
	p.t.Helper()
	f := p.next()
	require.Equal(p.t, call, f.Call)
	if f.Kind == wire.KindFailure {
		failure := &wire.Failure{}
		require.NoError(p.t, wire.Decode(f, failure))
		return failure
	}
	require.NoError(p.t, wire.Decode(f, into))
	return nil
}

func (p *peer) must(m, into wire.Message) {
	p.t.Helper()
	require.NoError(p.t, p.ask(m, into))
}

func (p *peer) take(vms ...string) *wire.TakeAnswer {
	p.t.Helper()
	a := &wire.TakeAnswer{}
	p.must(&wire.Take{Mark: mark, VMs: vms}, a)
	return a
}

// over waits until the session has ended.
func (p *peer) over() error {
	p.t.Helper()
	select {
	case err := <-p.ended:
		return err
	case <-time.After(20 * time.Second):
		require.FailNow(p.t, "the session does not end")
		return nil
	}
}

// noted is what the book has of the mark.
func (p *peer) noted() []requester.ID {
	p.t.Helper()
	sets, err := p.book.Sets(p.t.Context(), mark)
	require.NoError(p.t, err)
	return sets
}

func code(t testing.TB, err error) wire.Code {
	t.Helper()
	var f *wire.Failure
	require.ErrorAs(t, err, &f)
	return f.Code
}
