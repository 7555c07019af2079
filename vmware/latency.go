package vmware

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/vmware/govmomi/vim25/types"
)

// LatencyOptions make reading yield to the VMs of a datastore. Its hosts tell how long the datastore takes for a read, on
// average over 20 seconds, those of its VMs included.
//
//	below StopMillis                reading goes faster again, little by little
//	from StopMillis                 no further disk of that datastore is begun
//	from ThrottleMillis             what is being read slows down, by half every 20 seconds
//
// On vSAN and Virtual Volumes, which tell no such figure, and where the figure cannot be had, nothing is slowed down.
type LatencyOptions struct {
	Off bool
	// StopMillis and ThrottleMillis are milliseconds. Zero: 20 and 30. StopMillis is at most ThrottleMillis.
	StopMillis, ThrottleMillis int64
	// MaxWait bounds how long a disk waits for its turn. Zero: 15 minutes.
	MaxWait time.Duration
	// Tell is told, once, where the control was switched off, and why. Nil: nobody is.
	Tell func(text string)
}

const (
	latencyEvery  = 20 * time.Second // how often hosts have a new figure
	latencyFails  = 3                // in a row switch a datastore's control off
	windowMost    = 64 << 20         // bytes in flight of one datastore: more than any transport asks for
	windowLeast   = 256 << 10
	windowStep    = 4 << 20
	maxDatastores = 4096
)

func (o LatencyOptions) withDefaults() LatencyOptions {
	if o.ThrottleMillis <= 0 {
		o.ThrottleMillis = 30
	}
	if o.StopMillis <= 0 {
		o.StopMillis = 20
	}
	o.StopMillis = min(o.StopMillis, o.ThrottleMillis)
	orElse(&o.MaxWait, 15*time.Minute)
	if o.Tell == nil {
		o.Tell = func(string) {}
	}
	return o
}

// throttle is the image, read no faster than its datastore bears.
func (c *Client) throttle(img pipe.Image, datastore types.ManagedObjectReference) pipe.Image {
	if c.latency == nil || c.latency.opts.Off || datastore.Value == "" {
		return img
	}
	w := c.latency.watch(datastore)
	if w == nil {
		return img
	}
	return &throttled{Image: img, w: w, forget: sync.OnceFunc(func() { c.latency.forget(w) })}
}

// throttled is an image whose reads take their turn with all others of a datastore.
type throttled struct {
	pipe.Image
	w      *busyStore
	forget func()
}

func (t *throttled) Unwrap() pipe.Image { return t.Image }

func (t *throttled) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	done, err := t.w.window.take(ctx, int64(len(p)))
	if err != nil {
		return 0, fmt.Errorf("%d bytes at %d, waiting for datastore %s, which is busy: %w", len(p), off, t.w.ref.Value, err)
	}
	defer done()
	return t.Image.ReadAt(ctx, p, off)
}

func (t *throttled) Close() error {
	t.forget()
	return t.Image.Close()
}

// latency watches the datastores that are in use.
type latency struct {
	opts LatencyOptions
	// read is how long a datastore takes for a read, in milliseconds.
	read   func(ctx context.Context, datastore types.ManagedObjectReference) (int64, error)
	keeper keeper
	// reading holds a token while a figure is read: those who ask meanwhile have it, or leave.
	reading chan struct{}

	mu      sync.Mutex
	started bool
	stopped bool
	stores  map[types.ManagedObjectReference]*busyStore
}

// busyStore is a datastore that is in use.
type busyStore struct {
	ref    types.ManagedObjectReference
	window flight

	// the rest belongs to latency.mu
	users  int
	millis int64
	at     time.Time // of millis; zero: there was none yet
	fails  int
	off    bool
	change chan struct{} // closed at each new figure
}

func newLatency(c *Client, opts LatencyOptions) *latency {
	counters := &latencyCounters{c: c}
	return &latency{opts: opts.withDefaults(), read: counters.read, reading: make(chan struct{}, 1),
		stores: map[types.ManagedObjectReference]*busyStore{}}
}

// watch takes note of one more user of a datastore. Nil: it is not controlled.
func (l *latency) watch(ref types.ManagedObjectReference) *busyStore {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opts.Off || l.stopped || ref.Value == "" {
		return nil
	}
	w := l.stores[ref]
	if w == nil {
		if len(l.stores) >= maxDatastores {
			return nil
		}
		w = &busyStore{ref: ref, change: make(chan struct{})}
		w.window.set(windowMost)
		l.stores[ref] = w
	}
	w.users++
	if !l.started {
		l.started = true
		l.keeper.start(latencyEvery, l.look)
	}
	return w
}

func (l *latency) forget(w *busyStore) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// What is known of it stays, and how fast it may be read: the next disk of the same datastore begins there.
	w.users--
}

// stop ends the watch.
func (l *latency) stop() {
	if l == nil {
		return
	}
	l.mu.Lock()
	l.stopped = true
	l.mu.Unlock()
	l.keeper.stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.stores {
		l.switchOff(w)
	}
}

