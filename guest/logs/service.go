package logs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hikae/hikae/guest/agent/wire"
)

// Bounds of the interval.
const (
	DefaultEvery = 15 * time.Minute
	MaxEvery     = 480 * time.Minute
	MinEvery     = time.Second
)

// Keeper is a way to one guest's logs. A guest.Component is one.
type Keeper interface {
	Logs(ctx context.Context, args wire.LogsArgs) (wire.LogsAnswer, error)
	Fetch(ctx context.Context, args wire.FetchArgs, to io.Writer) (wire.FetchAnswer, error)
	Shipped(ctx context.Context, args wire.ShippedArgs) error
	// Close takes away what was brought into the guest for it.
	io.Closer
}

// Opener finds or deploys a guest's component. It is called once or twice in a round: a link that breaks, or does not
// open, is opened again once (R190).
type Opener func(ctx context.Context, vm string) (Keeper, error)

// Options change a service. Nil and zero fields are good defaults.
type Options struct {
	// Every is the time between two rounds of a VM. Zero: 15 minutes; at most 480.
	Every time.Duration
	// Limit bounds one round of a VM. Zero: one hour.
	Limit time.Duration
	// Parallel is how many VMs are served at once. Zero: 4.
	Parallel int
	// Report is told of each round, also of one that failed. It may be called by several goroutines.
	Report func(Report)
}

// Service takes logs from guests between image backups. Its methods may be called by several goroutines.
type Service struct {
	open  Opener
	store Store
	opts  Options
	wake  chan struct{}
	turn  chan struct{}

	mu  sync.Mutex
	vms map[string]*machine
}

// machine is what the service knows of one VM.
type machine struct {
	image  *ImagePoint
	paused bool
	due    time.Time
	busy   chan struct{} // holds a token: who has it has the VM
	// queued says that a round waits for its turn or is under way: a VM whose guest hangs takes one turn, not all. again
	// is a round that is wanted right behind it.
	queued, again bool
	streams       map[Stream]bool // of all images, for Forget
}

// ImagePoint is a new image of a VM.
type ImagePoint struct {
	VM      string
	ID      string // of the point
	Streams []ImageStream
}

// ImageStream is an application in an image.
type ImageStream struct {
	Kind, Name string
	// Processed says that the application was processed for this image. The logs of one that was not wait for the next
	// image.
	Processed bool
	// From is the first log that the image needs, so that a hole right behind the image is seen at once. [From] finds it
	// in the records. Empty: a restore will find it.
	From string
	// Unbounded lets the guest keep logs where nothing bounds them (wire.LogsArgs). False: such a stream is refused.
	Unbounded bool
}

// Report is how a round of a VM went.
type Report struct {
	VM        string
	Container string // id of the image point
	Began     time.Time
	Took      time.Duration
	Err       error // of the whole round
	Streams   []StreamReport
}

// StreamReport is how a round of a stream went.
type StreamReport struct {
	Stream Stream
	Stored int
	Bytes  int64
	Latest time.Time // that can be restored, as far as this round can tell; zero: nothing new
	Gap    *GapError // logs are missing: the chain is broken here
	// Waits says why nothing was done, in words.
	Waits string
	Err   error // what is left stays in the guest until the next round
}

// New makes a service. It does nothing before Run.
func New(open Opener, store Store, opts *Options) *Service {
	s := &Service{open: open, store: store, wake: make(chan struct{}, 1), vms: map[string]*machine{}}
	if opts != nil {
		s.opts = *opts
	}
	s.opts.Every = max(MinEvery, min(cmp.Or(s.opts.Every, DefaultEvery), MaxEvery))
	s.opts.Limit = cmp.Or(s.opts.Limit, time.Hour)
	s.opts.Parallel = max(1, cmp.Or(s.opts.Parallel, 4))
	s.turn = make(chan struct{}, s.opts.Parallel)
	return s
}

// vm is what is known of a VM; the caller holds the lock.
func (s *Service) vm(name string) *machine {
	m := s.vms[name]
	if m == nil {
		m = &machine{busy: make(chan struct{}, 1), streams: map[Stream]bool{}}
		s.vms[name] = m
	}
	return m
}

// Begin makes a guest keep logs from now on. Call it before an application is made ready for its first image: what the
// guest throws away before the first round is missing from then on. It is harmless where logs are kept already.
func Begin(ctx context.Context, k Keeper, vm string, streams ...ImageStream) (err error) {
	for _, st := range streams {
		if _, e := k.Logs(ctx, wire.LogsArgs{Kind: st.Kind, Name: st.Name, Begin: true, Unbounded: st.Unbounded}); e != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", Stream{vm, st.Kind, st.Name}, e))
		}
	}
	return err
}

// Image tells of a new image point. Its first round is due at once.
func (s *Service) Image(img ImagePoint) {
	img.Streams = slices.Clone(img.Streams)
	s.mu.Lock()
	m := s.vm(img.VM)
	m.image, m.paused, m.due, m.again = &img, false, time.Now(), m.queued
	for _, is := range img.Streams {
		m.streams[Stream{img.VM, is.Kind, is.Name}] = true
	}
	s.mu.Unlock()
	s.poke()
}

