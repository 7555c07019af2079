package logs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/hikae/hikae/guest/agent/wire"
)

// Bounds of one batch: what is stored is told to the guest batch by batch.
const (
	batchLogs  = 64
	batchBytes = 1 << 30
)

// link is the way to a guest. It is opened when it is needed, and once more where it broke or did not open.
type link struct {
	open   Opener
	vm     string
	keeper Keeper
	opened int
	failed error // of the last open
	// list is done first where another component answers than before: it hands out only what it has listed.
	list func(Keeper) error
}

// maxOpened is the first time and one attempt to come back, in a whole round (R190).
const maxOpened = 2

// do does something with the guest. A refusal of the component is an answer; anything else is a broken link.
func (l *link) do(ctx context.Context, f func(Keeper) error) error {
	for {
		if err := l.connect(ctx); err != nil {
			return err
		}
		err := f(l.keeper)
		var refused *wire.Failure
		var local *localError
		if err == nil || errors.As(err, &refused) || errors.As(err, &local) || ctx.Err() != nil || l.opened == maxOpened {
			return err
		}
		_ = l.keeper.Close() // it is broken, which err says
		l.keeper = nil
	}
}

// connect opens the link where it is not open.
func (l *link) connect(ctx context.Context) error {
	for l.keeper == nil {
		if l.opened == maxOpened || l.opened > 0 && ctx.Err() != nil {
			return cmp.Or(l.failed, ctx.Err())
		}
		l.opened++
		k, err := l.open(ctx, l.vm)
		if err != nil {
			l.failed = err
			continue
		}
		if l.keeper = k; l.list != nil {
			if err := l.list(k); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *link) close() error {
	if l.keeper == nil {
		return nil
	}
	return l.keeper.Close()
}

// localError is an error of our own side, which no other link would mend.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// collect is one round of a VM: one stream after the other, so that its guest has one request at a time.
func (s *Service) collect(ctx context.Context, img *ImagePoint) Report {
	r := Report{VM: img.VM, Container: img.ID, Began: time.Now()}
	l := &link{open: s.open, vm: img.VM}
	for _, is := range img.Streams {
		sr := StreamReport{Stream: Stream{img.VM, is.Kind, is.Name}}
		if is.Processed {
			s.stream(ctx, l, img.ID, is, &sr)
		} else {
			sr.Waits = "its application could not be processed for the last image: logs wait for the next one"
		}
		r.Streams = append(r.Streams, sr)
	}
	if err := l.close(); err != nil {
		r.Err = fmt.Errorf("%s: %w", img.VM, err)
	}
	r.Took = time.Since(r.Began)
	return r
}

// stream takes what one stream has that is not stored.
func (s *Service) stream(ctx context.Context, l *link, container string, is ImageStream, r *StreamReport) {
	st := r.Stream
	h, err := s.history(ctx, st)
	if err != nil {
		r.Err = fmt.Errorf("%s: what is stored: %w", st, err)
		return
	}
	answer, err := listLogs(ctx, l, st, is.Unbounded)
	if err != nil {
		r.Err = fmt.Errorf("%s: %w", st, err)
		return
	}
	listed, huge, err := sift(st, answer)
	if err != nil {
		r.Err = err
		return
	}
	anew, err := h.anew(ctx, l, st, answer, listed)
	if err != nil {
		r.Err = fmt.Errorf("%s: whether the guest's logs are those that are stored: %w", st, err)
		return
	}
	fresh, safe := h.split(listed)
	r.Gap = cmp.Or(anew, gap(st, h.last, fresh, cmp.Or(answer.Gap, huge)))
	if is.From != "" && r.Gap == nil && !begun(is.From, answer.Timeline, h.logs, fresh) {
		r.Gap = &GapError{Stream: st, Before: firstName(fresh), Words: "the image needs the logs from " + is.From + " on"}
	}
	for len(fresh) > 0 && r.Err == nil {
		n := portion(fresh)
		if r.Err = s.ship(ctx, l, st, container, fresh[:n], r); r.Err == nil {
			safe = append(safe, names(fresh[:n])...)
			fresh = fresh[n:]
		}
	}
	if len(safe) == 0 {
		return
	}
	err = l.do(ctx, func(k Keeper) error {
		return k.Shipped(ctx, wire.ShippedArgs{Kind: st.Kind, Name: st.Name, Logs: safe})
	})
	if err != nil {
		r.Err = errors.Join(r.Err, fmt.Errorf("%s: the guest could not be told what is safe: %w", st, err))
	}
}

// listLogs asks the guest what there is.
func listLogs(ctx context.Context, l *link, st Stream, unbounded bool) (answer wire.LogsAnswer, err error) {
	l.list = nil
	err = l.do(ctx, func(k Keeper) (err error) {
		answer, err = k.Logs(ctx, wire.LogsArgs{Kind: st.Kind, Name: st.Name, Begin: true, Unbounded: unbounded})
		return err
	})
	if err == nil {
		l.list = func(k Keeper) error {
			_, err := k.Logs(ctx, wire.LogsArgs{Kind: st.Kind, Name: st.Name})
			return err
		}
	}
	return answer, err
}

// sift refuses what cannot be. A log that is too long to be stored is left out, and told in words.
func sift(st Stream, answer wire.LogsAnswer) (listed []Log, huge string, err error) {
	if answer.Timeline != "" && !fit(answer.Timeline) {
		return nil, "", fmt.Errorf("%s: a timeline %.64q", st, answer.Timeline)
	}
	for _, o := range answer.Logs {
		at, err := time.Parse(time.RFC3339Nano, o.Time)
		if err != nil || !fit(o.Name) || o.Size < 0 {
			return nil, "", fmt.Errorf("%s: a log %.200q of %d bytes, complete at %.64q", st, o.Name, o.Size, o.Time)
		}
		if o.Size > maxLog {
			huge = fmt.Sprintf("%s has %d bytes, and at most %d are stored of one log", o.Name, o.Size, int64(maxLog))
			continue
		}
		listed = append(listed, Log{Name: o.Name, Timeline: answer.Timeline, Size: o.Size, Time: at.UTC(), Mark: o.Mark})
	}
	return listed, huge, nil
}

// begun reports whether the first log that an image needs is here.
func begun(from, timeline string, known map[string]Log, fresh []Log) bool {
	_, ok := known[timeline+"/"+from]
	return ok || slices.ContainsFunc(fresh, func(o Log) bool { return o.Name == from })
}

func firstName(logs []Log) string {
	for _, o := range logs {
		if _, ok := place(o.Name, o.Size); ok {
			return o.Name
		}
	}
	return ""
}

// gap finds what is missing between what is stored and what is new, or in between, and notes it with the log behind it.
func gap(st Stream, last *Log, fresh []Log, words string) (g *GapError) {
	for i := range fresh {
		o := &fresh[i]
		if _, ok := place(o.Name, o.Size); !ok {
			continue
		}
		if last != nil && o.Gap == "" && !continues(*last, *o) {
			note := &GapError{Stream: st, After: last.Name, Before: o.Name, Words: words}
			if o.Gap = note.Error(); g == nil {
				g = note
			}
		}
		last = o
	}
	if g == nil && words != "" {
		g = &GapError{Stream: st, Words: words}
	}
	return g
}

// portion is how many logs go into one batch.
func portion(fresh []Log) (n int) {
	var size int64
	for n < min(len(fresh), batchLogs) {
		if size += fresh[n].Size; n > 0 && size > batchBytes {
			break
		}
		n++
	}
	return n
}

func names(logs []Log) (all []string) {
	for _, l := range logs {
		all = append(all, l.Name)
	}
	return all
}

// ship stores one batch. It is durable when this returns nil.
func (s *Service) ship(ctx context.Context, l *link, st Stream, container string, logs []Log, r *StreamReport) error {
	return l.do(ctx, func(k Keeper) error {
		b, err := s.store.Begin(ctx, st, container)
		if err != nil {
			return &localError{fmt.Errorf("%s: %w", st, err)}
		}
		defer b.Close()
		var bytes int64
		for _, o := range logs {
			if err := put(ctx, b, k, st, o); err != nil {
				return fmt.Errorf("%s: log %s: %w", st, o.Name, err)
			}
			bytes += o.Size
		}
		if err := b.Commit(ctx); err != nil {
			return &localError{fmt.Errorf("%s: %w", st, err)}
		}
		r.Stored, r.Bytes = r.Stored+len(logs), r.Bytes+bytes
		for _, o := range logs {
			if o.Mark && o.Time.After(r.Latest) {
				r.Latest = o.Time
			}
		}
		return nil
	})
}

// put brings one log from the guest into a batch. The guest's own sum is held against what came.
func put(ctx context.Context, b Batch, k Keeper, st Stream, o Log) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	fetched := make(chan error, 1)
	go func() {
		err := fetch(ctx, k, st, o, w)
		_ = w.CloseWithError(err) // nil is the end; it never fails
		fetched <- err
	}()
	err := b.Put(ctx, o, r)
	_ = r.CloseWithError(errStopped) // the fetcher has ended, or is to
	if err != nil {
		cancel()
	}
	got := <-fetched
	if got != nil && !errors.Is(got, errStopped) && !errors.Is(got, context.Canceled) {
		return got // it is why Put failed
	}
	if err != nil {
		return &localError{err}
	}
	return got
}

// errStopped ends a fetch whose other side wants no more.
var errStopped = errors.New("the store takes no more")

func fetch(ctx context.Context, k Keeper, st Stream, o Log, w io.Writer) error {
	_, err := fetchSum(ctx, k, st, o, w)
	return err
}

// fetchSum fetches a log and returns its sum.
func fetchSum(ctx context.Context, k Keeper, st Stream, o Log, w io.Writer) (sum Sum, err error) {
	h := newHasher()
	answer, err := k.Fetch(ctx, wire.FetchArgs{Kind: st.Kind, Name: st.Name, Log: o.Name}, io.MultiWriter(h, w))
	if err != nil {
		return sum, err
	}
	if sum = h.sum(); answer.Bytes != o.Size || string(answer.SHA256) != string(sum[:]) {
		return sum, fmt.Errorf("what came is not what was sent: %d of %d bytes, SHA-256 %x in place of %x", answer.Bytes, o.Size, sum, answer.SHA256)
	}
	return sum, nil
}
