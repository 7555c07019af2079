package guest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest/agent/wire"
)

// Freeze implements [hikae.Quiescer]: scripts, applications' last step, file systems, and nothing else. A link that broke
// since Begin is made anew before that, as far as the context has time for it. Where the guest's processing is skipped it
// is [ErrSkipped].
func (s *Session) Freeze(ctx context.Context) error {
	renewed := s.awake(ctx)
	s.asked = true
	if s.skipped != nil {
		s.froze = s.skipped
		return s.froze
	}
	if renewed != nil {
		s.froze = s.failure("freeze", renewed)
		return s.froze
	}
	if s.deployed == nil {
		s.froze = s.failure("freeze", fmt.Errorf("%w: the session has not begun", ErrNoWay))
		return s.froze
	}
	s.froze = s.freeze(ctx, !s.opts.Scripts.off())
	if vetoed(s.froze) && s.opts.Scripts == Try {
		s.warn("a script before the freeze failed, and such failures are to be ignored: %v", s.froze)
		s.froze = s.freeze(ctx, false)
	}
	if s.froze != nil {
		s.froze = s.failure("freeze", s.froze)
	}
	return s.froze
}

// awake asks the component whether it is there, and has it brought in anew where the link is gone: nothing was asked of
// it yet that could be done twice. Only what becomes of a link that is gone is its error; anything else Freeze meets too.
func (s *Session) awake(ctx context.Context) error {
	if s.skipped != nil || s.deployed == nil || s.asked {
		return nil
	}
	asking, cancel := context.WithTimeout(ctx, awakeLimit)
	_, err := invoke[wire.LeaseAnswer](asking, s.deployed.Component, awakeLimit, wire.Lease, wire.LeaseArgs{})
	cancel()
	for errors.Is(err, ErrLost) && s.mayReconnect(ctx, err) {
		if err = s.reconnect(ctx); err == nil {
			err = s.prepare(ctx)
		}
		if err != nil && !s.mayReconnect(ctx, err) {
			return err
		}
	}
	return nil
}

// awakeLimit is how long the answer may take: a link that is there and slow is left as it is.
const awakeLimit = 10 * time.Second

var (
	_ hikae.PatientQuiescer = (*Session)(nil)
	_ hikae.SelfThawing     = (*Session)(nil)
)

// ThawsWithin implements [hikae.SelfThawing]. It is how long what Freeze froze can stay so when nobody is heard of: the component thaws by itself then, and
// its watchdog where it cannot. A provider that got no answer to Thaw waits for so long, and takes the snapshot for one
// as after a power cut; what becomes of the VM's backup is the session's policy to say, in Finish.
func (s *Session) ThawsWithin() time.Duration { return cmp.Or(s.opts.Hold, defaultHold) + holdSlack }

const (
	defaultHold = 8 * time.Second // the component's
	holdSlack   = time.Second     // for the thaw itself
)

// Patience implements [hikae.PatientQuiescer]: scripts run before anything is frozen, and after everything is thawed. A
// guest without any waits for none.
func (s *Session) Patience() time.Duration {
	if s.opts.Scripts.off() || len(s.found.Scripts) == 0 {
		return 0
	}
	return time.Duration(min(len(s.found.Scripts), maxNotes)) * scriptLimit
}

// scriptLimit is how long each of the guest's scripts may take, what the published limit is.
const scriptLimit = 10 * time.Minute

func (s *Session) freeze(ctx context.Context, scripts bool) error {
	s.quiesce = s.deployed.Component.Quiesce(wire.FreezeArgs{Mounts: s.opts.Mounts, HoldMillis: s.opts.Hold.Milliseconds(), Scripts: scripts,
		ScriptMillis: scriptLimit.Milliseconds()})
	return s.quiesce.Freeze(ctx)
}

// Thaw implements [hikae.Quiescer]. Where the guest had thawed before it is hikae.ErrThawedEarly; where the link is gone
// it is ErrLost, and the component thaws by itself.
func (s *Session) Thaw(ctx context.Context) error {
	if s.quiesce == nil {
		return nil
	}
	err := s.quiesce.Thaw(ctx)
	if err != nil {
		err = s.failure("thaw", err)
	}
	s.thawed = cmp.Or(s.thawed, err)
	return err
}

