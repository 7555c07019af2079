package guest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest/agent/wire"
)

// ErrSkipped says that a guest is not being worked in: its processing is disabled, or failed and failures are ignored.
var ErrSkipped = errors.New("guest processing is skipped")

// SessionOptions change how a guest is worked in. Nil and zero fields are good defaults.
type SessionOptions struct {
	Guest   string // what it is called in errors, events and the journal
	ID      string // of the session, for the component's log and the applications' own records
	Choice  Choice
	Order   Order // of ways into this guest
	Journal hikae.Journal
	Lease   time.Duration // how long a component lives without hearing from us. Zero: 60 s

	Processing Policy // Empty: Require
	Scripts    Policy // of pre-freeze and post-thaw scripts. Empty: Require

	// NoApplications leaves applications alone, Skip those that are named as Kind/Name.
	NoApplications bool
	Skip           []string
	Copy           CopyMode  // Empty: CopyAuto
	Rivals         RivalSeer // Nil: KnownRivals
	Truncate       bool      // applications drop logs that a durable point has made needless; never for a copy
	// PrepareLimit bounds each of the applications' long steps. Zero: 1 min.
	PrepareLimit time.Duration

	Mounts []string      // are frozen; none: all that can be
	Hold   time.Duration // when the guest thaws by itself. Zero: 8 s
	// Index are folders whose files are listed with the point. Nil: none.
	Index *wire.IndexArgs
	// Events gets what happens, as it does. It must not block.
	Events func(Event)
}

// Event is something that happened in a session, for a log or a progress bar.
type Event struct {
	Time  time.Time `json:"time"`
	Guest string    `json:"guest"`
	Step  string    `json:"step"` // probe, decide, deploy, inspect, prepare, freeze, thaw, finish, index, settle, remove, reconnect, fail over, skip
	Text  string    `json:"text"`
	Err   error     `json:"-"`
}

// Session is the work in one guest around one snapshot, told as a story: Begin finds out how the guest is reached,
// decides, brings a component in or finds the one that is there, and gets applications ready; the provider calls Freeze
// and Thaw right around its atomic step; Finish lets the applications go on; Keep hands out what a restore needs; Settle
// says whether the point is durable; Close takes everything away and proves it. Close always runs.
//
// A failure is an error where the policy is Require, and a warning where it is Try: then Freeze is [ErrSkipped] and the
// snapshot is a crash's. One link that breaks before the freeze is made anew; between Freeze and Thaw nothing is.
//
// One goroutine calls its methods; the deployment is the only one that takes long.
type Session struct {
	opts      SessionOptions
	deployers []Deployer

	at         Deployer // that it works from
	deployed   *Deployed
	decision   Decision
	reconnects int   // that are left
	skipped    error // why nothing is done in the guest; nil: something is
	prepared   bool
	copyOnly   bool
	froze      error // of Freeze
	thawed     error // of Thaw
	asked      bool  // Freeze was called
	closed     bool

	quiesce *Quiesce
	found   wire.InspectAnswer
	q       Quiesced
	finish  wire.FinishAnswer
	result  Result
}

var _ hikae.Quiescer = (*Session)(nil)

// Result is what happened in a guest.
type Result struct {
	Way          string   `json:"way"`       // the channel, and by which machine
	Component    string   `json:"component"` // runtime or persistent, with its version; empty: none
	Frozen       []string `json:"frozen"`    // file systems
	FrozenMillis float64  `json:"frozenMillis"`
	Applications []AppRun `json:"applications"`
	Files        int64    `json:"files,omitempty"` // in the index
	Warnings     []string `json:"warnings"`
	Notes        []string `json:"notes"`
}

// AppRun is how an application was made consistent.
type AppRun struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	OK      bool   `json:"ok"`
	Problem string `json:"problem,omitempty"`
}

