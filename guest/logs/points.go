package logs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe"
)

// Bounds of a batch and of a log. A point in a repository behind a mover has at most 256 blobs.
const (
	maxLog   = 4 << 30
	partSize = 64 << 20
	maxParts = 200
	maxList  = 1 << 20 // bytes of a batch's list
)

// listName is the blob with a batch's list.
const listName = "logs.json"

// Points keeps logs as small points of a backend: a repository, or a mover in front of one.
type Points struct {
	backend pipe.Backend

	mu    sync.Mutex
	known map[string][]Log // by point: points never change
}

var _ Store = (*Points)(nil)

// NewPoints makes a store of a backend. It may be shared.
func NewPoints(b pipe.Backend) *Points { return &Points{backend: b, known: map[string][]Log{}} }

// VM is the name under which the logs of a VM are kept.
func VM(vm string) string { return vm + "/logs" }

// list is what a batch holds.
type list struct {
	Version   int    `json:"version"`
	Stream    Stream `json:"stream"`
	Container string `json:"container"`
	Logs      []Log  `json:"logs"`
}

// batch is a point that is being written.
type batch struct {
	w     pipe.PointWriter
	list  list
	parts int
	err   error
}

// Begin starts a point.
func (p *Points) Begin(ctx context.Context, s Stream, container string) (Batch, error) {
	w, err := p.backend.Begin(ctx, VM(s.VM), &pipe.PointOptions{
		Facts: map[string]string{"logs": s.Kind + "/" + s.Name, "container": container},
	})
	if err != nil {
		return nil, err
	}
	return &batch{w: w, list: list{Version: 1, Stream: s, Container: container, Logs: []Log{}}}, nil
}

// partName names a part of a log.
func partName(log string, n int64) string { return fmt.Sprintf("%s.%03d", log, n) }

// parts is in how many parts a log is kept.
func parts(size int64) int64 { return (size + partSize - 1) / partSize }

func (b *batch) Put(ctx context.Context, l Log, r io.Reader) error {
	if b.err == nil {
		b.err = b.put(ctx, l, r)
	}
	return b.err
}

func (b *batch) put(ctx context.Context, l Log, r io.Reader) error {
	if !fit(l.Name) || l.Size < 0 || l.Size > maxLog {
		return fmt.Errorf("a log %.200q of %d bytes: %w", l.Name, l.Size, fs.ErrInvalid)
	}
	if b.parts += int(parts(l.Size)); b.parts > maxParts && len(b.list.Logs) > 0 {
		return fmt.Errorf("more than %d parts in a batch: %w", maxParts, fs.ErrInvalid)
	}
	h := newHasher()
	r = io.TeeReader(r, h)
	for n := range parts(l.Size) {
		part := &exactly{r: r, left: min(partSize, l.Size-n*partSize)}
		if err := b.w.Blob(ctx, partName(l.Name, n), part); err != nil {
			return fmt.Errorf("log %s: %w", l.Name, err)
		}
	}
	if _, err := io.ReadFull(r, make([]byte, 1)); err != io.EOF {
		if err == nil {
			err = fmt.Errorf("longer than the %d bytes that were told", l.Size)
		}
		return fmt.Errorf("log %s: %w", l.Name, err)
	}
	l.SHA256 = h.sum()
	b.list.Logs = append(b.list.Logs, l)
	return nil
}

// errShort is an end before what was told. It is no io.ErrUnexpectedEOF: readers of blocks take that for an end.
var errShort = errors.New("shorter than was told")

// exactly reads so many bytes: an end before is an error.
type exactly struct {
	r    io.Reader
	left int64
}

func (e *exactly) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n, err := e.r.Read(p[:min(int64(len(p)), e.left)])
	if e.left -= int64(n); err == io.EOF && e.left > 0 {
		err = errShort
	}
	return n, err
}

func (b *batch) Commit(ctx context.Context) error {
	if b.err != nil {
		return b.err
	}
	text, err := json.Marshal(b.list)
	if err == nil && len(text) > maxList {
		err = fmt.Errorf("a batch's list of %d bytes: %w", len(text), fs.ErrInvalid)
	}
	if err != nil {
		return err
	}
	if err := b.w.Blob(ctx, listName, bytes.NewReader(text)); err != nil {
		return err
	}
	_, err = b.w.Commit(ctx, nil)
	return err
}

func (b *batch) Close() error { return b.w.Close() }

// Logs reads the lists of all batches of the stream.
func (p *Points) Logs(ctx context.Context, s Stream) iter.Seq2[Log, error] {
	return func(yield func(Log, error) bool) {
		for info, err := range p.backend.Points(ctx, VM(s.VM)) {
			if err != nil {
				if !yield(Log{}, err) || ctx.Err() != nil {
					return
				}
				continue
			}
			if info.Facts["logs"] != s.Kind+"/"+s.Name {
				continue
			}
			if !p.batch(ctx, s, info, yield) {
				return
			}
		}
	}
}

// batch yields the logs of one batch, and reports whether there may be more.
func (p *Points) batch(ctx context.Context, s Stream, info pipe.PointInfo, yield func(Log, error) bool) bool {
	logs, err := p.list(ctx, s, info.ID)
	switch {
	case errors.Is(err, fs.ErrNotExist): // retention was quicker
		return true
	case err != nil && ctx.Err() != nil:
		yield(Log{}, ctx.Err())
		return false
	case err != nil:
		return yield(Log{}, &BatchError{s, info.ID, err})
	}
	for _, l := range logs {
		if l.Stored = info.Time; !yield(l, nil) {
			return false
		}
	}
	return true
}

var _ Lister = (*Points)(nil)