// took reads off what the snapshot was taken in. It is after the thaw: nothing may stand between the two.
func (s *Session) took() {
	if s.quiesce == nil {
		return
	}
	if s.froze == nil {
		frozen := s.quiesce.Frozen()
		s.q.Freeze = &frozen
		s.result.Frozen = nil
		for _, f := range frozen.Frozen[:min(len(frozen.Frozen), maxNotes)] {
			s.result.Frozen = append(s.result.Frozen, Printable(f.Mount, maxName))
		}
		s.scripts(frozen.Scripts)
	}
	if s.froze == nil && (s.thawed == nil || errors.Is(s.thawed, hikae.ErrThawedEarly)) {
		thawed := s.quiesce.Thawed()
		s.q.Thaw = &thawed
		s.result.FrozenMillis = float64(thawed.FrozenMicros) / 1000
		s.scripts(thawed.Scripts)
	}
}

// scripts puts what scripts said into the report.
func (s *Session) scripts(list []wire.ScriptResult) {
	for _, r := range list[:min(len(list), maxNotes)] {
		text := fmt.Sprintf("script %s (%s): exit code %d in %d ms", r.Path, r.Phase, r.ExitCode, r.Millis)
		if out := strings.TrimSpace(r.Output); out != "" {
			text += ": " + Printable(out, maxShown)
		}
		if r.Problem != "" || r.ExitCode != 0 {
			s.warn("%s %s", text, r.Problem)
		} else {
			s.note("%s", text)
		}
	}
}

// ErrNotAsked says that the snapshot was taken, and nobody asked for a freeze.
var ErrNotAsked = errors.New("the provider did not ask for a freeze")

// Finish lets the applications go on, and collects what a restore needs. Where processing is required and the guest was
// not frozen all the time, or an application was not well, that is the error. Scripts have a policy of their own: where
// they are required, one that failed before the freeze or after the thaw is the error whatever the processing is.
func (s *Session) Finish(ctx context.Context) error {
	if s.skipped != nil {
		return nil
	}
	s.took()
	errs, scripts := []error{}, error(nil)
	switch {
	case !s.asked:
		errs = append(errs, s.failure("freeze", ErrNotAsked))
	case vetoed(s.froze):
		errs, scripts = append(errs, s.thawed), s.froze
	default:
		errs = append(errs, s.froze, s.thawed)
	}
	if s.q.Freeze != nil {
		errs = append(errs, s.outcomes("freeze", s.q.Freeze.Applications))
	}
	if s.q.Thaw != nil {
		errs = append(errs, s.outcomes("thaw", s.q.Thaw.Applications))
		if failed := failedScripts(s.q.Thaw.Scripts); failed != nil && s.opts.Scripts != Try { // a warning of it is there
			scripts = s.failure("scripts", failed)
		}
	}
	if s.prepared {
		errs = append(errs, s.finishApplications(ctx))
	}
	if len(s.opts.Mounts) > 0 && s.q.Freeze != nil && s.q.Thaw != nil {
		for _, text := range atMost(s.q.leftOut(), maxNotes) {
			s.warn("%s", text)
		}
	}
	return errors.Join(s.judgeBy(s.opts.Scripts, scripts), s.judge(errors.Join(errs...)))
}

// vetoed reports whether a freeze came to nothing by a script.
func vetoed(err error) bool {
	failure, ok := errors.AsType[*wire.Failure](err)
	return ok && failure.Code == wire.CodeVeto
}

// failedScripts are those that did not end well.
func failedScripts(list []wire.ScriptResult) error {
	var errs []error
	for _, r := range list {
		if r.Problem != "" || r.ExitCode != 0 {
			errs = append(errs, fmt.Errorf("script %s (%s): exit code %d %s", Printable(r.Path, maxName), Printable(r.Phase, maxName),
				r.ExitCode, Printable(r.Problem, maxShown)))
		}
	}
	return errors.Join(few(errs)...)
}

