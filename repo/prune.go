package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// PruneOptions say how far a prune goes. Nil and zero fields are good defaults.
type PruneOptions struct {
	// DryRun: look and decide, write and remove nothing. What repacking would give is counted as if it were done.
	DryRun bool
	// MaxUnused is how many percent of the packs' bytes may stay that no point needs: packs that are needed in part are
	// written anew until no more than that is left. Zero: 5. Negative: any share may stay, nothing is written anew.
	MaxUnused float64
	// MaxRepack bounds the bytes of packs that are written anew. Zero: no bound.
	MaxRepack int64
	// Wait is how long sessions that may still need what goes are waited for. Zero: as long as it takes to find out which
	// of them are dead, a minute at most; those are ended. Negative: not at all. What waits, the next prune removes.
	Wait time.Duration
	// Lost: go on although points need content that no pack has. Nothing that is there is removed for that.
	Lost bool
	// Rate bounds what is read for writing packs anew and for proving copies, in bytes a second. Zero: nothing does.
	Rate int64
	// Progress is told what is being done, and how much of it is done. It is called from one goroutine at a time.
	Progress func(PruneProgress)
}

// PruneProgress is where a prune is.
type PruneProgress struct {
	Step        string `json:"step"` // mark: points; repack: bytes; sweep: objects
	Done, Total int64
}

// PruneReport is what a prune did. Sizes are bytes of files, parity included.
type PruneReport struct {
	Deleted  int   `json:"deleted"`  // objects that are gone
	Freed    int64 `json:"freed"`    // their bytes, less what was written anew
	Deferred int   `json:"deferred"` // packs and manifests that wait: see Waits
	// DeferredBytes are what those will free.
	DeferredBytes int64 `json:"deferredBytes"`
	Kept          int   `json:"kept"`      // packs that stay
	KeptBytes     int64 `json:"keptBytes"` // their bytes
	Unused        int64 `json:"unused"`    // bytes in them that no point needs
	Repacked      int   `json:"repacked"`  // packs whose needed content was written anew
	Written       int64 `json:"written"`   // bytes written for that
	Rescued       int   `json:"rescued"`   // packs and manifests that were to go and were taken back
	// Waits are the sessions that have not ended and may need what is deferred.
	Waits []PruneWait `json:"waits"`
	// Stopped are write-only clients' scopes in which nothing was removed, and why.
	Stopped []PruneStop `json:"stopped"`
	// Locked are objects that the store does not let go yet.
	Locked []string `json:"locked"`
	// Unreadable are packs whose table cannot be read: nobody knows what is in them, and they stay.
	Unreadable []string `json:"unreadable"`
	DryRun     bool     `json:"dryRun,omitempty"`
}

// PruneWait is a session that is waited for.
type PruneWait struct {
	Lease  uint64 `json:"lease"`
	Access string `json:"access"` // write, read or prune
	By     string `json:"by"`     // key that began it, hexadecimal
	Ours   bool   `json:"ours"`   // of this process
}

// PruneStop is a scope in which a prune removed nothing.
type PruneStop struct {
	Writer string `json:"writer"` // the write-only client's key, hexadecimal
	Reason string `json:"reason"`
}

// Errors of a prune besides those of the store: *ErrCorrupt names what could not be read, and nothing is removed that it
// might need.

const defaultUnused = 5 // percent

// maxMarks bounds how often a prune looks at all points again because the log has gone on in a way that matters.
const maxMarks = 5

// errMarkAgain says that what was decided was decided on a state that does not hold any more.
var errMarkAgain = errors.New("the log has gone on")

// Prune removes what no point needs: packs, manifests of forgotten points, caches of packs that are gone, what dead sessions left.
// It may run beside any number of writers and readers, on any machine; of two prunes one goes and the other is *BusyError.
// Cut off at any moment, nothing is lost, and the next one goes on. LOCKING.md says why.
//
// It refuses to remove anything where it cannot read everything: a damaged log, manifest or page is *ErrCorrupt.
func (r *Repository) Prune(ctx context.Context, opts *PruneOptions) (PruneReport, error) {
	p := &prune{r: r, rep: PruneReport{Waits: []PruneWait{}, Stopped: []PruneStop{}, Locked: []string{}, Unreadable: []string{}}}
	if opts != nil {
		p.opts = *opts
	}
	if err := p.check(ctx); err != nil {
		return p.rep, err
	}
	p.r.pruning.Store(true)
	defer p.r.pruning.Store(false)
	if err := p.begin(ctx); err != nil {
		return p.rep, err
	}
	err := p.run(ctx)
	if p.lease != nil {
		err = errors.Join(err, p.end(ctx))
	}
	return p.rep, err
}

// prune is one run.
type prune struct {
	r     *Repository
	opts  PruneOptions
	lease *lease // nil: a dry run
	pace  pace
	rep   PruneReport

	watch  *watch        // who lives
	waited time.Duration // so far
}

