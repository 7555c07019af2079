package vss

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hikae/hikae/guest/agent"
	"github.com/hikae/hikae/guest/agent/wire"
)

// session is one backup in the service, from Prepare to Settle. The zero value has no writers.
type session struct {
	opts   Options
	backup backupType

	mu       sync.Mutex
	r        requester // nil when nothing is left to be let go
	members  []*member
	shadows  []Shadow
	document string // the backup components document, where it was taken before the freeze
	notes    error  // why there is none
	taken    bool   // the snapshot set exists
	complete bool   // nothing is left to be aborted
}

// member is one writer that was asked to take part.
type member struct {
	Writer
	added   []Component
	state   State
	err     error // why it does not
	elapsed time.Duration
}

var _ agent.Prepared = (*session)(nil)

// prepare goes as far as the service lets a requester go before the freeze.
func (s *session) prepare(ctx context.Context, args wire.PrepareArgs) error {
	if err := s.r.Begin(ctx, s.backup); err != nil {
		return err
	}
	writers, err := s.r.Writers(ctx)
	if err != nil {
		return err
	}
	before, err := statusOf(ctx, s.r)
	if err != nil {
		return err
	}
	for _, w := range named(writers) {
		if skipped(args.Skip, kind, w.Name) {
			continue
		}
		m := &member{Writer: w, err: before.of(w)}
		s.members = append(s.members, m)
		if m.err == nil {
			if err := s.add(ctx, m); err != nil {
				return err
			}
		}
	}
	if s.opts.Mode == Own {
		if err := s.startSet(ctx); err != nil {
			return err
		}
	}
	if err := s.ready(ctx); err != nil || s.opts.Mode == Own {
		return err
	}
	return s.letGo(ctx)
}

// add adds a writer's components. A component that is refused is the writer's problem, a service that does not answer
// everybody's.
func (s *session) add(ctx context.Context, m *member) error {
	began := time.Now()
	for _, c := range explicit(m.Components) {
		if err := s.r.Add(ctx, m.Writer, c); err != nil {
			if ctx.Err() != nil || errors.Is(err, ErrStuck) {
				return err
			}
			m.err = err
			break
		}
		m.added = append(m.added, c)
	}
	m.elapsed += time.Since(began)
	return nil
}

// startSet names the volumes of our own snapshot set.
func (s *session) startSet(ctx context.Context) error {
	volumes := s.opts.Volumes
	if len(volumes) == 0 {
		var err error
		if volumes, err = s.r.Volumes(ctx); err != nil {
			return err
		}
		if len(volumes) == 0 {
			return errors.New("no volume here can have shadow copies")
		}
	}
	if err := again(ctx, s.opts.sleep, func() error { return s.r.StartSet(ctx) }); err != nil {
		return err
	}
	for _, v := range volumes {
		shadow, err := s.r.AddVolume(ctx, v)
		if err != nil {
			return err
		}
		s.shadows = append(s.shadows, shadow)
	}
	return nil
}

// ready is PrepareForBackup and how each writer took it.
func (s *session) ready(ctx context.Context) error {
	began := time.Now()
	err := s.r.Prepare(ctx)
	var e *Error
	if s.opts.Mode == Check && errors.As(err, &e) && e.Code == BadState {
		// No snapshot set was started. Where the service wants one first, the state that the writers told before is
		// what a check can have.
		return nil
	}
	if err != nil {
		return err
	}
	return s.look(ctx, began)
}

// look asks all writers how they are and keeps what has failed since.
func (s *session) look(ctx context.Context, began time.Time) error {
	now, err := statusOf(ctx, s.r)
	if err != nil {
		return err
	}
	for _, m := range s.members {
		m.state = now[m.Instance].State
		m.elapsed += time.Since(began)
		if m.err == nil {
			m.err = now.of(m.Writer)
		}
	}
	return nil
}

// letGo ends Check before the freeze: what was learned is kept, the writers are free for the hypervisor's own agent.
func (s *session) letGo(ctx context.Context) error {
	s.document, s.notes = s.r.Document(ctx)
	if ctx.Err() != nil {
		return s.notes
	}
	return s.end(ctx)
}

// outcomes has one for each writer that was asked.
func (s *session) outcomes() []wire.Outcome {
	var out []wire.Outcome
	for _, m := range s.members {
		o := wire.Outcome{Kind: kind, Name: m.Name, OK: m.err == nil, Millis: m.elapsed.Milliseconds()}
		if m.err != nil {
			o.Problem = problem(m.err)
		}
		m.elapsed = 0
		out = append(out, o)
	}
	return out
}

// fail gives every writer that was well so far the same problem.
func (s *session) fail(err error) {
	for _, m := range s.members {
		if m.err == nil {
			m.err = err
		}
	}
}

