package requester

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"sync"
	"time"

	"github.com/hikae/hikae/hyperv/helper/wire"
)

// handle does what a request asks for.
func (s *session) handle(ctx context.Context, call uint32, m wire.Message) (wire.Message, error) {
	switch m := m.(type) {
	case *wire.Ping:
		return &wire.Done{Of: wire.KindPing}, nil
	case *wire.Components:
		return s.components(ctx)
	case *wire.Take:
		return s.take(ctx, call, m)
	case *wire.Open:
		return s.open(ctx, m)
	case *wire.ReadAt:
		return s.readAt(ctx, m)
	case *wire.Shut:
		s.forget(m.File)
		return &wire.Done{Of: wire.KindShut}, nil
	case *wire.List:
		return s.list(ctx, m)
	case *wire.Finish:
		return &wire.Done{Of: wire.KindFinish}, s.alone(ctx, func() error { return s.finish(ctx, m) })
	case *wire.Delete:
		return &wire.Done{Of: wire.KindDelete}, s.alone(ctx, func() error { return s.delete(ctx, m.Set) })
	case *wire.Sweep:
		answer := &wire.SweepAnswer{}
		err := s.alone(ctx, func() (err error) { answer.Deleted, err = s.sweep(ctx, m.Mark); return err })
		return answer, err
	}
	return nil, fmt.Errorf("%w: kind %d is no request", wire.ErrMalformed, m.Kind())
}

// alone has only one call work on sets at a time.
func (s *session) alone(ctx context.Context, f func() error) error {
	select {
	case s.making <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-s.making }()
	return f()
}

func (s *session) components(ctx context.Context) (wire.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	answer := &wire.ComponentsAnswer{}
	err := s.alone(ctx, func() error {
		b, writers, err := begin(ctx, s.vss, ContextBackup, Copy)
		if err != nil {
			return err
		}
		answer.Components, err = tellComponents(ctx, s.vss, writers)
		return errors.Join(err, b.Close())
	})
	return answer, err
}

// tellComponents has volumes where they can be found: that a VM's storage is away is that VM's own trouble.
func tellComponents(ctx context.Context, v VSS, writers []Writer) (list []wire.Component, err error) {
	all, err := vmsOf(writers)
	if err != nil {
		return nil, err
	}
	asked := map[string]Volume{}
	for _, one := range all {
		_ = one.place(ctx, v, asked)
		c := wire.Component{VM: one.id, Caption: one.component.Caption, Files: one.files}
		for _, volume := range one.volumes {
			c.Volumes = append(c.Volumes, volume.Mount)
		}
		list = append(list, c)
	}
	return list, ctx.Err()
}

func (s *session) take(ctx context.Context, call uint32, m *wire.Take) (wire.Message, error) {
	p := &progress{began: time.Now(), send: func(p *wire.Progress) {
		if f, err := wire.Encode(call, p); err == nil {
			_ = s.send(f) // a stream that is broken shows when it is read
		}
	}}
	defer p.every(s.opts.Tick)()
	var answer *wire.TakeAnswer
	err := s.alone(ctx, func() error {
		if s.countSets() >= maxSets {
			return fmt.Errorf("%d sets are open: %w", maxSets, errOrder)
		}
		one, err := take(ctx, s.vss, s.opts.Book, m, p.tell)
		if err == nil {
			answer, err = s.keep(ctx, one, m)
		}
		return err
	})
	return answer, err
}

// keep takes a set among those of the session, or back.
func (s *session) keep(ctx context.Context, one *set, m *wire.Take) (*wire.TakeAnswer, error) {
	answer, err := one.tell(ctx, m.Transportable)
	if err == nil {
		err = ctx.Err() // cancelled at the last moment: the client does not wait for it any more
	}
	if err != nil {
		return nil, errors.Join(err, one.end(ctx, undoLimit))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	answer.Set = s.last
	s.sets[s.last] = one
	return answer, nil
}

// tell is what a client hears of a set.
func (s *set) tell(ctx context.Context, transportable bool) (*wire.TakeAnswer, error) {
	answer := &wire.TakeAnswer{ID: string(s.id)}
	for _, m := range s.vms {
		files, err := s.filesOf(ctx, m)
		if err != nil {
			return nil, err
		}
		answer.Outcomes = append(answer.Outcomes, wire.Outcome{VM: m.id, Caption: m.component.Caption, Recovered: s.recovered(m), Files: files})
	}
	if !transportable {
		return answer, nil
	}
	var err error
	answer.Document, err = s.backup.SaveAsXML(ctx)
	return answer, err
}

// progress tells a client how far a Take has come, and that it goes on.
type progress struct {
	began time.Time
	send  func(*wire.Progress)

	mu  sync.Mutex
	now wire.Progress
}

func (p *progress) tell(stage, detail string) {
	p.mu.Lock()
	p.now = wire.Progress{Stage: stage, Detail: shown(detail)}
	p.mu.Unlock()
	p.again()
}

func (p *progress) again() {
	p.mu.Lock()
	now := p.now
	p.mu.Unlock()
	now.ElapsedMillis = uint32(min(time.Since(p.began).Milliseconds(), math.MaxUint32))
	if now.Stage != "" {
		p.send(&now)
	}
}

// every tells again and again until it is stopped.
func (p *progress) every(d time.Duration) (stop func()) {
	ticker, done, ended := time.NewTicker(d), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-ticker.C:
				p.again()
			case <-done:
				return
			}
		}
	}()
	return func() {
		ticker.Stop()
		close(done)
		<-ended
	}
}

