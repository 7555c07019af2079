package vss

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hikae/hikae/guest/agent"
	"github.com/hikae/hikae/guest/agent/wire"
)

// Mode is who makes the snapshot.
type Mode int

// The modes; the package comment says what each can promise.
const (
	Check Mode = iota
	Own
)

// String is what is written on a command line.
func (m Mode) String() string {
	if m == Own {
		return "own"
	}
	return "check"
}

// ParseMode is the reverse of String.
func ParseMode(s string) (Mode, error) {
	switch s {
	case "", "check":
		return Check, nil
	case "own":
		return Own, nil
	}
	return 0, fmt.Errorf("mode %q: there are check and own", s)
}

// Options of New. The zero value is welcome.
type Options struct {
	Mode Mode
	// Volumes for Own, as \\?\Volume{…}\; none: all that can have shadow copies.
	Volumes []string

	open  func() (requester, error)
	sleep func(context.Context, time.Duration) error
}

// Applications are the writers of this guest. It is an [agent.Applications].
type Applications struct{ opts Options }

var _ agent.Applications = (*Applications)(nil)

// New needs nothing: whether the service is there shows when it is asked.
func New(opts *Options) *Applications {
	a := &Applications{}
	if opts != nil {
		a.opts = *opts
	}
	if a.opts.open == nil {
		a.opts.open = open
	}
	if a.opts.sleep == nil {
		a.opts.sleep = sleep
	}
	return a
}

// Find lists the writers with their state. On another system than Windows there are none.
func (a *Applications) Find(ctx context.Context) ([]wire.Application, error) {
	ctx, cancel := context.WithTimeout(ctx, prepareLimit)
	defer cancel()
	r, err := a.opts.open()
	if errors.Is(err, ErrNotWindows) {
		return nil, nil
	}
	if err != nil {
		return nil, failure(err)
	}
	defer r.Close()
	if err := r.Begin(ctx, copyBackup); err != nil {
		return nil, failure(err)
	}
	writers, err := r.Writers(ctx)
	if err != nil {
		return nil, failure(err)
	}
	states, err := statusOf(ctx, r)
	if err != nil {
		return nil, failure(err)
	}
	var out []wire.Application
	for _, w := range named(writers) {
		app := wire.Application{Kind: kind, Name: w.Name, State: "ready", Folders: w.folders(),
			Logs: "no: a writer throws its own logs away after a full backup"}
		if err := states.of(w); err != nil {
			app.State = problem(err)
		}
		out = append(out, app)
	}
	return out, nil
}

// states are of all writers, by their instance.
type states map[GUID]Status

func statusOf(ctx context.Context, r requester) (states, error) {
	list, err := r.Status(ctx)
	if err != nil {
		return nil, err
	}
	out := states{}
	for _, s := range list {
		out[s.Instance] = s
	}
	return out, nil
}

// of is nil for a writer that is well. One that does not answer any more is not.
func (s states) of(w Writer) error {
	if st, known := s[w.Instance]; known {
		st.Name = w.Name
		return st.Err()
	}
	return &Error{Op: "writer " + w.Name, Code: eWriterNotResponding}
}

// Prepare gets the writers ready. Each writer that cannot take part is an outcome with its problem; the others go on.
// The error is a *wire.Failure; then everything was taken back.
func (a *Applications) Prepare(ctx context.Context, args wire.PrepareArgs) (agent.Prepared, []wire.Outcome, error) {
	limit := time.Duration(args.LimitMillis) * time.Millisecond
	if limit <= 0 {
		limit = prepareLimit
	}
	ctx, cancel := context.WithTimeout(ctx, min(limit, maxLimit))
	defer cancel()
	r, err := a.opts.open()
	if errors.Is(err, ErrNotWindows) {
		return &session{}, nil, nil
	}
	if err != nil {
		return nil, nil, failure(err)
	}
	s := &session{opts: a.opts, r: r, backup: fullBackup}
	if args.CopyOnly || a.opts.Mode == Check {
		s.backup = copyBackup // Check ends in an abort: nobody is told of a full backup
	}
	if err := s.prepare(ctx, args); err != nil {
		s.Close()
		return nil, nil, failure(err)
	}
	return s, s.outcomes(), nil
}
