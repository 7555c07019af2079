package guest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest/agent/wire"
)

const (
	deployLimit = 2 * time.Minute  // a deployment whose context has no deadline
	cleanLimit  = 20 * time.Second // taking away what a failed one has made
	removeLimit = 30 * time.Second
)

// DeployOptions change how a component is brought in. Nil and zero fields are good defaults.
type DeployOptions struct {
	Guest   string        // what the guest is called in errors and in the journal
	Session string        // for the component's log
	Lease   time.Duration // how long it lives without hearing from us. Zero: 60 s
	// Journal keeps what is made in the guest before it is made: an effect of kind [EffectKind]. Nil: it is not kept, and
	// what a killed process left is found by nobody but the component's own lease.
	Journal hikae.Journal
	// Reconnects is how many times a link to the guest may still be made anew; a deployer takes from it. Nil: once.
	Reconnects *int
	// Way opens the channel again, once, where its link broke and something is to be taken away.
	Way Way
}

// Deployed is a component that was brought in, and runs. Remove always runs.
type Deployed struct {
	Component *Component
	Kind      Kind
	Program   Program // zero where it is somebody else's, such as a proxy's

	remove func(context.Context) error
	mu     sync.Mutex
	gone   bool
}

// NewDeployed is for those who bring components in by other means: remove ends the component, proves that nothing is left,
// and may be called again after an error.
func NewDeployed(c *Component, kind Kind, remove func(context.Context) error) *Deployed {
	return &Deployed{Component: c, Kind: kind, remove: remove}
}

// Remove ends the component and takes everything of it away. It returns nil when it has looked and found nothing: no
// process, no folder, no service. Otherwise the error is ErrLeftover and says what there is, or why nobody could look;
// Remove may then be called again, and the journal still knows.
func (d *Deployed) Remove(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone {
		return nil
	}
	ctx, cancel := bounded(ctx, removeLimit)
	defer cancel()
	err := d.remove(ctx)
	d.gone = err == nil
	return err
}

// Deploy brings a component in over a channel, which stays the caller's, and speaks to it: a private folder, the program,
// its hash checked in the guest, a greeting. When it fails it takes away what it made; what then is left all the same is
// ErrLeftover in the error. Folders of System.Temp are tried in order. Errors are *StepError.
func Deploy(ctx context.Context, ch Channel, programs Programs, opts *DeployOptions) (*Deployed, error) {
	e, err := deploy(ctx, ch, programs, opts, true)
	if err != nil {
		return nil, err
	}
	return &Deployed{Component: e.component, Kind: ch.Kind(), Program: e.program, remove: e.remove}, nil
}

// Brought is a component that was brought in and started, and that nobody has greeted yet: its stream goes to whoever
// speaks to it. Remove always runs.
type Brought struct {
	Stream  io.ReadWriteCloser // of frames
	Kind    Kind
	Program Program

	deployed *Deployed
}

// Remove closes the stream and is [Deployed.Remove].
func (b *Brought) Remove(ctx context.Context) error { return b.deployed.Remove(ctx) }

// Bring is [Deploy] without the greeting, for a proxy, which carries the stream to somebody else. Whether the component
// answers shows there.
func Bring(ctx context.Context, ch Channel, programs Programs, opts *DeployOptions) (*Brought, error) {
	e, err := deploy(ctx, ch, programs, opts, false)
	if err != nil {
		return nil, err
	}
	d := &Deployed{Kind: ch.Kind(), Program: e.program, remove: e.remove}
	return &Brought{Stream: e.stream, Kind: d.Kind, Program: d.Program, deployed: d}, nil
}

func deploy(ctx context.Context, ch Channel, programs Programs, opts *DeployOptions, greet bool) (*deployment, error) {
	if opts == nil {
		opts = &DeployOptions{}
	}
	ctx, cancel := bounded(ctx, deployLimit)
	defer cancel()
	e, err := deploySomewhere(ctx, ch, programs, opts, greet)
	if err != nil {
		return nil, &StepError{Guest: opts.Guest, Step: "deploy", Err: err}
	}
	return e, nil
}

func deploySomewhere(ctx context.Context, ch Channel, programs Programs, opts *DeployOptions, greet bool) (*deployment, error) {
	system := ch.System()
	build, err := programs.Build(system.OS, system.Arch)
	if err != nil {
		return nil, err
	}
	if len(system.Temp) == 0 {
		return nil, ErrNoTemp
	}
	var failed []error
	for _, temp := range system.Temp {
		e := &deployment{channel: ch, build: build, opts: opts, temp: temp, greet: greet}
		if err := e.run(ctx); err == nil {
			return e, nil
		} else {
			failed = append(failed, err)
		}
		if ctx.Err() != nil || !folderMayBeToBlame(failed[len(failed)-1]) {
			break
		}
	}
	return nil, errors.Join(failed...)
}