// Hold makes our own snapshot set: writers freeze and thaw inside this call. In Check nobody holds anything, and the
// answer is empty.
func (s *session) Hold(ctx context.Context) []wire.Outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.r == nil || s.taken || len(s.shadows) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, holdLimit)
	defer cancel()
	if err := s.r.Snapshot(ctx); err != nil {
		s.fail(err)
		return s.outcomes()
	}
	s.taken = true
	return s.outcomes()
}

// Resume asks how the writers came through the freeze.
func (s *session) Resume(ctx context.Context) []wire.Outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.r == nil || !s.taken {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, finishLimit)
	defer cancel()
	if err := s.look(ctx, time.Now()); err != nil {
		s.fail(err)
	}
	for i, shadow := range s.shadows {
		if found, err := s.r.Properties(ctx, shadow); err == nil {
			s.shadows[i] = found
		}
	}
	return s.outcomes()
}

// Finish hands out the backup components document, the writers' documents and a list of both.
func (s *session) Finish(ctx context.Context) ([]wire.Record, []wire.Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.members) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, finishLimit)
	defer cancel()
	if s.r != nil && s.document == "" {
		s.document, s.notes = s.r.Document(ctx)
	}
	out, err := records(s.document, s.summary(), s.documents())
	whole := wire.Outcome{Kind: kind, Name: "documents", OK: true}
	if err = errors.Join(s.notes, err); err != nil {
		whole.OK, whole.Problem = false, problem(err)
	}
	return out, append(s.outcomes(), whole)
}

func (s *session) summary() summary {
	sum := summary{Mode: s.opts.Mode.String(), Backup: s.backup.String(), Unverified: Unverified, Shadows: s.shadows}
	for _, m := range s.members {
		w := writerSummary{Name: m.Name, Class: m.Class.String(), Instance: m.Instance.String(), State: m.state.String()}
		if m.err != nil {
			w.Problem = problem(m.err)
		}
		for _, c := range m.added {
			w.Components = append(w.Components, c.String())
		}
		sum.Writers = append(sum.Writers, w)
	}
	return sum
}

// documents are the metadata of writers that took part.
func (s *session) documents() map[string]string {
	out := map[string]string{}
	for _, m := range s.members {
		if len(m.added) > 0 {
			out[m.Instance.String()] = m.Document
		}
	}
	return out
}

// Settle tells the writers that the point is durable, and nothing before it is. Of a full backup they are told only
// where logs may go, since that is what they make of it.
func (s *session) Settle(ctx context.Context, args wire.SettleArgs) []wire.Outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.r == nil {
		return s.untold("the hypervisor's own agent made the snapshot and told the writers")
	}
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	switch {
	case !args.Durable, !s.taken:
		if err := s.end(ctx); err != nil {
			s.fail(err)
		}
		return s.untold("the backup was given up")
	case s.backup == fullBackup && !args.Truncate:
		if err := s.end(ctx); err != nil {
			s.fail(err)
		}
		return s.untold("a full backup that succeeds lets logs go, and that was not asked for")
	}
	if err := s.succeed(ctx); err != nil {
		s.fail(err)
	}
	out := s.outcomes()
	if err := s.end(ctx); err != nil {
		s.fail(err)
		return s.outcomes()
	}
	return out
}

// succeed is the good end. A writer that failed on the way is not told that it has succeeded.
func (s *session) succeed(ctx context.Context) error {
	for _, m := range s.members {
		if m.err != nil {
			continue
		}
		for _, c := range m.added {
			if err := s.r.Succeeded(ctx, m.Writer, c); err != nil {
				m.err = err
				break
			}
		}
	}
	began := time.Now()
	if err := s.r.Complete(ctx); err != nil {
		return err
	}
	s.complete = true
	return s.look(ctx, began)
}

// untold are the outcomes of writers that were not told, with the reason.
func (s *session) untold(why string) []wire.Outcome {
	out := s.outcomes()
	for i := range out {
		if out[i].OK {
			out[i].Problem = "not told: " + why
		}
	}
	return out
}

// end aborts what was not completed and lets the service go. A second call does nothing.
func (s *session) end(ctx context.Context) error {
	if s.r == nil {
		return nil
	}
	var err error
	if !s.complete {
		err = s.r.Abort(ctx)
		var e *Error
		if errors.As(err, &e) && e.Code == BadState {
			err = nil // nothing had begun
		}
	}
	err = errors.Join(err, s.r.Close())
	s.r, s.taken = nil, false
	return err
}

// Close lets go of everything, from any state: what was not settled is aborted.
func (s *session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), abortLimit)
	defer cancel()
	if err := s.end(ctx); err != nil {
		return fmt.Errorf("end the backup: %w", err)
	}
	return nil
}
