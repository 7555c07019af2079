package helper

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/helper/wire"
	"github.com/hikae/hikae/pipe"
)

// Set is a set of shadow copies on a helper's host. It implements [hyperv.Set].
type Set struct {
	r        *Requester
	handle   uint32
	id       string
	document string
	outcomes map[string]hyperv.SetOutcome

	mu       sync.Mutex
	finished bool
	deleted  bool
}

var _ hyperv.Set = (*Set)(nil)

func newSet(r *Requester, a *wire.TakeAnswer) *Set {
	s := &Set{r: r, handle: a.Set, id: a.ID, document: a.Document, outcomes: map[string]hyperv.SetOutcome{}}
	for _, o := range a.Outcomes {
		out := hyperv.SetOutcome{Method: methodOf(o.Caption), Files: o.Files, Recovered: o.Recovered, Hint: o.Hint}
		if o.Problem != "" {
			out.Err = &Error{Host: r.hello.Host, Op: "VM", Object: o.VM, Failure: &wire.Failure{Code: wire.Writer, Message: o.Problem, Hint: o.Hint}}
		}
		s.outcomes[strings.ToLower(o.VM)] = out
	}
	return s
}

// ID implements [hyperv.Set]: a GUID in braces.
func (s *Set) ID() string { return s.id }

// Document is the backup components document of a transportable set: what another machine imports it by.
func (s *Set) Document() string { return s.document }

// Outcome implements [hyperv.Set]. A VM that is not in the set has an Err.
func (s *Set) Outcome(vm string) hyperv.SetOutcome {
	o, in := s.outcomes[strings.ToLower(vm)]
	if !in {
		o.Method, o.Err = hyperv.MethodUnknown, fmt.Errorf("VM %s in set %s: %w", vm, s.id, fs.ErrNotExist)
	}
	return o
}

// Open implements [hyperv.Files]: the file as it is in the shadow copy of its volume.
func (s *Set) Open(ctx context.Context, name string) (pipe.Image, error) {
	var a wire.OpenAnswer
	if err := s.r.conn.ask(ctx, &wire.Open{Set: s.handle, Name: name}, &a, how{limit: fileLimit, since: &s.r.conn.data, undo: true}); err != nil {
		return nil, s.r.explain("open", name, err)
	}
	return newImage(s.r, name, &a)
}

// Entry is one of a folder.
type Entry struct {
	Name string
	Size int64 // bytes; 0 for a folder
	Dir  bool
}

// List are a folder's entries, as they are in the shadow copy.
func (s *Set) List(ctx context.Context, folder string) ([]Entry, error) {
	var a wire.ListAnswer
	if err := s.r.conn.ask(ctx, &wire.List{Set: s.handle, Folder: folder}, &a, how{limit: fileLimit, since: &s.r.conn.data}); err != nil {
		return nil, s.r.explain("list", folder, err)
	}
	list := make([]Entry, 0, len(a.Entries))
	for _, e := range a.Entries {
		list = append(list, Entry{Name: e.Name, Size: int64(min(e.Size, 1<<62)), Dir: e.Dir})
	}
	return list, nil
}

// Finish implements [hyperv.Set]. A second call after one that went well does nothing.
func (s *Set) Finish(ctx context.Context, good map[string]bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finished {
		return nil
	}
	m := &wire.Finish{Set: s.handle}
	for vm, yes := range good {
		if yes {
			m.Good = append(m.Good, strings.ToLower(vm))
		}
	}
	if err := s.r.conn.ask(ctx, m, &wire.Done{Of: wire.KindFinish}, how{limit: finishLimit}); err != nil {
		return s.r.explain("finish set", s.id, err)
	}
	s.finished = true
	return nil
}

// Delete implements [hyperv.Set].
func (s *Set) Delete(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deleted {
		return nil
	}
	if err := s.r.conn.ask(ctx, &wire.Delete{Set: s.handle}, &wire.Done{Of: wire.KindDelete}, how{limit: deleteLimit}); err != nil {
		return s.r.explain("delete set", s.id, err)
	}
	s.deleted = true
	return nil
}