func (s *session) countSets() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sets)
}

// set is one that is open.
func (s *session) set(handle uint32) (*set, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one := s.sets[handle]; one != nil {
		return one, nil
	}
	return nil, fmt.Errorf("set %d: %w", handle, fs.ErrNotExist)
}

func (s *session) finish(ctx context.Context, m *wire.Finish) error {
	one, err := s.set(m.Set)
	if err != nil {
		return err
	}
	return one.finish(ctx, m.Good)
}

// delete ends a set. One that is not open is gone.
func (s *session) delete(ctx context.Context, handle uint32) error {
	one, err := s.set(handle)
	if err != nil {
		return nil
	}
	s.closeFiles(one)
	if err := one.end(ctx, deleteLimit); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.sets, handle)
	s.mu.Unlock()
	s.closeFiles(one) // that were opened meanwhile
	return nil
}

// sweep deletes what is under a mark: sets of this session too.
func (s *session) sweep(ctx context.Context, mark string) (deleted []string, err error) {
	s.mu.Lock()
	own := map[uint32]*set{}
	for handle, one := range s.sets {
		if one.mark == mark {
			own[handle] = one
		}
	}
	s.mu.Unlock()
	for handle, one := range own {
		if failed := s.delete(ctx, handle); failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		deleted = append(deleted, string(one.id))
	}
	more, failed := sweep(ctx, s.vss, s.opts.Book, mark)
	return append(deleted, more...), errors.Join(err, failed)
}

func (s *session) open(ctx context.Context, m *wire.Open) (wire.Message, error) {
	one, err := s.set(m.Set)
	if err != nil {
		return nil, err
	}
	opened, err := one.open(ctx, m.Name)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sets[m.Set] != one || len(s.files) >= maxOpen {
		_ = opened.Close()
		return nil, fmt.Errorf("%s: %d files are open, or the set goes: %w", m.Name, len(s.files), errOrder)
	}
	s.last++
	s.files[s.last] = &file{of: one, f: opened, idle: make(chan struct{})}
	return &wire.OpenAnswer{File: s.last, Size: uint64(max(opened.Size(), 0))}, nil
}

func (s *session) readAt(ctx context.Context, m *wire.ReadAt) (wire.Message, error) {
	if m.Length == 0 || m.Length > wire.MaxRead || m.Offset > math.MaxInt64-wire.MaxRead {
		return nil, fmt.Errorf("%d bytes at %d: %w", m.Length, m.Offset, fs.ErrInvalid)
	}
	select {
	case s.reads <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-s.reads }()
	s.mu.Lock()
	f := s.files[m.File]
	s.mu.Unlock()
	if f == nil {
		return nil, fmt.Errorf("file %d: %w", m.File, fs.ErrNotExist)
	}
	if !f.hold() {
		return nil, fmt.Errorf("file %d: %w", m.File, fs.ErrNotExist)
	}
	defer f.leave()
	data := make([]byte, m.Length)
	n, err := f.f.ReadAt(data, int64(m.Offset))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %d bytes at %d: %w", m.Length, m.Offset, err)
	}
	return &wire.ReadAnswer{Data: data[:n]}, nil
}

// forget closes a file.
func (s *session) forget(handle uint32) {
	s.mu.Lock()
	f := s.files[handle]
	delete(s.files, handle)
	s.mu.Unlock()
	if f != nil {
		closeAll([]*file{f})
	}
}

// closeFiles closes those of a set.
func (s *session) closeFiles(of *set) {
	s.mu.Lock()
	var list []*file
	for handle, f := range s.files {
		if f.of == of {
			list = append(list, f)
			delete(s.files, handle)
		}
	}
	s.mu.Unlock()
	closeAll(list)
}

func (s *session) list(ctx context.Context, m *wire.List) (wire.Message, error) {
	one, err := s.set(m.Set)
	if err != nil {
		return nil, err
	}
	entries, err := one.list(ctx, m.Folder)
	if err != nil {
		return nil, err
	}
	answer := &wire.ListAnswer{}
	for _, e := range entries {
		answer.Entries = append(answer.Entries, wire.Entry{Name: e.Name, Size: uint64(max(e.Size, 0)), Dir: e.Dir})
	}
	return answer, nil
}
