package agent

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hikae/hikae/guest/agent/wire"
)

const (
	relayWindow = 1 << 20                // bytes of a call's output that nobody fetched yet
	quiet       = 100 * time.Millisecond // an output that does not grow for so long is handed out as it is
)

// relayed is the stream of one call, which asks write to and read from at offsets.
type relayed struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change
	in      []byte        // not read yet
	inAt    int64         // offset of its end
	out     []byte
	outAt   int64 // offset of its beginning
	ended   bool  // the answer is in out, or there will be none
}

func newRelayed() *relayed { return &relayed{changed: make(chan struct{})} }

// change tells everybody who waits. The caller holds mu.
func (r *relayed) change() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// bring appends bytes of the client's, as far as they are new.
func (r *relayed) bring(off int64, p []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if off > r.inAt {
		return fmt.Errorf("%w: bytes at %d, %d are there", errAsk, off, r.inAt)
	}
	known := r.inAt - off
	if known >= int64(len(p)) || r.ended {
		return nil
	}
	if len(r.in)+len(p) > relayWindow+wire.Window {
		return fmt.Errorf("%w: more than the call takes", errAsk)
	}
	p = p[known:]
	r.in, r.inAt = append(r.in, p...), r.inAt+int64(len(p))
	r.change()
	return nil
}

// fetch hands out bytes from off on, and lets go of those before. It waits until there are max, or the call has ended, or
// nothing came for a moment, or the time is over.
func (r *relayed) fetch(off int64, max int, wait time.Duration) ([]byte, error) {
	over := time.NewTimer(wait)
	defer over.Stop()
	for {
		r.mu.Lock()
		if off < r.outAt || off > r.outAt+int64(len(r.out)) {
			defer r.mu.Unlock()
			return nil, fmt.Errorf("%w: bytes from %d wanted, %d to %d are there", errAsk, off, r.outAt, r.outAt+int64(len(r.out)))
		}
		if off > r.outAt {
			r.out, r.outAt = r.out[off-r.outAt:], off
			r.change()
		}
		n, ended, changed := len(r.out), r.ended, r.changed
		p := append([]byte(nil), r.out[:min(n, max)]...)
		r.mu.Unlock()
		if n >= max || ended {
			return p, nil
		}
		var still <-chan time.Time
		if n > 0 {
			still = time.After(quiet)
		}
		select {
		case <-changed:
		case <-still:
			return p, nil
		case <-over.C:
			return p, nil
		}
	}
}

// Read gives the session what the client sent. After the answer there is no more.
func (r *relayed) Read(p []byte) (int, error) {
	for {
		r.mu.Lock()
		if len(r.in) > 0 {
			defer r.mu.Unlock()
			n := copy(p, r.in)
			r.in = r.in[n:]
			return n, nil
		}
		ended, changed := r.ended, r.changed
		r.mu.Unlock()
		if ended {
			return 0, io.EOF
		}
		<-changed
	}
}

// Write takes one frame of the session's. It waits while nobody fetches. An answer or a failure is the last.
func (r *relayed) Write(frame []byte) (int, error) {
	for {
		r.mu.Lock()
		if r.ended {
			defer r.mu.Unlock()
			return 0, io.ErrClosedPipe
		}
		last := frame[4] == wire.KindAnswer || frame[4] == wire.KindFailure
		if last || len(r.out) < relayWindow {
			defer r.mu.Unlock()
			r.out = append(r.out, frame...)
			r.ended = last
			r.change()
			return len(frame), nil
		}
		changed := r.changed
		r.mu.Unlock()
		<-changed
	}
}

// Close ends the call. What was not fetched yet can be.
func (r *relayed) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	r.change()
	return nil
}

func (r *relayed) isEnded() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended
}
