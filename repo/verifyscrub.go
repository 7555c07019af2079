package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
)

// ScrubOptions say how to look at a store without any key. Nil and zero fields are good defaults.
type ScrubOptions struct {
	// Repair mends from its own parity what is damaged within that, in the place where it lies: byte for byte what was
	// created. It takes a store that can replace an object in one step (store.Mender).
	Repair bool
	// Rate bounds what is read from the store, in bytes a second. Zero: nothing does.
	Rate int64
	// Workers is how many objects are looked at at once, each in memory. Zero: one for each processor.
	Workers int
	// Progress is told how many bytes have been looked at, and how many there are to look at.
	Progress func(done, total int64)
}

// ScrubReport is what a scrub found.
type ScrubReport struct {
	OK       bool     `json:"ok"` // nothing is damaged at the end
	Objects  int64    `json:"objects"`
	Bytes    int64    `json:"bytes"`
	Damaged  []Damage `json:"damaged"` // what is left
	Repaired []string `json:"repaired"`
	Notes    []string `json:"notes"`
}

// ErrCannotMend says that the store has no way to replace a damaged object that cannot lose both: see store.Mender.
var ErrCannotMend = errors.New("the store cannot replace a damaged object in one step")

// Scrub looks at every cell of every object, with no key at all: whoever keeps the store of others can run it. It finds
// what rot, a bad disk or a torn write did; what a forger did, who can make tags that match, is for Verify to find.
//
// An object that is named by its content for another place is not mended into this one. Errors: ErrCannotMend before
// anything was done; else those that stopped it.
func (p *Public) Scrub(ctx context.Context, opts *ScrubOptions) (ScrubReport, error) {
	s := &scrub{p: p}
	if opts != nil {
		s.opts = *opts
	}
	if s.opts.Rate < 0 {
		return s.rep, fmt.Errorf("a rate of %d bytes a second: %w", s.opts.Rate, fs.ErrInvalid)
	}
	s.pace.rate = s.opts.Rate
	if s.mender, _ = store.As[store.Mender](p.st); s.opts.Repair && s.mender == nil {
		return s.rep, ErrCannotMend
	}
	names, err := s.list(ctx)
	if err != nil {
		return s.rep, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(or(s.opts.Workers, runtime.GOMAXPROCS(0)))
	for _, info := range names {
		g.Go(func() error { return s.object(ctx, info) })
	}
	err = g.Wait()
	slices.SortFunc(s.rep.Damaged, func(a, b Damage) int { return strings.Compare(a.Object, b.Object) })
	slices.Sort(s.rep.Repaired)
	s.rep.OK = err == nil && len(s.rep.Damaged) == 0
	return s.rep, err
}

// scrub is one run.
type scrub struct {
	p       *Public
	opts    ScrubOptions
	mender  store.Mender
	pace    pace
	total   int64
	buffers sync.Pool // of *[]byte

	mu  sync.Mutex
	rep ScrubReport
}

// list finds the objects of this format.
func (s *scrub) list(ctx context.Context) (found []store.Info, err error) {
	for info, err := range s.p.st.List(ctx, "") {
		if err != nil {
			return nil, err
		}
		if _, _, ok := identOf(info.Name); ok {
			found = append(found, info)
			s.total += info.Size
		}
	}
	return found, nil
}

// identOf is what the name of an object says of its content: the kind, and the id where the name has one.
func identOf(name string) (kind uint8, id [16]byte, ok bool) {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "copy1/"), "copy2/")
	dir, rest, _ := strings.Cut(name, "/")
	switch dir {
	case headerName:
		return kindHeader, id, rest == ""
	case "slot":
		return kindSlot, id, decodeHex(id[:], []byte(rest)) == nil
	case "log":
		_, ok = parseNumber(rest)
		return kindLog, id, ok
	case "checkpoint":
		_, ok = parseNumber(rest)
		return object.KindCheckpoint, id, ok
	}
	kind, ref, ok := parseObject(name)
	return kind, ref.ID, ok
}

