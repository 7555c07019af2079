package hyperv_test

import (
	"context"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/pipe"
)

// meddle is what happens to the requesters of a lab, and how often. Its methods may be called at once.
type meddle struct {
	bring   func()             // before a requester is there
	take    func()             // before a set is made
	took    func()             // after
	outcome func(vm string)    // when somebody asks what became of a VM
	part    error              // of every VM's
	hide    string             // files with this ending are not in sets
	refuse  func(string) error // Delete, DeleteSet, Close: nil lets them be done

	mu             sync.Mutex
	opened, closed int
}

// meddled has requesters that are meddled with.
func (l *lab) meddled(m *meddle, o hyperv.ProviderOptions) *hyperv.Provider {
	l.t.Helper()
	o.Warn = l.warn
	o.Requester = func(ctx context.Context, h *hyperv.Host) (hyperv.Requester, error) {
		if m.bring != nil {
			m.bring()
		}
		r, err := l.requester(ctx, h)
		if err != nil {
			return nil, err
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.opened++
		return &meddledRequester{r, m}, nil
	}
	p, err := hyperv.New(l.site, nil, &o)
	if err != nil {
		l.t.Fatal(err)
	}
	return p
}

func (m *meddle) refused(what string) error {
	if m.refuse == nil {
		return nil
	}
	return m.refuse(what)
}

// connected are the requesters that nobody has closed.
func (m *meddle) connected() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.opened - m.closed
}

type meddledRequester struct {
	hyperv.Requester
	m *meddle
}

func (r *meddledRequester) Take(ctx context.Context, q hyperv.SetRequest) (hyperv.Set, error) {
	if r.m.take != nil {
		r.m.take()
	}
	s, err := r.Requester.Take(ctx, q)
	if err != nil {
		return nil, err
	}
	if r.m.took != nil {
		r.m.took()
	}
	return meddledSet{s, r.m}, nil
}

func (r *meddledRequester) DeleteSet(ctx context.Context, mark string) error {
	if err := r.m.refused("DeleteSet"); err != nil {
		return err
	}
	return r.Requester.DeleteSet(ctx, mark)
}

func (r *meddledRequester) Close() error {
	if err := r.m.refused("Close"); err != nil {
		return err
	}
	err := r.Requester.Close()
	if err == nil {
		r.m.mu.Lock()
		r.m.closed++
		r.m.mu.Unlock()
	}
	return err
}

type meddledSet struct {
	hyperv.Set
	m *meddle
}

func (s meddledSet) Outcome(vm string) hyperv.SetOutcome {
	if s.m.outcome != nil {
		s.m.outcome(vm)
	}
	o := s.Set.Outcome(vm)
	if s.m.part != nil {
		o.Err = s.m.part
	}
	return o
}

func (s meddledSet) Delete(ctx context.Context) error {
	if err := s.m.refused("Delete"); err != nil {
		return err
	}
	return s.Set.Delete(ctx)
}

func (s meddledSet) Open(ctx context.Context, name string) (pipe.Image, error) {
	if s.m.hide != "" && strings.HasSuffix(name, s.m.hide) {
		return nil, fs.ErrNotExist
	}
	return s.Set.Open(ctx, name)
}

// notes is a journal in memory, which tells what is open in it while its session lives. Its methods may be called at once.
type notes struct {
	mu   sync.Mutex
	made int
	open []hikae.Effect
}

func (n *notes) Intend(_ context.Context, e hikae.Effect) (func(context.Context) error, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.made++
	e.ID = strconv.Itoa(n.made)
	n.open = append(n.open, e)
	return func(context.Context) error {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.open = slices.DeleteFunc(n.open, func(o hikae.Effect) bool { return o.ID == e.ID })
		return nil
	}, nil
}

func (n *notes) pending() []hikae.Effect {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.open)
}