// NewSession makes a session that works from the first of these machines that can, in their order: for a Windows guest
// the guest interaction proxy that was chosen and then the backup server (R139, R169, R170), for others the backup server
// (R140). Nothing is done yet.
func NewSession(deployers []Deployer, opts *SessionOptions) (*Session, error) {
	s := &Session{deployers: slices.Clone(deployers), reconnects: Reconnects}
	if opts != nil {
		s.opts = *opts
	}
	o := &s.opts
	if err := errors.Join(o.Processing.check(), o.Scripts.check(), o.Order.Check()); err != nil {
		return nil, err
	}
	if o.Rivals == nil {
		o.Rivals = KnownRivals{}
	}
	if len(s.deployers) == 0 && !o.Processing.off() {
		return nil, &StepError{Guest: o.Guest, Step: "find", Err: fmt.Errorf("%w: no machine is to work in it", ErrNoWay)}
	}
	return s, nil
}

func (s *Session) event(step, format string, args ...any) {
	if s.opts.Events != nil {
		s.opts.Events(Event{Time: time.Now(), Guest: s.opts.Guest, Step: step, Text: Printable(fmt.Sprintf(format, args...), 4*maxShown)})
	}
}

func (s *Session) failure(step string, err error) error {
	if s.opts.Events != nil {
		s.opts.Events(Event{Time: time.Now(), Guest: s.opts.Guest, Step: step, Text: Printable(err.Error(), 4*maxShown), Err: err})
	}
	var named *StepError
	if errors.As(err, &named) {
		return err
	}
	return &StepError{Guest: s.opts.Guest, Step: step, Err: err}
}

func (s *Session) warn(format string, args ...any) {
	s.result.Warnings = append(s.result.Warnings, Printable(fmt.Sprintf(format, args...), 4*maxShown))
}

func (s *Session) note(format string, args ...any) {
	s.result.Notes = append(s.result.Notes, Printable(fmt.Sprintf(format, args...), 4*maxShown))
}

// judge is what a failure becomes.
func (s *Session) judge(err error) error { return s.judgeBy(s.opts.Processing, err) }

func (s *Session) judgeBy(p Policy, err error) error {
	warning, stop := p.Judge(err)
	if warning != "" {
		s.warn("%s", warning)
	}
	return stop
}

// skip ends the work in the guest by the policy; what was brought in goes with Close.
func (s *Session) skip(err error) error {
	stop := s.judge(err)
	if stop == nil {
		s.skipped = fmt.Errorf("%w: %w", ErrSkipped, err)
		s.event("skip", "%v", err)
	}
	return stop
}

// Begin gets the guest ready for a snapshot. After an error Close is still to be called.
func (s *Session) Begin(ctx context.Context) error {
	if s.opts.Processing.off() {
		s.skipped = ErrSkipped
		s.note("guest processing is disabled")
		return nil
	}
	err := s.enter(ctx)
	for err == nil {
		if err = s.prepare(ctx); err == nil || !s.mayReconnect(ctx, err) {
			break
		}
		err = s.reconnect(ctx)
	}
	if err != nil {
		return s.skip(err)
	}
	return nil
}

// enter brings a component in from the first machine that can.
func (s *Session) enter(ctx context.Context) error {
	var errs []error
	for i, d := range s.deployers {
		err := s.enterFrom(ctx, d)
		if err == nil {
			s.at = d
			s.result.Way = fmt.Sprintf("%s, from %s", s.deployed.Kind, d.Name())
			if len(errs) > 0 {
				s.warn("%s did the work in the guest in another machine's place: %v", d.Name(), errors.Join(errs...))
			}
			return nil
		}
		errs = append(errs, fmt.Errorf("from %s: %w", d.Name(), err))
		if errors.Is(err, ErrLeftover) || ctx.Err() != nil {
			break
		}
		if i+1 < len(s.deployers) {
			s.event("fail over", "%s cannot: %v; %s takes its place", d.Name(), err, s.deployers[i+1].Name())
		}
	}
	return s.failure("find", errors.Join(errs...))
}

