package job

import (
	"cmp"
	"context"
	"io/fs"
	"iter"
	"sync"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// tracked is what a session knows of the changes of its disks. It is used by the copy and, beside it, by what makes the copy
// durable in between.
type tracked struct {
	mu         sync.Mutex
	lists      map[string]*changeList // since the base
	methods    map[string]Method      // of disks that were begun
	distrusted map[string]bool        // disks whose tracker was found wrong
}

func (s *backup) distrust(key string) {
	s.tracked.mu.Lock()
	defer s.tracked.mu.Unlock()
	if s.tracked.distrusted == nil {
		s.tracked.distrusted = map[string]bool{}
	}
	s.tracked.distrusted[key] = true
}

func (s *backup) isDistrusted(key string) bool {
	s.tracked.mu.Lock()
	defer s.tracked.mu.Unlock()
	return s.tracked.distrusted[key]
}

// reads notes by which rung of the ladder a disk is read.
func (s *backup) reads(key string, m Method) {
	s.tracked.mu.Lock()
	defer s.tracked.mu.Unlock()
	if s.tracked.methods == nil {
		s.tracked.methods = map[string]Method{}
	}
	s.tracked.methods[key] = m
}

// readsBy is the rung, or empty where the disk was not begun.
func (s *backup) readsBy(key string) Method {
	s.tracked.mu.Lock()
	defer s.tracked.mu.Unlock()
	return s.tracked.methods[key]
}

// forgetChanges is for another base, or a point that is begun anew.
func (s *backup) forgetChanges(lists bool) {
	s.tracked.mu.Lock()
	defer s.tracked.mu.Unlock()
	if s.tracked.methods = nil; lists {
		s.tracked.lists = nil
	}
}

// changes are what differs between the base and the snapshot: what the provider says has changed since, and what an
// unfinished base never had. It is asked once.
func (s *backup) changes(d hikae.Disk) *changeList {
	s.tracked.mu.Lock()
	defer s.tracked.mu.Unlock()
	if l, ok := s.tracked.lists[d.Key]; ok {
		return l
	}
	if s.tracked.lists == nil {
		s.tracked.lists = map[string]*changeList{}
	}
	l := &changeList{size: d.Size, since: hikae.ChangeID(s.plan.Base.Tracking[d.Key])}
	pending := s.plan.pending(d.Key)
	l.ExtentImage = pipe.Changed(sized(d.Size), func(ctx context.Context) iter.Seq2[pipe.Extent, error] {
		return withPending(l.tell(s.snap.Changed(ctx, d.Key, l.since)), pending)
	})
	s.tracked.lists[d.Key] = l
	return l
}

// changeList is a disk of which only that is known which parts changed: Data, or Unchanged.
type changeList struct {
	pipe.ExtentImage
	size  int64
	since hikae.ChangeID

	mu  sync.Mutex
	own error // the provider's, without what pipe wraps around it
}

// load waits for the whole list. all says that nothing is unchanged.
func (l *changeList) load(ctx context.Context) (all bool, err error) {
	all = true
	for e, err := range l.Extents(ctx, 0, l.size) {
		if err != nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			return false, cmp.Or(l.own, err)
		}
		all = all && e.Kind == pipe.Data
	}
	return all, nil
}

// ranges are what changed, ascending.
func (l *changeList) ranges(ctx context.Context) (list []pipe.Extent, err error) {
	for e, err := range l.Extents(ctx, 0, l.size) {
		if err != nil {
			return nil, err
		}
		if e.Kind == pipe.Data {
			list = append(list, e)
		}
	}
	return list, nil
}

// tell notes the provider's own error.
func (l *changeList) tell(seq iter.Seq2[pipe.Extent, error]) iter.Seq2[pipe.Extent, error] {
	return seen(seq, func(_ pipe.Extent, err error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.own = err
	})
}

// withPending calls ranges changed whatever a list of changes says of them. The ranges are ascending and apart.
func withPending(seq iter.Seq2[pipe.Extent, error], pending []pipe.Extent) iter.Seq2[pipe.Extent, error] {
	if len(pending) == 0 {
		return seq
	}
	return func(yield func(pipe.Extent, error) bool) {
		next := 0
		for e, err := range seq {
			if err != nil || e.Kind != pipe.Unchanged || e.Len <= 0 {
				if !yield(e, err) {
					return
				}
				continue
			}
			for next < len(pending) && pending[next].End() <= e.Off {
				next++
			}
			pos := e.Off
			for i := next; i < len(pending) && pending[i].Off < e.End(); i++ {
				off, end := max(pending[i].Off, pos), min(pending[i].End(), e.End())
				if off > pos && !yield(pipe.Extent{Off: pos, Len: off - pos, Kind: pipe.Unchanged}, nil) {
					return
				}
				if !yield(pipe.Extent{Off: off, Len: end - off, Kind: pipe.Data}, nil) {
					return
				}
				pos = end
			}
			if pos < e.End() && !yield(pipe.Extent{Off: pos, Len: e.End() - pos, Kind: pipe.Unchanged}, nil) {
				return
			}
		}
	}
}

// sized is a disk of which nothing but the size is known.
type sized int64

func (s sized) Size() int64                                              { return int64(s) }
func (s sized) Close() error                                             { return nil }
func (s sized) ReadAt(context.Context, []byte, int64) (n int, err error) { return 0, fs.ErrInvalid }

// seen tells what passes.
func seen(seq iter.Seq2[pipe.Extent, error], tell func(pipe.Extent, error)) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		for e, err := range seq {
			tell(e, err)
			if !yield(e, err) {
				return
			}
		}
	}
}