func (s *Session) finishApplications(ctx context.Context) error {
	a, err := s.deployed.Component.Finish(ctx, wire.FinishArgs{LimitMillis: s.opts.PrepareLimit.Milliseconds()})
	if err != nil {
		s.q.Prepare = nil // no application can be restored by what it told: what is there is the file systems' state
		return s.failure("finish", err)
	}
	s.finish = a
	s.event("finish", "%d records", len(a.Records))
	for _, o := range a.Applications {
		if !o.OK {
			s.q.Prepare = append([]wire.Outcome{o}, s.q.Prepare...)
		}
	}
	return s.outcomes("finish", a.Applications)
}

// Settle tells the applications whether there is a durable restore point that they can go back to, and lets them go. It
// may be called again, with false, after an error before. They take true for leave to drop logs, so it comes to them only
// where the guest itself says that all of them were consistent: one that was not keeps the others' logs too, for the
// component is told in one word. That costs space until the next point, and no data.
func (s *Session) Settle(ctx context.Context, durable bool) error {
	if !s.prepared || s.deployed == nil {
		return nil
	}
	s.prepared = false
	reached, _ := s.q.Reached()
	durable = durable && reached == hikae.Application
	a, err := s.deployed.Component.Settle(ctx, wire.SettleArgs{Durable: durable, Truncate: durable && s.opts.Truncate && !s.copyOnly})
	if errors.Is(err, ErrLost) && !durable {
		return nil // they were let go when the link was lost
	}
	if err != nil {
		return s.failure("settle", err)
	}
	s.event("settle", "durable: %t", durable)
	var errs []error
	for _, o := range a.Applications {
		if !o.OK {
			errs = append(errs, fmt.Errorf("%s: %s", appName(o.Kind, o.Name), Printable(o.Problem, maxShown)))
		}
	}
	if len(errs) > 0 {
		return s.failure("settle", errors.Join(few(errs)...))
	}
	return nil
}

// Close takes away what was brought in, and proves it: a runtime component is gone from the guest when it returns nil
// (R121, R188). Otherwise the error is ErrLeftover; Close may be called again, and the journal still knows.
func (s *Session) Close(ctx context.Context) error {
	if s.closed {
		return nil
	}
	if err := s.remove(ctx); err != nil {
		return s.failure("remove", err)
	}
	s.closed = true
	return nil
}

func (s *Session) remove(ctx context.Context) error {
	if s.deployed == nil {
		return nil
	}
	if err := s.deployed.Remove(ctx); err != nil {
		return err
	}
	s.event("remove", "nothing is left")
	s.deployed = nil
	return nil
}

// Reached is what the snapshot is good for as far as the guest tells, and what was done.
func (s *Session) Reached() (hikae.Consistency, Result) {
	r := s.result
	// None is [], never null: scripts read it.
	r.Frozen, r.Applications = append([]string{}, r.Frozen...), []AppRun{}
	r.Notes, r.Warnings = append([]string{}, r.Notes...), append([]string{}, r.Warnings...)
	for _, a := range s.q.Found {
		r.Applications = append(r.Applications, s.run(a))
	}
	if s.skipped != nil {
		return hikae.Crash, r
	}
	reached, why := s.q.Reached()
	r.Notes = append(r.Notes, why...)
	return reached, r
}

// run is how one application fared.
func (s *Session) run(a wire.Application) AppRun {
	out := AppRun{Kind: Printable(a.Kind, maxName), Name: Printable(a.Name, maxName)}
	if s.q.skipped(a.Kind, a.Name) {
		out.Problem = "left alone, as it was set"
		return out
	}
	one := s.q
	one.Found = []wire.Application{a}
	if one.Freeze == nil || one.Thaw == nil {
		out.Problem = "nothing was frozen around the snapshot"
		return out
	}
	if why := one.lackingOf(one.Found); len(why) > 0 {
		out.Problem = strings.Join(why, "; ")
		return out
	}
	out.OK = true
	return out
}
