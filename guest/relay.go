package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest/agent/wire"
)

// Figures of relaying. Of what a program prints a channel gives at most 1 MiB.
const (
	relayStart = 30 * time.Second
	relayWait  = 10 * time.Second // that one run waits for bytes
	relaySlack = 30 * time.Second // for the run itself
	relayOut   = 768 << 10        // bytes of one run
	relayIn    = 256 << 10
	relayPush  = 50 * time.Millisecond // that bytes wait for others while a run is under way
	relayPause = time.Second           // after a run that brought nothing and did not wait
	relayTries = 2                     // runs for the same bytes, where the channel failed
)

// The exit status of "hikae-agent relay" where there is no daemon.
const exitNoDaemon = 3

// relay is a stream made of runs of a program, for channels that have nothing else. What is written is taken apart into
// calls; each call has its own runs, which carry bytes at offsets, so that a run whose answer was lost is made again.
type relay struct {
	run  func(ctx context.Context, args []string, stdin []byte) (hikae.RunResult, error)
	dir  string
	ctx  func() context.Context
	stop context.CancelFunc
	work sync.WaitGroup

	mu     sync.Mutex
	ready  *sync.Cond
	frames bytes.Buffer // for Read
	err    error
	calls  map[uint32]*relayCall
}

// relayCall is one call that is open.
type relayCall struct {
	number uint32
	in     []byte // not known to be there
	inAt   int64  // offset of its beginning
	out    []byte // less than a frame
	outAt  int64  // offset of what comes next
	busy   bool   // a pusher is under way
}

// startRelay starts a component that stays.
func startRelay(ctx context.Context, ch Channel, p Program) (io.ReadWriteCloser, error) {
	ctx, cancel := bounded(ctx, relayStart)
	defer cancel()
	dir := folderOf(p.Path)
	run := func(ctx context.Context, args []string, stdin []byte) (hikae.RunResult, error) {
		words := append(append(append([]string{}, ch.System().Elevate...), p.Path), p.Args...)
		words = append(words, args...)
		return ch.Run(ctx, words[0], words[1:], stdin)
	}
	r, err := run(ctx, []string{"daemon", "--dir", dir}, nil)
	if err == nil && r.ExitCode != 0 {
		err = fmt.Errorf("it ended with %d: %s", r.ExitCode, clean(string(r.Stderr)))
	}
	if err == nil && strings.TrimSpace(string(r.Stdout)) != "ready" {
		err = fmt.Errorf("it did not say that it is ready, but %s", clean(string(r.Stdout)))
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Path, err)
	}
	return newRelay(run, dir), nil
}

func newRelay(run func(context.Context, []string, []byte) (hikae.RunResult, error), dir string) *relay {
	life, stop := context.WithCancel(context.Background())
	r := &relay{run: run, dir: dir, ctx: func() context.Context { return life }, stop: stop, calls: map[uint32]*relayCall{}}
	r.ready = sync.NewCond(&r.mu)
	return r
}

// Read reads the frames of all calls, each whole.
func (r *relay) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.frames.Len() == 0 && r.err == nil {
		r.ready.Wait()
	}
	if r.frames.Len() > 0 {
		return r.frames.Read(p)
	}
	return 0, r.err
}

// Write takes one frame. A request begins a call; what else there is goes with the call's next run.
func (r *relay) Write(frame []byte) (int, error) {
	kind, number := frame[4], binary.BigEndian.Uint32(frame[8:])
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return 0, r.err
	}
	c := r.calls[number]
	switch {
	case kind == wire.KindRequest:
		c = &relayCall{number: number, in: bytes.Clone(frame)}
		r.calls[number] = c
		r.work.Go(func() { r.poll(c) })
	case c == nil: // it has ended
	default:
		c.in = append(c.in, frame...)
		if !c.busy {
			c.busy = true
			r.work.Go(func() { r.push(c) })
		}
	}
	return len(frame), nil
}

// Close ends all runs. The component ends with its lease, or was told to by Remove.
func (r *relay) Close() error {
	r.fail(io.ErrClosedPipe)
	r.stop()
	r.work.Wait()
	return nil
}

func (r *relay) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
	r.ready.Broadcast()
}

