//go:build linux

package apps

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hikae/hikae/guest/agent"
	"github.com/hikae/hikae/guest/agent/wire"
)

// Options change how servers are looked for and waited for. Nil and zero fields are good defaults.
type Options struct {
	// Only leaves instances out for which it is false. kind is "postgresql", "mariadb" or "mysql"; folder holds the data.
	Only func(kind, folder string) bool
	// Connect bounds the way to one server, in and with the first answer. Zero: 10 s.
	Connect time.Duration
	// Hold bounds what is done with one server right before a freeze, and Resume what is done right after it. Zero: 5 s
	// and 10 s.
	Hold, Resume time.Duration
	// Archive bounds how long Finish waits for a PostgreSQL's own archive_command. It is a courtesy: nothing of ours
	// needs it. Zero: 5 s.
	Archive time.Duration
}

// Apps knows the database servers of this guest. It may be used by several goroutines.
type Apps struct {
	opts Options

	mu     sync.Mutex
	listed map[string]*listing // by Kind/Name: what Logs has listed last
}

var (
	_ agent.Applications = (*Apps)(nil)
	_ agent.LogKeeper    = (*Apps)(nil)
)

// New makes the part. It starts nothing.
func New(opts *Options) *Apps {
	a := &Apps{listed: map[string]*listing{}}
	if opts != nil {
		a.opts = *opts
	}
	a.opts.Connect = cmp.Or(a.opts.Connect, 10*time.Second)
	a.opts.Hold = cmp.Or(a.opts.Hold, 5*time.Second)
	a.opts.Resume = cmp.Or(a.opts.Resume, 10*time.Second)
	a.opts.Archive = cmp.Or(a.opts.Archive, 5*time.Second)
	return a
}

// server is one instance of a database server.
type server interface {
	key() key
	// describe asks the server what it is. It never fails: what went wrong is the State.
	describe(ctx context.Context) wire.Application
	// prepare gets it ready for a freeze.
	prepare(ctx context.Context, label string) (held, error)
	// logs lists its transaction logs.
	logs(ctx context.Context, args wire.LogsArgs) (*listing, error)
	// shipped is told that logs are safe.
	shipped(ctx context.Context, l *listing, names []string) error
}

// held is a server that is ready for a freeze. close lets go of it from any state, also while another call runs, and
// more than once.
type held interface {
	hold(ctx context.Context) error
	resume(ctx context.Context) error
	finish(ctx context.Context) ([]wire.Record, error)
	close()
}

// key names an instance.
type key struct{ kind, name string }

func (k key) String() string { return k.kind + "/" + k.name }

// outcome is how a step of an instance went.
func (k key) outcome(began time.Time, err error) wire.Outcome {
	o := wire.Outcome{Kind: k.kind, Name: k.name, OK: err == nil, Millis: time.Since(began).Milliseconds()}
	if err != nil {
		o.Problem = clean(err.Error(), 1024)
	}
	return o
}

// servers finds the instances that run, in the order of their names.
func (a *Apps) servers() ([]server, error) {
	pg, err := a.postgres()
	if err != nil {
		return nil, err
	}
	my, err := a.mysql()
	if err != nil {
		return nil, err
	}
	all := append(pg, my...)
	slices.SortFunc(all, func(x, y server) int { return cmp.Compare(x.key().String(), y.key().String()) })
	if len(all) > maxServers {
		return nil, fmt.Errorf("%d database servers, at most %d", len(all), maxServers)
	}
	return all, nil
}

// distinct tells apart instances that would share a name.
func distinct(names []*string, folders []string) {
	count := map[string]int{}
	for _, n := range names {
		count[*n]++
	}
	for i, n := range names {
		if count[*n] > 1 {
			sum := sha256.Sum256([]byte(folders[i]))
			*n = fmt.Sprintf("%s-%x", *n, sum[:4])
		}
	}
}

// wanted reports whether an instance is ours to look at.
func (a *Apps) wanted(kind, folder string) bool {
	return a.opts.Only == nil || a.opts.Only(kind, folder)
}

// Find finds the servers that run and asks each what it is. Behind them come those that there is nothing to do for: that
// do not run, or cannot be reached.
func (a *Apps) Find(ctx context.Context) ([]wire.Application, error) {
	all, err := a.servers()
	if err != nil {
		return nil, err
	}
	found := make([]wire.Application, len(all))
	each(all, func(i int, s server) {
		ctx, cancel := context.WithTimeout(ctx, a.opts.Connect)
		defer cancel()
		found[i] = s.describe(ctx)
	})
	return slices.Concat(found, a.idle(all), a.aside()), ctx.Err()
}

// each calls f for each item, a few at a time.
func each[T any](items []T, f func(i int, item T)) {
	var wg sync.WaitGroup
	turn := make(chan struct{}, 8)
	for i, item := range items {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			f(i, item)
		})
	}
	wg.Wait()
}

// Prepare gets all servers ready that are not left out, each on its own.
func (a *Apps) Prepare(ctx context.Context, args wire.PrepareArgs) (agent.Prepared, []wire.Outcome, error) {
	limit := cmp.Or(time.Duration(args.LimitMillis)*time.Millisecond, time.Minute)
	if limit < 0 {
		return nil, nil, &wire.Failure{Code: wire.CodeInvalid, Message: "a negative limit"}
	}
	all, err := a.servers()
	if err != nil {
		return nil, nil, err
	}
	all = slices.DeleteFunc(all, func(s server) bool { return slices.Contains(args.Skip, s.key().String()) })
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	p := &Prepared{opts: a.opts, held: make([]*member, len(all))}
	outcomes := make([]wire.Outcome, len(all))
	each(all, func(i int, s server) {
		began := time.Now()
		h, err := s.prepare(ctx, label(args.Label))
		p.held[i] = &member{key: s.key(), held: h, err: err}
		outcomes[i] = s.key().outcome(began, err)
	})
	p.held = slices.DeleteFunc(p.held, func(m *member) bool { return m.err != nil })
	if err := context.Cause(ctx); errors.Is(err, context.Canceled) {
		return nil, nil, errors.Join(err, p.Close())
	}
	return p, outcomes, nil
}