// folderMayBeToBlame says whether another folder is worth trying: not where something stayed in this one, not where the
// component has spoken, and not where the link broke.
func folderMayBeToBlame(err error) bool {
	var version *VersionError
	return !errors.Is(err, ErrLeftover) && !LinkBroke(err) && !errors.As(err, &version) && !errors.Is(err, wire.ErrMalformed)
}

// deployment is one attempt, in one folder.
type deployment struct {
	channel   Channel
	build     *Build
	opts      *DeployOptions
	temp      string
	greet     bool
	program   Program
	stream    io.ReadWriteCloser // until somebody greets
	component *Component
	done      func(context.Context) error // tells the journal
}

func (e *deployment) run(ctx context.Context) error {
	name := "hikae-" + strings.ToLower(rand.Text())
	e.program = Program{Name: name, Path: guestPath(e.channel.System(), e.temp, name, e.build.File())}
	if err := e.begin(ctx); err != nil {
		return err
	}
	err := e.bring(ctx)
	if err == nil && e.greet {
		err = e.hello(ctx)
	}
	if err == nil {
		return nil
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
	defer cancel()
	return errors.Join(err, e.remove(undo))
}

// begin writes down what is about to be made.
func (e *deployment) begin(ctx context.Context) (err error) {
	e.done = func(context.Context) error { return nil }
	if e.opts.Journal != nil {
		e.done, err = e.opts.Journal.Intend(ctx, effectOf(e.opts.Guest, e.channel, e.program))
	}
	return err
}

// bring does the steps. Whatever an error leaves is the caller's to take away.
func (e *deployment) bring(ctx context.Context) error {
	p := e.program.Path
	if err := e.channel.MakeDir(ctx, folderOf(p)); err != nil {
		return fmt.Errorf("make a private folder: %w", err)
	}
	if err := e.channel.Upload(ctx, p, e.build.Content, 0o700); err != nil {
		return fmt.Errorf("bring the component in: %w", err)
	}
	if err := proveUpload(ctx, e.channel, p, e.build); err != nil {
		return err
	}
	var err error
	if e.stream, err = Stream(ctx, e.channel, e.program); err != nil {
		return fmt.Errorf("start the component: %w", err)
	}
	return nil
}

// hello greets the component, which must be the one that was brought.
func (e *deployment) hello(ctx context.Context) (err error) {
	e.component, err = Dial(ctx, e.stream, &ComponentOptions{Session: e.opts.Session, Lease: e.opts.Lease})
	if err != nil {
		return fmt.Errorf("greet the component: %w", errors.Join(err, endOf(ctx, e.stream)))
	}
	if h := e.component.Hello(); h.OS != e.build.OS || h.Arch != e.build.Arch {
		return fmt.Errorf("the component says that it is for %s on %s, and it was built for %s on %s",
			printable(h.OS), printable(h.Arch), e.build.OS, e.build.Arch)
	}
	return nil
}

// endOf asks a stream why its program ended, where it can tell.
func endOf(ctx context.Context, stream any) error {
	teller, ok := stream.(interface{ Err() error })
	if !ok {
		return nil
	}
	told := make(chan error, 1)
	go func() { told <- teller.Err() }()
	select {
	case err := <-told:
		return err
	case <-ctx.Done():
		return nil
	}
}

// remove ends the component, proves that nothing is left, and tells the journal.
func (e *deployment) remove(ctx context.Context) error {
	if e.component != nil {
		e.bid(ctx)
		closeWithin(ctx, e.component)
	} else if e.stream != nil {
		closeWithin(ctx, e.stream)
	}
	err := e.clean(ctx)
	if err != nil && e.opts.Way != nil && ctx.Err() == nil {
		err = e.cleanAgain(ctx, err)
	}
	if err != nil {
		return err
	}
	return e.done(ctx)
}

// farewell bounds the wait for the answer of a component that is told to go. Half of a shorter time is kept for looking.
const farewell = 10 * time.Second

// bid tells the component to go. Its answer is of no interest, nor is the end of its stream, which some channels do not
// tell: whether it went is looked for afterwards.
func (e *deployment) bid(ctx context.Context) {
	limit := farewell
	if end, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(end)/2)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	invoke[wire.RemoveAnswer](ctx, e.component, limit, wire.Remove, wire.RemoveArgs{})
}

// closeWithin leaves a stream whose end nobody answers to itself when the context ends: it has a limit of its own.
func closeWithin(ctx context.Context, c io.Closer) {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		c.Close()
	}()
	select {
	case <-closed:
	case <-ctx.Done():
	}
}

func (e *deployment) clean(ctx context.Context) error { return TakeAway(ctx, e.channel, e.program) }

// cleanAgain looks over a fresh channel: the component had its own end to see to while the link was down. One attempt
// (R190).
func (e *deployment) cleanAgain(ctx context.Context, why error) error {
	ch, err := e.opts.Way.Open(ctx)
	if err != nil {
		return errors.Join(why, err)
	}
	defer ch.Close()
	return TakeAway(ctx, ch, e.program)
}
