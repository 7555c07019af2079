package guest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest/agent"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/internal/bubble"
)

// still is a guest whose file systems freeze at a word.
type still struct {
	frozen  atomic.Bool
	freezes atomic.Int32
	nothing bool // to freeze
	early   bool // somebody else thaws
}

func (s *still) Volumes(context.Context) ([]wire.Volume, error)              { return nil, nil }
func (s *still) Ready(context.Context, wire.FreezeArgs) (agent.Ready, error) { return s, nil }
func (s *still) Close() error                                                { return nil }
func (s *still) Freeze(context.Context) (agent.Frozen, error) {
	s.frozen.Store(true)
	s.freezes.Add(1)
	return s, nil
}
func (s *still) Answer() (a wire.FreezeAnswer) {
	if !s.nothing {
		a.Frozen = []wire.Frozen{{Mount: "/"}}
	}
	return a
}
func (s *still) Thaw(context.Context) ([]string, bool, error) {
	s.frozen.Store(false)
	return []string{"/"}, !s.early, nil
}

// content is what an indexer gives and an installer is to get.
func content(size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
}

type indexer struct {
	data []byte
	err  error
}

func (x *indexer) Index(_ context.Context, _ wire.IndexArgs, to io.Writer) (wire.IndexAnswer, error) {
	n, err := to.Write(x.data)
	return wire.IndexAnswer{Bytes: int64(n)}, errors.Join(err, x.err)
}

type packages struct {
	got  bytes.Buffer
	most int64
}

func (x *packages) Install(_ context.Context, _ wire.InstallArgs, from io.Reader) (wire.InstallAnswer, error) {
	if x.most > 0 {
		from = io.LimitReader(from, x.most)
	}
	_, err := x.got.ReadFrom(from)
	if err == nil && x.most > 0 {
		err = &wire.Failure{Code: wire.CodeSignature, Message: "not signed"}
	}
	return wire.InstallAnswer{Installed: "1"}, err
}

// joined begins a session with a component of these parts.
func joined(t *testing.T, opts *agent.Options) *Component {
	t.Helper()
	ours, theirs := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		agent.New(opts).Serve(context.Background(), theirs)
	}()
	c, err := Dial(soon(t), ours, nil)
	require.NoError(t, err)
	t.Cleanup(func() {
		c.Close()
		<-served
	})
	return c
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestComponentData(t *testing.T) {
	t.Parallel()
	x, in := &indexer{data: content(wire.Window*2 + 99)}, &packages{}
	c := joined(t, &agent.Options{Indexer: x, Installer: in})
	var got bytes.Buffer
	a, err := c.Index(soon(t), wire.IndexArgs{}, &got)
	require.NoError(t, err)
	require.EqualValues(t, got.Len(), a.Bytes)
	require.True(t, bytes.Equal(x.data, got.Bytes()))
	_, err = c.Install(soon(t), wire.InstallArgs{}, bytes.NewReader(x.data))
	require.NoError(t, err)
	require.True(t, bytes.Equal(x.data, in.got.Bytes()))
	in.most = 10 // it refuses before it has taken all
	_, err = c.Install(soon(t), wire.InstallArgs{}, bytes.NewReader(x.data))
	var f *wire.Failure
	require.ErrorAs(t, err, &f)
	require.Equal(t, wire.CodeSignature, f.Code)
	x.err = errors.New("the disk is broken")
	_, err = c.Index(soon(t), wire.IndexArgs{}, io.Discard)
	require.ErrorContains(t, err, "the disk is broken")
	_, err = c.Index(soon(t), wire.IndexArgs{}, &capped{io.Discard, 1000})
	require.ErrorContains(t, err, "more than it may")
	_, err = c.Thaw(soon(t))
	require.NoError(t, err, "the session goes on")
}

// A reader of data who takes his time holds up no thaw.
func TestSlowReaderHoldsNobody(t *testing.T) {
	t.Parallel()
	s := &still{}
	c := joined(t, &agent.Options{Indexer: &indexer{data: content(3 * wire.Window)}, Freezer: s})
	r, w := io.Pipe()
	indexed := make(chan error, 1)
	go func() {
		_, err := c.Index(soon(t), wire.IndexArgs{}, w)
		indexed <- err
	}()
	_, err := io.ReadFull(r, make([]byte, 1)) // it has begun, and nobody reads on
	require.NoError(t, err)
	for range 3 {
		q := c.Quiesce(wire.FreezeArgs{})
		require.NoError(t, q.Freeze(soon(t)))
		require.NoError(t, q.Thaw(soon(t)))
		require.True(t, q.Thawed().Held)
	}
	go io.Copy(io.Discard, r)
	require.NoError(t, <-indexed)
	r.Close()
}