// enterFrom probes, decides, and deploys or finds.
func (s *Session) enterFrom(ctx context.Context, d Deployer) error {
	s.event("probe", "from %s", d.Name())
	report, err := d.Probe(ctx)
	if err != nil {
		return err
	}
	s.event("probe", "%s", sentence(report))
	choice := s.opts.Choice
	if windows, known := report.Windows(); known && windows != choice.Windows {
		s.note("the guest says that its system is another one than was set: the procedure is that for what it says")
		choice.Windows = windows
	}
	probed := report.Probed()
	s.firstRun(ctx, d, choice, &probed)
	s.decision = Decide(choice, probed)
	s.event("decide", "%v", s.decision)
	if !s.decision.Action.Runtime() && s.decision.Action != Fail {
		err := s.persistent(ctx, d)
		if err == nil || choice.Windows && (choice.Persistent || choice.Strict) || ctx.Err() != nil {
			return err
		}
		// The option is off, and it was only a way that might have been shorter; or the guest is a Linux, where the
		// procedure goes on to SSH.
		s.warn("the persistent component could not be used: %v", err)
		probed.Installer, probed.Component = false, false
		s.decision = Decide(choice, probed)
		s.event("decide", "%v", s.decision)
	}
	if s.decision.Action == Fail {
		return fmt.Errorf("%w: %v: %w", ErrNoWay, s.decision, reasons(report))
	}
	if s.decision.FellThrough {
		s.note("%v", s.decision)
	}
	s.deployed, err = s.deploy(ctx, d, Ranked(s.decision, choice, s.opts.Order, report.Ways))
	if err != nil {
		return err
	}
	s.arrived("runtime component")
	return nil
}

// sentence is a report in one.
func sentence(r *Report) string {
	words := []string{}
	for _, f := range r.Ways {
		state := "closed"
		if f.Open {
			state = "open"
		}
		words = append(words, fmt.Sprintf("%s is %s", f.Kind, state))
	}
	if p := r.Persistent; p != nil {
		state := "does not answer"
		if p.Installer {
			state = "answers"
		}
		words = append(words, "the installer service "+state)
	}
	if len(words) == 0 {
		return "no way is set up"
	}
	return strings.Join(words, ", ")
}

// deploy deploys with the reconnects that the session has left.
func (s *Session) deploy(ctx context.Context, d Deployer, kinds []Kind) (*Deployed, error) {
	return d.Deploy(ctx, kinds, s.deployOptions())
}

// firstRun has the installer service of a Linux guest install the component that is missing (R137). The published
// procedure for Linux does not ask, and goes on to SSH.
func (s *Session) firstRun(ctx context.Context, d Deployer, c Choice, p *Probed) {
	at, ok := d.(PersistentDeployer)
	if c.Windows || !c.Persistent || c.Strict || !p.Installer || !p.Certificates || p.Component || !ok || at.Persistent() == nil {
		return
	}
	if err := at.Persistent().Install(ctx); err != nil {
		s.warn("the installer service could not install the persistent component: %v", err)
		return
	}
	p.Component = true
}

// reasons are why the ways are closed.
func reasons(r *Report) error {
	if err := r.Err(); err != nil {
		return err
	}
	return errors.New("what is open does not help: see the decision")
}

func (s *Session) deployOptions() *DeployOptions {
	return &DeployOptions{Guest: s.opts.Guest, Session: s.opts.ID, Lease: s.opts.Lease, Journal: s.opts.Journal, Reconnects: &s.reconnects}
}

func (s *Session) persistent(ctx context.Context, d Deployer) (err error) {
	p, ok := d.(PersistentDeployer)
	if !ok || p.Persistent() == nil {
		return fmt.Errorf("%w: %s reaches no installer service", ErrNoWay, d.Name())
	}
	s.deployed, err = usePersistent(ctx, p.Persistent(), s.decision.Action == InstallPersistent, s.deployOptions())
	if err == nil {
		s.arrived("persistent component")
	}
	return err
}

func (s *Session) arrived(what string) {
	h := s.deployed.Component.Hello()
	s.result.Component = what + ": " + Printable(h.Product, maxName)
	s.event("deploy", "%s over %s: %s", what, s.deployed.Kind, h.Product)
	if h.Unverified != "" {
		s.warn("%s", h.Unverified)
	}
}