func (p *prune) check(ctx context.Context) error {
	o := &p.opts
	switch {
	case p.r.writer != nil:
		return errWriteOnly
	case o.MaxUnused != o.MaxUnused || o.MaxUnused > 100 || o.MaxRepack < 0 || o.Rate < 0:
		return fmt.Errorf("a prune with %v percent, %d bytes and %d bytes a second: %w", o.MaxUnused, o.MaxRepack, o.Rate, fs.ErrInvalid)
	}
	if !o.DryRun {
		if err := p.r.writable(ctx); err != nil {
			return err
		}
	}
	if o.MaxUnused == 0 {
		o.MaxUnused = defaultUnused
	}
	p.pace.rate, p.rep.DryRun = o.Rate, o.DryRun
	return nil
}

// begin makes sure that the whole log was read, and takes the lease.
func (p *prune) begin(ctx context.Context) error {
	if err := p.whole(ctx); err != nil || p.opts.DryRun {
		return err
	}
	var err error
	if err = p.r.pruneAlone(ctx, p.opts.Wait >= 0); err == nil {
		p.lease, err = p.r.newLease(ctx, accessPrune, nil)
	}
	if err != nil {
		return err
	}
	p.r.sweepUnfinished(ctx)
	if err := p.r.sweepSlots(ctx); err != nil {
		p.r.warn(fmt.Sprintf("slots that a change of keys left behind stay for now: %v", err))
	}
	return nil
}

// whole refuses a log that cannot be seen whole or understood.
func (p *prune) whole(ctx context.Context) error {
	if err := p.r.log.refresh(ctx); err != nil {
		return err
	}
	if err := p.r.log.findHole(ctx); err != nil {
		return err
	}
	if err := p.r.log.damage(); err != nil {
		return err
	}
	var alien []string
	p.r.log.view(func(l *ledger) { alien = l.alien })
	if len(alien) > 0 {
		return &ErrUnsupported{What: "log records of kind " + alien[0]}
	}
	return nil
}

// end ends the lease and makes the log short.
func (p *prune) end(ctx context.Context) error {
	err := p.lease.end(ctx)
	if errors.Is(err, ErrRevoked) {
		return err
	}
	if err != nil {
		p.r.warn(fmt.Sprintf("lease %d could not be ended: %v", p.lease.n, err))
	}
	if err := p.r.Condense(ctx); err != nil && ctx.Err() == nil {
		p.r.warn(fmt.Sprintf("the log was not made shorter: %v", err))
	}
	if err := p.r.client.advance(p.r.log); err != nil {
		p.r.warn(fmt.Sprintf("the high-water mark could not be kept: %v", err))
	}
	p.r.reserve(ctx)
	return nil
}

// run prunes scope after scope. What a write-only client has made of its own scope stops nobody else.
func (p *prune) run(ctx context.Context) error {
	var scopes []scope
	p.r.log.view(func(l *ledger) { scopes = l.scopes() })
	for _, s := range scopes {
		err := p.scope(ctx, s)
		if err == nil {
			continue
		}
		corrupt, damaged := errors.AsType[*ErrCorrupt](err)
		if s == (scope{}) || !damaged || ctx.Err() != nil {
			return err
		}
		p.rep.Stopped = append(p.rep.Stopped, PruneStop{Writer: publicKeyText(publicKey(s)), Reason: corrupt.Error()})
	}
	if err := p.manifests(ctx); err != nil {
		return err
	}
	if p.opts.DryRun {
		return nil
	}
	return p.caches(ctx)
}

// scope prunes the packs of one scope: first what nobody needs at all, for that takes no room; then, part by part, what is
// needed in part.
func (p *prune) scope(ctx context.Context, s scope) error {
	for try := 1; ; try++ {
		m, err := p.newMarking(ctx, s)
		if err != nil {
			return err
		}
		err = p.marked(ctx, m, try < maxMarks)
		err = errors.Join(err, m.close())
		if !errors.Is(err, errMarkAgain) || try == maxMarks {
			return err
		}
	}
}

// marked removes what the mark allows. Who keeps things for no point is found out before anything is written anew for them. again: the
// caller can mark again, where that would allow more.
func (p *prune) marked(ctx context.Context, m *marking, again bool) error {
	if err := m.all(ctx); err != nil {
		return err
	}
	if err := p.sweepPacks(ctx, m); err != nil {
		return err
	}
	if again {
		if err := p.outlastHolders(ctx, m); err != nil {
			return err
		}
	}
	left := p.opts.MaxRepack
	for p.opts.MaxUnused >= 0 {
		took, more, err := p.repack(ctx, m, left)
		if err != nil {
			return err
		}
		if took > 0 && !p.opts.DryRun {
			if err := p.sweepPacks(ctx, m); err != nil {
				return err
			}
		}
		if left -= took; !more || p.opts.MaxRepack > 0 && left <= 0 {
			break
		}
	}
	p.account(m)
	return nil
}

func (p *prune) tell(step string, done, total int64) {
	if p.opts.Progress != nil {
		p.opts.Progress(PruneProgress{step, done, total})
	}
}

func publicKeyText(k publicKey) string {
	b, _ := k.MarshalText()
	return string(b)
}