func (s *scrub) object(ctx context.Context, info store.Info) error {
	if err := s.pace.wait(ctx, info.Size); err != nil {
		return err
	}
	buf, _ := s.buffers.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	defer s.buffers.Put(buf)
	var g cell.Geometry
	var damaged []int
	var wrong error
	file, err := s.steady(ctx, info, buf, func(file []byte) bool {
		g, damaged, wrong = cell.Check(file)
		return wrong == nil && len(damaged) == 0
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed since
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if u, ok := errors.AsType[*ErrUnread](err); ok {
		s.found(info, Damage{Object: info.Name, Unread: true, Reason: "could not be read: " + u.Err.Error()})
		return nil
	}
	if err != nil {
		s.found(info, Damage{Object: info.Name, Reason: err.Error()})
		return nil
	}
	if err = wrong; err == nil {
		err = s.belongs(info.Name, g)
	}
	switch {
	case err != nil:
		s.found(info, Damage{Object: info.Name, Reason: err.Error()})
	case len(damaged) > 0:
		s.damaged(ctx, info, file, damaged)
	default:
		s.found(info)
	}
	return nil
}

// steady reads until the answer is definite; only the first reading goes into the buffer that is used again.
func (s *scrub) steady(ctx context.Context, info store.Info, buf *[]byte, whole func([]byte) bool) ([]byte, error) {
	return steady(ctx, info.Name, func() ([]byte, error) {
		file, err := s.read(ctx, info, buf)
		buf = new([]byte)
		return file, storeError(err)
	}, whole)
}

// read fills a buffer that is used again.
func (s *scrub) read(ctx context.Context, info store.Info, buf *[]byte) ([]byte, error) {
	if info.Size > maxPackFile {
		return nil, fmt.Errorf("%d bytes are more than an object may have", info.Size)
	}
	*buf = grow(*buf, int(info.Size))
	n, err := s.p.st.ReadAt(ctx, info.Name, *buf, 0)
	if errors.Is(err, io.EOF) || n == len(*buf) {
		err = nil
	}
	return (*buf)[:n], err
}

// belongs holds what the cells say against the name that they stand under.
func (s *scrub) belongs(name string, g cell.Geometry) error {
	kind, id, _ := identOf(name)
	switch {
	case g.Kind != kind || id != [16]byte{} && g.Object != id:
		return errors.New("it is another object")
	case g.RepoPrefix != [8]byte(s.p.header.ID[:8]):
		return errors.New("it belongs to another repository")
	}
	return nil
}

// damaged tells of cells that are damaged within the parity, and mends them.
func (s *scrub) damaged(ctx context.Context, info store.Info, file []byte, cells []int) {
	var list []Damage
	for i := 0; i < len(cells); {
		j := i + 1
		for j < len(cells) && cells[j] == cells[j-1]+1 {
			j++
		}
		list = append(list, Damage{
			Object: info.Name, Offset: int64(cells[i]) * cell.Size, Length: int64(j-i) * cell.Size,
			Reason: "cells are damaged or missing", Mendable: true,
		})
		i = j
	}
	if !s.opts.Repair {
		s.found(info, list...)
		return
	}
	err := s.mend(ctx, info.Name, file)
	if err == nil {
		s.mu.Lock()
		s.rep.Repaired = append(s.rep.Repaired, info.Name)
		s.mu.Unlock()
		s.found(info)
		return
	}
	s.note(fmt.Sprintf("%s could not be mended: %v", info.Name, err))
	s.found(info, list...)
}

// mend puts the bytes into an object's place that its cells and their parity give. That they are those which were created
// is shown by the tags of all cells, and by a header that names the object; no key is needed for either.
func (s *scrub) mend(ctx context.Context, name string, file []byte) error {
	fixed, _, err := cell.Repair(file)
	if err != nil {
		return err
	}
	g, damaged, err := cell.Check(fixed)
	if err != nil || len(damaged) > 0 {
		return errors.Join(err, errors.New("what parity gives does not verify"))
	}
	if !cell.Consistent(fixed) { // cells that were good contradict each other: what was made of them is not what was created
		return errors.New("its cells contradict each other")
	}
	head := make([]byte, min(g.Stream, object.HeaderMax))
	_, span := cell.StreamSpan(0, len(head))
	cell.Strip(head, fixed[:span], 0, len(head))
	h, err := object.ParseHeader(head)
	if err == nil {
		err = h.Matches(cell.Ident{Kind: g.Kind, Repo: s.p.header.ID, Object: g.Object})
	}
	if err != nil {
		return fmt.Errorf("what parity gives is not the object: %w", err)
	}
	return s.mender.Mend(ctx, name, fixed)
}

// found enters what was found of one object.
func (s *scrub) found(info store.Info, list ...Damage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rep.Objects++
	s.rep.Bytes += info.Size
	s.rep.Damaged = append(s.rep.Damaged, list...)
	if s.opts.Progress != nil {
		s.opts.Progress(s.rep.Bytes, s.total)
	}
}

func (s *scrub) note(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rep.Notes = append(s.rep.Notes, what)
}