// mayReconnect reports whether an error is a broken link that may be made anew: once in a session (R190).
func (s *Session) mayReconnect(ctx context.Context, err error) bool {
	return errors.Is(err, ErrLost) && s.reconnects > 0 && !s.asked && ctx.Err() == nil
}

// reconnect takes away what the link was to, and brings a component in again from the same machine. What the component
// held it has let go when it noticed.
func (s *Session) reconnect(ctx context.Context) error {
	s.reconnects--
	s.event("reconnect", "the link to the guest broke: attempt %d of %d", Reconnects-s.reconnects, Reconnects)
	s.prepared = false
	if err := pause(ctx, reconnectWait); err != nil {
		return s.failure("connect", err)
	}
	if err := s.remove(ctx); err != nil {
		return s.failure("connect", err)
	}
	if err := s.enterFrom(ctx, s.at); err != nil {
		return s.failure("connect", err)
	}
	s.note("the link to the guest broke and was made anew")
	return nil
}

// prepare looks around and gets applications ready.
func (s *Session) prepare(ctx context.Context) (err error) {
	c := s.deployed.Component
	if s.found, err = c.Inspect(ctx, wire.InspectArgs{Applications: !s.opts.NoApplications}); err != nil {
		return s.failure("inspect", err)
	}
	for _, n := range s.found.Notes[:min(len(s.found.Notes), maxNotes)] {
		s.note("%s", n)
	}
	s.event("inspect", "%d volumes, %d applications", len(s.found.Volumes), len(s.found.Applications))
	s.chooseCopy()
	s.q = Quiesced{Found: s.found.Applications, Volumes: s.found.Volumes, Mounts: s.opts.Mounts, Skip: s.opts.Skip}
	if s.opts.NoApplications || !c.Has(wire.Prepare) {
		s.q.Found = nil
		return nil
	}
	a, err := c.Prepare(ctx, wire.PrepareArgs{Skip: s.opts.Skip, CopyOnly: s.copyOnly, Label: "hikae " + s.opts.ID,
		LimitMillis: s.opts.PrepareLimit.Milliseconds()})
	if err != nil {
		return s.failure("prepare", err)
	}
	s.prepared, s.q.Prepare = true, a.Applications
	s.event("prepare", "%d applications", len(a.Applications))
	return s.outcomes("prepare", a.Applications)
}

const maxNotes = 64

// chooseCopy decides whether applications take this for a copy beside their own backups.
func (s *Session) chooseCopy() {
	switch s.opts.Copy {
	case CopyOnly:
		s.copyOnly = true
	case CopyFull:
		s.copyOnly = false
	default:
		if tool := s.opts.Rivals.Sees(s.opts.Guest, &s.found); tool != "" {
			s.copyOnly = true
			s.note("%s is seen in the guest: applications are told that this is a copy, and their logs are left alone", tool)
		}
	}
}

// outcomes holds applications against the policy: where processing is required, each must be well.
func (s *Session) outcomes(step string, list []wire.Outcome) error {
	var errs []error
	for _, o := range list {
		if o.OK {
			continue
		}
		errs = append(errs, fmt.Errorf("%s: %s", appName(o.Kind, o.Name), Printable(o.Problem, maxShown)))
	}
	if len(errs) == 0 {
		return nil
	}
	errs = few(errs)
	err := s.failure(step, errors.Join(errs...))
	if _, stop := s.opts.Processing.Judge(err); stop != nil {
		return stop
	}
	for _, e := range errs { // the others are well, and go on
		s.warn("%s: %v", step, e)
	}
	return nil
}

// few keeps an error readable whatever a guest is full of: so many, and how many more there are.
func few(errs []error) []error {
	const most = 20
	if len(errs) <= most {
		return errs
	}
	return append(slices.Clip(errs[:most]), fmt.Errorf("and %d more", len(errs)-most))
}