func TestQuiesce(t *testing.T) {
	t.Parallel()
	s := &still{}
	c := joined(t, &agent.Options{Freezer: s})
	q := c.Quiesce(wire.FreezeArgs{})
	require.NoError(t, q.Thaw(soon(t)), "thawing what is not frozen is no error")
	require.NoError(t, q.Freeze(soon(t)))
	require.True(t, s.frozen.Load())
	require.NoError(t, q.Thaw(soon(t)))
	require.Len(t, q.Frozen().Frozen, 1)
	s.early = true
	q = c.Quiesce(wire.FreezeArgs{})
	require.NoError(t, q.Freeze(soon(t)))
	require.ErrorIs(t, q.Thaw(soon(t)), hikae.ErrThawedEarly)
	require.NoError(t, q.Thaw(soon(t)))
	s.nothing = true
	require.ErrorIs(t, c.Quiesce(wire.FreezeArgs{}).Freeze(soon(t)), ErrNothingFrozen)
	require.False(t, s.frozen.Load())
}

// More calls than the component takes wait for their turn.
func TestManyCalls(t *testing.T) {
	t.Parallel()
	c := joined(t, &agent.Options{Freezer: &still{}})
	var group sync.WaitGroup
	for range 5 * wire.MaxCalls {
		group.Go(func() {
			_, err := c.Inspect(soon(t), wire.InspectArgs{})
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

// hostile answers each request of a client with what a test wants.
func hostile(t *testing.T, answer func(w net.Conn, f wire.Frame) error) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer theirs.Close()
		for {
			f, err := wire.Read(theirs)
			if err != nil || answer(theirs, f) != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		ours.Close()
		<-done
	})
	return ours
}

func hello(w io.Writer, f wire.Frame) error {
	p, _ := wire.Encode(wire.HelloAnswer{Version: wire.Version})
	return wire.Write(w, wire.Frame{Kind: wire.KindAnswer, Call: f.Call, Payload: p})
}

// R189 and issue 5's bad input: a guest that lies, floods or is silent gives an error, and nothing more.
func TestHostileComponent(t *testing.T) {
	t.Parallel()
	answered := func(kind byte, payload string) func(io.Writer, wire.Frame) error {
		return func(w io.Writer, f wire.Frame) error {
			return wire.Write(w, wire.Frame{Kind: kind, Call: f.Call, Payload: []byte(payload)})
		}
	}
	for name, c := range map[string]struct {
		answer func(io.Writer, wire.Frame) error
		want   error
	}{
		"not json":     {answered(wire.KindAnswer, "{"), wire.ErrMalformed},
		"other fields": {answered(wire.KindAnswer, `{"run":"ls"}`), wire.ErrMalformed},
		"nested":       {answered(wire.KindAnswer, strings.Repeat("[", 1<<20)), wire.ErrMalformed},
		"bad failure":  {answered(wire.KindFailure, "[]"), wire.ErrMalformed},
		"data":         {answered(wire.KindData, "x"), wire.ErrMalformed},
		"request":      {answered(wire.KindRequest, "{}"), wire.ErrMalformed},
		"more":         {answered(wire.KindMore, ""), wire.ErrMalformed},
		"claims 4 GiB": {func(w io.Writer, f wire.Frame) error {
			_, err := w.Write([]byte("\xff\xff\xff\xff\x02\x00\x00\x00\x00\x00\x00\x02"))
			return err
		}, wire.ErrMalformed},
		"another call": {func(w io.Writer, f wire.Frame) error {
			return answered(wire.KindAnswer, "{}")(w, wire.Frame{Call: f.Call + 1})
		}, wire.ErrMalformed},
		"hangs up":      {func(io.Writer, wire.Frame) error { return io.EOF }, io.EOF},
		"cut in a word": {func(w io.Writer, f wire.Frame) error { w.Write([]byte("\x00\x00\x00")); return io.EOF }, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calls := 0
			component, err := Dial(soon(t), hostile(t, func(w net.Conn, f wire.Frame) error {
				if calls++; calls == 1 {
					return hello(w, f)
				}
				return c.answer(w, f)
			}), nil)
			require.NoError(t, err)
			defer component.Close()
			_, err = component.Inspect(soon(t), wire.InspectArgs{})
			require.ErrorIs(t, err, ErrLost)
			require.ErrorIs(t, err, c.want)
			_, err = component.Inspect(soon(t), wire.InspectArgs{})
			require.ErrorIs(t, err, ErrLost, "it is not asked again")
			select {
			case <-component.Done():
			default:
				t.Fatal("it is not given up")
			}
		})
	}
}

// 10 GiB of output end at the window, endless data at the bound, and a word that steers a terminal is shown as what it is.
func TestHostileData(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	c, err := Dial(soon(t), hostile(t, func(w net.Conn, f wire.Frame) error {
		var r wire.Request
		switch {
		case f.Kind != wire.KindRequest || wire.Decode(f.Payload, &r) != nil:
			return nil
		case r.Verb == wire.Hello:
			return hello(w, f)
		case r.Verb == wire.Thaw:
			p, _ := wire.Encode(wire.Failure{Code: "state", Message: "\x1b[2J\x00gone\xff" + strings.Repeat("x", 10_000)})
			return wire.Write(w, wire.Frame{Kind: wire.KindFailure, Call: f.Call, Payload: p})
		}
		for {
			if err := wire.Write(w, wire.Frame{Kind: wire.KindData, Call: f.Call, Payload: make([]byte, wire.MaxData)}); err != nil {
				return err
			}
			sent.Add(wire.MaxData)
		}
	}), nil)
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Thaw(soon(t))
	require.Error(t, err)
	require.NotContains(t, err.Error(), "\x1b")
	require.Less(t, len(err.Error()), 2*maxWords)
	never, w := io.Pipe() // nobody reads
	go func() {
		<-c.Done()
		never.Close()
	}()
	_, err = c.Index(soon(t), wire.IndexArgs{}, w)
	require.ErrorIs(t, err, wire.ErrMalformed)
	require.LessOrEqual(t, sent.Load(), int64(wire.Window+wire.MaxData))
}

func TestOtherVersion(t *testing.T) {
	t.Parallel()
	for payload, theirs := range map[string]int{`{"version":2,"new":["field"]}`: 2, `{"version":0}`: 0, `"hello"`: 0} {
		_, err := Dial(soon(t), hostile(t, func(w net.Conn, f wire.Frame) error {
			return wire.Write(w, wire.Frame{Kind: wire.KindAnswer, Call: f.Call, Payload: []byte(payload)})
		}), nil)
		var v *VersionError
		require.ErrorAs(t, err, &v)
		require.Equal(t, theirs, v.Theirs)
	}
}

// A component that says nothing any more is given up when its lease would be over, and every call ends with its context.
func TestSilentComponent(t *testing.T) {
	t.Parallel()
	c, err := Dial(soon(t), hostile(t, func(w net.Conn, f wire.Frame) error {
		if f.Call == 1 {
			return hello(w, f)
		}
		return nil
	}), &ComponentOptions{Lease: time.Second})
	require.NoError(t, err)
	defer c.Close()
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = c.Inspect(short, wire.InspectArgs{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	select {
	case <-c.Done():
	case <-time.After(5 * time.Second):
		t.Fatal("it is not given up")
	}
	require.ErrorIs(t, c.Err(), ErrLost)
}

// cutting is a link that breaks after so many writes of ours, or reads.
type cutting struct {
	net.Conn
	left *atomic.Int32
}

func (c cutting) Write(p []byte) (int, error) {
	if c.left.Add(-1) < 0 {
		c.Close()
		return 0, io.ErrClosedPipe
	}
	return c.Conn.Write(p)
}

func (c cutting) Read(p []byte) (int, error) {
	if c.left.Add(-1) < 0 {
		c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return c.Conn.Read(p)
}

// The link is cut at every message of a session: each call after that is ErrLost, and the guest is not frozen.
func TestCutAtEveryMessage(t *testing.T) {
	t.Parallel()
	for n := int32(0); ; n++ {
		require.Less(t, n, int32(200))
		s := &still{}
		left := &atomic.Int32{}
		left.Store(n)
		ours, theirs := net.Pipe()
		served := make(chan struct{})
		go func() {
			defer close(served)
			agent.New(&agent.Options{Freezer: s, Indexer: &indexer{data: []byte("index")}}).Serve(context.Background(), theirs)
		}()
		err := wholeSession(soon(t), cutting{ours, left})
		<-served
		require.False(t, s.frozen.Load(), "cut at %d", n)
		if err == nil {
			require.Greater(t, n, int32(10))
			return
		}
		require.ErrorIs(t, err, ErrLost, "cut at %d", n)
	}
}

func wholeSession(ctx context.Context, link io.ReadWriteCloser) error {
	c, err := Dial(ctx, link, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	q := c.Quiesce(wire.FreezeArgs{})
	if err := q.Freeze(ctx); err != nil {
		return err
	}
	if err := q.Thaw(ctx); err != nil {
		return err
	}
	if _, err := c.Index(ctx, wire.IndexArgs{}, io.Discard); err != nil {
		return err
	}
	_, err = c.Remove(ctx)
	return err
}

// R189: a component that takes nothing more holds no caller beyond his time, and is lost after its lease.
func TestComponentThatTakesNothing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		go func() {
			wire.Read(far)
			p, _ := wire.Encode(wire.HelloAnswer{Version: wire.Version})
			wire.Write(far, wire.Frame{Kind: wire.KindAnswer, Call: 1, Payload: p})
		}()
		c, err := Dial(t.Context(), near, &ComponentOptions{Lease: 10 * time.Second})
		require.NoError(t, err)
		began := time.Now()
		for range 2 { // the first is on its way, the second waits for its turn
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			_, err = c.Thaw(ctx)
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		require.Equal(t, 600*time.Millisecond, time.Since(began))
		<-c.Done()
		require.ErrorIs(t, c.Err(), ErrLost)
		require.ErrorContains(t, c.Err(), "took nothing")
		require.Equal(t, 10*time.Second, time.Since(began))
		require.NoError(t, c.Close())
		far.Close()
	})
}
