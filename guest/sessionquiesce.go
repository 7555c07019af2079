package guest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest/agent/wire"
)

// Freeze implements [hikae.Quiescer]: scripts, applications' last step, file systems, and nothing else. Where the guest's
// processing is skipped it is [ErrSkipped].
func (s *Session) Freeze(ctx context.Context) error {
	s.asked = true
	if s.skipped != nil {
		s.froze = s.skipped
		return s.froze
	}
	if s.deployed == nil {
		s.froze = s.failure("freeze", fmt.Errorf("%w: the session has not begun", ErrNoWay))
		return s.froze
	}
	s.froze = s.freeze(ctx, !s.opts.Scripts.off())
	if failure, ok := errors.AsType[*wire.Failure](s.froze); ok && failure.Code == wire.CodeVeto && s.opts.Scripts == Try {
		s.warn("a script before the freeze failed, and such failures are to be ignored: %v", failure)
		s.froze = s.freeze(ctx, false)
	}
	if s.froze != nil {
		s.froze = s.failure("freeze", s.froze)
	}
	return s.froze
}

var _ hikae.PatientQuiescer = (*Session)(nil)

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

// Finish lets the applications go on, and collects what a restore needs. Where processing is required and the guest was
// not frozen all the time, or an application was not well, that is the error.
func (s *Session) Finish(ctx context.Context) error {
	if s.skipped != nil {
		return nil
	}
	s.took()
	errs := []error{}
	if s.asked {
		errs = append(errs, s.froze, s.thawed)
	}
	if s.q.Freeze != nil {
		errs = append(errs, s.outcomes("freeze", s.q.Freeze.Applications))
	}
	if s.q.Thaw != nil {
		errs = append(errs, s.outcomes("thaw", s.q.Thaw.Applications))
	}
	if s.prepared {
		errs = append(errs, s.finishApplications(ctx))
	}
	return s.judge(errors.Join(errs...))
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

// Keep hands out what a restore needs: guest/guest.json says what was found and done, guest/records/… are files of
// applications, guest/index is the list of files. It may be called again.
func (s *Session) Keep(ctx context.Context, put func(name string, content io.Reader) error) error {
	if s.skipped != nil || s.deployed == nil {
		return nil
	}
	about, err := json.MarshalIndent(s.about(), "", "\t")
	if err != nil {
		return err
	}
	if err := put("guest/guest.json", bytes.NewReader(append(about, '\n'))); err != nil {
		return err
	}
	for i, r := range s.finish.Records {
		if err := put(recordName(i, r), bytes.NewReader(r.Content)); err != nil {
			return err
		}
	}
	return s.index(ctx, put)
}

// about is guest.json.
func (s *Session) about() any {
	records := map[string]wire.Record{}
	for i, r := range s.finish.Records {
		records[recordName(i, r)] = wire.Record{Kind: r.Kind, Name: r.Name, File: r.File}
	}
	reached, why := s.q.Reached()
	return struct {
		Hello       wire.HelloAnswer       `json:"component"`
		Decision    Decision               `json:"decision"`
		Volumes     []wire.Volume          `json:"volumes"`
		Found       []wire.Application     `json:"applications"`
		CopyOnly    bool                   `json:"copyOnly"`
		Consistency string                 `json:"consistency"`
		Why         []string               `json:"why"`
		Records     map[string]wire.Record `json:"records"`
	}{s.deployed.Component.Hello(), s.decision, s.found.Volumes, s.found.Applications, s.copyOnly, reached.String(), why, records}
}

// recordName is where a record is kept. Its parts come from the guest, so only plain letters of them are used, and a
// number makes it the only one.
func recordName(i int, r wire.Record) string {
	return fmt.Sprintf("guest/records/%03d-%s/%s", i, plainName(r.Kind+"-"+r.Name), plainName(r.File))
}

func plainName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.' {
			return r
		}
		return '_'
	}, s[:min(len(s), 100)])
	return cmp.Or(strings.TrimLeft(s, "."), "_")
}

// index streams the list of files into the point. A list that cannot be made is a warning: the point is whole without.
func (s *Session) index(ctx context.Context, put func(string, io.Reader) error) error {
	if s.opts.Index == nil || !s.deployed.Component.Has(wire.Index) {
		return nil
	}
	r, w := io.Pipe()
	type indexed struct {
		wire.IndexAnswer
		err error
	}
	done := make(chan indexed, 1)
	go func() {
		a, err := s.deployed.Component.Index(ctx, *s.opts.Index, w)
		w.CloseWithError(err)
		done <- indexed{a, err}
	}()
	err := put("guest/index", r)
	r.CloseWithError(cmp.Or(err, io.ErrClosedPipe))
	a := <-done
	switch {
	case err == nil && a.err == nil:
		s.result.Files = a.Entries
		s.event("index", "%d files", a.Entries)
		return nil
	case a.err != nil && ctx.Err() == nil:
		return s.judge(s.failure("index", a.err))
	}
	return err
}

// Settle tells the applications whether the restore point is durable, and lets them go. It may be called again, with
// false, after an error before.
func (s *Session) Settle(ctx context.Context, durable bool) error {
	if !s.prepared || s.deployed == nil {
		return nil
	}
	s.prepared = false
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
		return s.failure("settle", errors.Join(errs...))
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
	if why := one.lacking(); len(why) > 0 {
		out.Problem = strings.Join(why, "; ")
		return out
	}
	out.OK = true
	return out
}