// admit waits until a datastore is not too busy for one more disk.
func (l *latency) admit(ctx context.Context, ref types.ManagedObjectReference) error {
	if l == nil {
		return nil
	}
	w := l.watch(ref)
	if w == nil {
		return nil
	}
	defer l.forget(w)
	limit, cancel := context.WithTimeout(ctx, l.opts.MaxWait)
	defer cancel()
	l.refresh(limit, w)
	for {
		millis, changed, busy := l.busy(w)
		if !busy {
			return ctx.Err()
		}
		select {
		case <-changed:
		case <-limit.Done():
			if ctx.Err() == nil { // others may keep it busy for ever
				return nil
			}
			return fmt.Errorf("waiting for datastore %s, which takes %d ms for a read: %w", ref.Value, millis, ctx.Err())
		}
	}
}

func (l *latency) busy(w *busyStore) (millis int64, changed <-chan struct{}, busy bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return w.millis, w.change, !w.off && w.millis >= l.opts.StopMillis
}

// turn waits until nobody else reads a figure: a server that is silent holds back whoever waits for as long as it wants
// itself. It reports false where ctx ended first.
func (l *latency) turn(ctx context.Context) bool {
	select {
	case l.reading <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// refresh asks for a datastore's figure, where there is none that is young enough.
func (l *latency) refresh(ctx context.Context, w *busyStore) {
	if !l.turn(ctx) {
		return
	}
	defer func() { <-l.reading }()
	l.mu.Lock()
	young := w.off || !w.at.IsZero() && time.Since(w.at) < 2*latencyEvery
	l.mu.Unlock()
	if !young {
		l.lookAt(ctx, w)
	}
}

// look asks for the figures of all that is in use.
func (l *latency) look(ctx context.Context) {
	if !l.turn(ctx) {
		return
	}
	defer func() { <-l.reading }()
	for _, w := range l.inUse() {
		l.lookAt(ctx, w)
	}
}

func (l *latency) inUse() []*busyStore {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*busyStore
	for _, w := range l.stores {
		if w.users > 0 && !w.off {
			out = append(out, w)
		}
	}
	return out
}

func (l *latency) lookAt(caller context.Context, w *busyStore) {
	ctx, cancel := context.WithTimeout(caller, latencyEvery)
	defer cancel()
	millis, err := l.read(ctx, w.ref)
	l.mu.Lock()
	var told string
	switch {
	case err == nil:
		w.fails = 0
		l.steer(w, millis)
	case caller.Err() != nil: // who asked has left: that says nothing of the datastore
	default:
		if w.fails++; !w.off && (w.fails >= latencyFails || !passes(err)) {
			told = fmt.Sprintf("reading is not slowed down when datastore %s is busy: %v", w.ref.Value, err)
			l.switchOff(w)
		}
	}
	l.mu.Unlock()
	if told != "" {
		l.opts.Tell(told)
	}
}

// steer halves what may be in flight while a datastore is too slow, and adds a little while it is fast. Together with all
// others who do so, each gets its share.
func (l *latency) steer(w *busyStore, millis int64) {
	w.millis, w.at = millis, time.Now()
	switch now := w.window.size(); {
	case millis >= l.opts.ThrottleMillis:
		w.window.set(max(windowLeast, now/2))
	case millis < l.opts.StopMillis:
		w.window.set(min(windowMost, now+windowStep))
	}
	close(w.change)
	w.change = make(chan struct{})
}

func (l *latency) switchOff(w *busyStore) {
	if w.off {
		return
	}
	w.off = true
	w.window.set(windowMost)
	close(w.change)
	w.change = make(chan struct{})
}

// flight is how many bytes may be in flight. A read that is larger than the window goes alone.
type flight struct {
	mu    sync.Mutex
	most  int64
	now   int64
	queue []*reader
}

type reader struct {
	n     int64
	ready chan struct{}
}

func (w *flight) size() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.most
}

func (w *flight) set(most int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.most = most
	w.grant()
}

func (w *flight) take(ctx context.Context, n int64) (done func(), err error) {
	r := &reader{n: n, ready: make(chan struct{})}
	w.mu.Lock()
	w.queue = append(w.queue, r)
	w.grant()
	w.mu.Unlock()
	select {
	case <-r.ready:
	case <-ctx.Done():
		if w.leave(r) {
			return nil, ctx.Err()
		}
	}
	return func() { w.give(n) }, nil
}

// leave reports whether the reader still waited.
func (w *flight) leave(r *reader) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, other := range w.queue {
		if other == r {
			w.queue = append(w.queue[:i], w.queue[i+1:]...)
			w.grant()
			return true
		}
	}
	return false
}

func (w *flight) give(n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now -= n
	w.grant()
}

func (w *flight) grant() {
	for len(w.queue) > 0 {
		r := w.queue[0]
		if w.now > 0 && w.now+r.n > w.most {
			return
		}
		w.now += r.n
		w.queue = w.queue[1:]
		close(r.ready)
	}
}