// Pause tells that an image session begins, and waits for a round that is under way to end.
func (s *Service) Pause(ctx context.Context, vm string) error {
	s.mu.Lock()
	m := s.vm(vm)
	m.paused = true
	s.mu.Unlock()
	select {
	case m.busy <- struct{}{}:
		<-m.busy
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Resume tells that the session ended without a new point.
func (s *Service) Resume(vm string) {
	s.mu.Lock()
	s.vm(vm).paused = false
	s.mu.Unlock()
	s.poke()
}

// Forget makes the guest stop keeping logs for us, and the service stop asking: for each stream that was ever told of or
// is stored, and then for whatever else keeps some. The VM is forgotten when all of that has succeeded; until then no more
// rounds are made, what keeps logs there (a replication slot) may still be there, as the error says, and Forget can be
// called again.
func (s *Service) Forget(ctx context.Context, vm string) error {
	if err := s.Pause(ctx, vm); err != nil {
		return err
	}
	streams, err := s.streamsOf(ctx, vm)
	if err != nil {
		return fmt.Errorf("%s: which streams are stored: %w", vm, err)
	}
	k, err := s.open(ctx, vm)
	if err != nil {
		return fmt.Errorf("%s: %w", vm, err)
	}
	for _, st := range streams {
		if _, end := k.Logs(ctx, wire.LogsArgs{Kind: st.Kind, Name: st.Name, End: true}); end != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", st, end))
		}
	}
	if _, end := k.Logs(ctx, wire.LogsArgs{End: true}); end != nil {
		err = errors.Join(err, fmt.Errorf("%s: whatever else keeps logs: %w", vm, end))
	}
	if err != nil {
		return errors.Join(err, k.Close())
	}
	s.mu.Lock()
	delete(s.vms, vm)
	s.mu.Unlock()
	return k.Close()
}

// streamsOf are the streams of a VM that images told of, and those that are stored.
func (s *Service) streamsOf(ctx context.Context, vm string) ([]Stream, error) {
	all := map[Stream]bool{}
	if l, ok := s.store.(Lister); ok {
		for st, err := range l.Streams(ctx, vm) {
			if err != nil {
				return nil, err
			}
			all[st] = true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.Copy(all, s.vm(vm).streams)
	return slices.SortedFunc(maps.Keys(all), func(a, b Stream) int { return cmp.Compare(a.String(), b.String()) }), nil
}

func (s *Service) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run goes round until the context ends, and returns its error when all that was under way has ended too.
func (s *Service) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		names, next := s.next(time.Now())
		for _, vm := range names {
			wg.Go(func() { s.round(ctx, vm) })
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-s.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// next are the VMs that are due, and for how long none is. They are put off by an interval here already: a round that
// takes longer is not followed by another at once.
func (s *Service) next(now time.Time) (names []string, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait = s.opts.Every
	for name, m := range s.vms {
		if m.image == nil || m.paused || m.queued {
			continue
		}
		if !m.due.After(now) {
			m.due, m.queued = now.Add(s.opts.Every), true
			names = append(names, name)
		}
		wait = min(wait, m.due.Sub(now))
	}
	slices.Sort(names)
	return names, wait
}

// round is one round of a VM when it is its turn.
func (s *Service) round(ctx context.Context, vm string) {
	defer s.rounded(vm)
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return
	}
	_, _ = s.Collect(ctx, vm) // the report has been told
}

// rounded lets a VM be due again: at once where that was asked for meanwhile, else not before an interval has gone by.
func (s *Service) rounded(vm string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.vms[vm]; m != nil {
		if now := time.Now(); m.again || !m.due.After(now) {
			m.due = now
			if !m.again {
				m.due = now.Add(s.opts.Every)
			}
		}
		m.queued, m.again = false, false
	}
	s.poke()
}

// Collect does one round of a VM now. It is what Run does when a VM is due. The error is the report's first one.
func (s *Service) Collect(ctx context.Context, vm string) (Report, error) {
	s.mu.Lock()
	m := s.vm(vm)
	s.mu.Unlock()
	select {
	case m.busy <- struct{}{}:
		defer func() { <-m.busy }()
	case <-ctx.Done():
		return Report{VM: vm, Err: ctx.Err()}, ctx.Err()
	}
	s.mu.Lock()
	image, paused := m.image, m.paused
	s.mu.Unlock()
	switch {
	case paused:
		return Report{VM: vm, Err: ErrPaused}, ErrPaused
	case image == nil:
		return Report{VM: vm, Err: ErrIdle}, ErrIdle
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.Limit)
	defer cancel()
	r := s.collect(ctx, image)
	if s.opts.Report != nil {
		s.opts.Report(r)
	}
	return r, r.first()
}

// first is the first error of a report.
func (r Report) first() error {
	if r.Err != nil {
		return r.Err
	}
	for _, s := range r.Streams {
		if s.Err != nil {
			return s.Err
		}
		if s.Gap != nil {
			return s.Gap
		}
	}
	return nil
}