// Streams finds the streams of a VM in the facts of its batches.
func (p *Points) Streams(ctx context.Context, vm string) iter.Seq2[Stream, error] {
	return func(yield func(Stream, error) bool) {
		seen := map[string]bool{}
		for info, err := range p.backend.Points(ctx, VM(vm)) {
			at := info.Facts["logs"]
			kind, name, ok := strings.Cut(at, "/")
			if err == nil && (!ok || seen[at]) {
				continue
			}
			if seen[at] = true; !yield(Stream{vm, kind, name}, err) {
				return
			}
		}
	}
}

// list is one batch's list.
func (p *Points) list(ctx context.Context, s Stream, id string) ([]Log, error) {
	p.mu.Lock()
	logs, ok := p.known[id]
	p.mu.Unlock()
	if ok {
		return logs, nil
	}
	r, err := p.backend.OpenBlob(ctx, id, listName)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, maxList+1))
	if err != nil {
		return nil, err
	}
	l, err := parseList(text)
	if err != nil {
		return nil, err
	}
	if l.Stream != s {
		return nil, fmt.Errorf("it is of %s", l.Stream)
	}
	for i := range l.Logs {
		l.Logs[i].Batch, l.Logs[i].Container = id, l.Container
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[id] = l.Logs
	return l.Logs, nil
}

// parseList decodes a batch's list and holds it to what can be.
func parseList(text []byte) (list, error) {
	var l list
	if len(text) > maxList {
		return l, fmt.Errorf("a list of more than %d bytes: %w", maxList, fs.ErrInvalid)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return l, err
	}
	if _, err := d.Token(); err != io.EOF {
		return l, fmt.Errorf("more than one list: %w", fs.ErrInvalid)
	}
	if l.Version != 1 {
		return l, fmt.Errorf("a list of version %d: %w", l.Version, errors.ErrUnsupported)
	}
	for _, o := range l.Logs {
		if !fit(o.Name) || o.Size < 0 || o.Size > maxLog || o.Life < 0 {
			return l, fmt.Errorf("a log %.200q of %d bytes: %w", o.Name, o.Size, fs.ErrInvalid)
		}
	}
	return l, nil
}

// Open reads a log, one part after the other.
func (p *Points) Open(ctx context.Context, s Stream, l Log) (io.ReadCloser, error) {
	if l.Batch == "" || !fit(l.Name) {
		return nil, fmt.Errorf("%s: log %.200q: %w", s, l.Name, fs.ErrNotExist)
	}
	return &partReader{ctx: ctx, open: p.backend.OpenBlob, log: l}, nil
}

// partReader reads the parts of a log in their order.
type partReader struct {
	ctx  context.Context // of the one Open that made it
	open func(ctx context.Context, point, name string) (io.ReadCloser, error)
	log  Log
	next int64
	part io.ReadCloser
}

func (r *partReader) Read(b []byte) (int, error) {
	for {
		if r.part == nil {
			if r.next == parts(r.log.Size) {
				return 0, io.EOF
			}
			part, err := r.open(r.ctx, r.log.Batch, partName(r.log.Name, r.next))
			if err != nil {
				return 0, err
			}
			r.part, r.next = part, r.next+1
		}
		n, err := r.part.Read(b)
		if err != io.EOF {
			return n, err
		}
		if err := r.Close(); n > 0 || err != nil {
			return n, err
		}
	}
}

func (r *partReader) Close() error {
	if r.part == nil {
		return nil
	}
	err := r.part.Close()
	r.part = nil
	return err
}

// Retention says how long logs are kept. The zero value keeps them as long as an image that they can be played onto.
type Retention struct {
	// Days ends that earlier. Zero: it does not.
	Days int
}

// Image is an image point that is kept.
type Image struct {
	ID   string
	Time time.Time // of the VM's state
}

// Expired are the batches that may go. A container is kept as long as its image, and after that as long as any older
// image is: that one needs every log since. images are those that are kept. Which is older, the order tells in which
// batches were stored (stored is what [Store.Logs] yields); the clocks of guests are not asked where the store has one.
func (r Retention) Expired(stored []Log, images []Image, now time.Time) (batches []string) {
	order, of := inOrder(stored)
	needed := firstNeeded(order, of, images)
	limit := now.AddDate(0, 0, -r.Days)
	for i, b := range order {
		if i < needed || r.Days > 0 && of[b].at.Before(limit) {
			batches = append(batches, b)
		}
	}
	return batches
}

// age is what retention knows of a batch.
type age struct {
	container string
	at        time.Time
	sure      bool // at is by the store's clock
}

// inOrder are the batches as they were stored.
func inOrder(stored []Log) (order []string, of map[string]age) {
	of = map[string]age{}
	for _, l := range stored {
		b, ok := of[l.Batch]
		if !ok {
			order = append(order, l.Batch)
		}
		b.container = l.Container
		switch {
		case !l.Stored.IsZero():
			b.at, b.sure = l.Stored, true
		case !b.sure && l.Time.After(b.at):
			b.at = l.Time
		}
		of[l.Batch] = b
	}
	return order, of
}

// firstNeeded is the first batch that an image needs. An image without a container of its own (its logs are still to
// come, or its application was not processed) stands where the store's clock puts it; without one all is kept for it.
func firstNeeded(order []string, of map[string]age, images []Image) int {
	first := len(order)
	for _, img := range images {
		at := slices.IndexFunc(order, func(b string) bool { return of[b].container == img.ID })
		if at < 0 {
			at = slices.IndexFunc(order, func(b string) bool { return !of[b].sure || !of[b].at.Before(img.Time) })
		}
		if at >= 0 {
			first = min(first, at)
		}
	}
	return first
}