// poll fetches until the call has its answer. A run that brings nothing has waited in the guest; one that did not wait is
// followed by a pause, so that a program that answers nothing at once is not started without end.
func (r *relay) poll(c *relayCall) {
	for {
		began, had := time.Now(), r.fetched(c)
		ended, err := r.exchange(c, relayWait, relayOut)
		if err != nil {
			r.fail(err)
			return
		}
		if ended {
			return
		}
		if r.idle(c, had) && time.Since(began) < relayWait/2 && pause(r.ctx(), relayPause) != nil {
			return
		}
	}
}

// fetched is how many bytes of a call are here.
func (r *relay) fetched(c *relayCall) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return c.outAt
}

// idle reports whether nothing came since then, and nothing is to be brought.
func (r *relay) idle(c *relayCall, had int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return c.outAt == had && len(c.in) == 0
}

// push brings what was written while a run waits for bytes.
func (r *relay) push(c *relayCall) {
	for {
		select {
		case <-time.After(relayPush):
		case <-r.ctx().Done():
			return
		}
		r.mu.Lock()
		_, open := r.calls[c.number]
		if len(c.in) == 0 || !open {
			c.busy = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		if _, err := r.exchange(c, 0, 0); err != nil {
			r.fail(err)
			return
		}
	}
}

// exchange makes one run. With max 0 it only brings.
func (r *relay) exchange(c *relayCall, wait time.Duration, max int) (ended bool, err error) {
	r.mu.Lock()
	_, open := r.calls[c.number]
	in, inAt, outAt := bytes.Clone(c.in[:min(len(c.in), relayIn)]), c.inAt, c.outAt
	more := len(in) < len(c.in)
	r.mu.Unlock()
	if !open { // it has ended meanwhile
		return true, nil
	}
	if more {
		wait = 0
	}
	args := []string{"relay", "--dir", r.dir, "--call", strconv.FormatUint(uint64(c.number), 10),
		"--in", strconv.FormatInt(inAt, 10), "--out", strconv.FormatInt(outAt, 10),
		"--wait", strconv.FormatInt(wait.Milliseconds(), 10), "--max", strconv.Itoa(max)}
	got, err := r.try(args, in, wait)
	if err != nil {
		return false, err
	}
	if len(got) > max {
		return false, fmt.Errorf("%w: %d bytes, at most %d were wanted", wire.ErrMalformed, len(got), max)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c.sent(inAt + int64(len(in)))
	return r.take(c, got)
}

// sent forgets what is known to be there.
func (c *relayCall) sent(upTo int64) {
	if n := upTo - c.inAt; n > 0 {
		c.in, c.inAt = c.in[n:], upTo
	}
}

// take hands out whole frames. The caller holds mu.
func (r *relay) take(c *relayCall, got []byte) (ended bool, err error) {
	c.out, c.outAt = append(c.out, got...), c.outAt+int64(len(got))
	for len(c.out) >= wire.HeaderSize {
		n := wire.HeaderSize + int64(binary.BigEndian.Uint32(c.out))
		if n > wire.HeaderSize+wire.MaxMessage || binary.BigEndian.Uint32(c.out[8:]) != c.number {
			return false, fmt.Errorf("%w: a frame of %d bytes for call %d", wire.ErrMalformed, n, c.number)
		}
		if int64(len(c.out)) < n {
			break
		}
		kind := c.out[4]
		r.frames.Write(c.out[:n])
		c.out = c.out[n:]
		if ended = kind == wire.KindAnswer || kind == wire.KindFailure; ended {
			delete(r.calls, c.number)
			break
		}
	}
	r.ready.Broadcast()
	return ended, nil
}

// try makes a run, and makes it again where the channel failed.
func (r *relay) try(args []string, in []byte, wait time.Duration) (out []byte, err error) {
	for range relayTries {
		ctx, cancel := context.WithTimeout(r.ctx(), wait+relaySlack)
		var res hikae.RunResult
		res, err = r.run(ctx, args, in)
		cancel()
		if r.ctx().Err() != nil {
			return nil, io.ErrClosedPipe
		}
		if err != nil {
			continue
		}
		switch {
		case res.ExitCode == exitNoDaemon:
			return nil, errors.Join(io.EOF, errors.New("the component has ended"))
		case res.ExitCode != 0:
			return nil, fmt.Errorf("relay: it ended with %d: %s", res.ExitCode, clean(string(res.Stderr)))
		case res.Truncated:
			return nil, fmt.Errorf("%w: the guest's answer was cut", wire.ErrMalformed)
		}
		return res.Stdout, nil
	}
	return nil, err
}
