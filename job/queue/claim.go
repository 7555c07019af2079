package queue

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"
)

// Claims keeps apart who works on the same thing: one holder at a time, found dead by its silence.
type Claims struct {
	table Table
	lease time.Duration
}

// NewClaims are claims in a table. lease is how long a silent holder is believed to live; zero: 30 s.
func NewClaims(table Table, lease time.Duration) *Claims {
	return &Claims{table, cmp.Or(lease, 30*time.Second)}
}

// HeldError says who holds what was to be claimed.
type HeldError struct {
	What  string
	Owner string
	Since time.Time // by the owner's clock
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("%s is held by %s since %s", e.What, e.Owner, e.Since.Format(time.RFC3339))
}

// Fence names something of a holder's that must be ended before the next one begins: "repository ID", lease 17.
type Fence struct {
	Where string `json:"where"`
	Lease uint64 `json:"lease"`
}

const maxFences = 256

type claimDoc struct {
	Version int       `json:"version"`
	Owner   string    `json:"owner"`
	Token   string    `json:"token"` // of this holding
	Since   time.Time `json:"since"`
	Fences  []Fence   `json:"fences,omitempty"`
}

// Held is a claim in the hands of one holder, which shows a sign of life three times in each lease until Release.
type Held struct {
	c    *Claims
	key  string
	what string

	mu       sync.Mutex
	doc      claimDoc
	revision uint64
	sign     time.Time // when the last change that succeeded was begun
	over     bool

	lost   chan struct{}
	cancel context.CancelFunc
	done   chan struct{}
}

// Claim takes what nobody else may work on meanwhile. *HeldError: somebody has it who shows signs of life. A holder that is silent for
// a lease and a quarter is dead, and what it left to be ended is in Fences: that wait is the longest that Claim takes.
func (c *Claims) Claim(ctx context.Context, what, owner string) (*Held, error) {
	h := &Held{c: c, key: Key("claim", what), what: what, lost: make(chan struct{}), done: make(chan struct{}),
		doc: claimDoc{Version: version, Owner: owner, Token: rand.Text(), Since: time.Now().UTC()}}
	if err := h.take(ctx); err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	beat, cancel := context.WithCancel(context.WithoutCancel(ctx))
	h.cancel = cancel
	go h.live(beat)
	return h, nil
}

// take creates the entry, or takes over that of a dead holder.
func (h *Held) take(ctx context.Context) error {
	for {
		h.sign = time.Now()
		var err error
		if h.revision, err = h.c.table.Create(ctx, h.key, h.encode()); err == nil || !errors.Is(err, ErrConflict) {
			return err
		}
		before, err := h.c.table.Get(ctx, h.key)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		old, err := decodeClaim(before.Value)
		if err != nil {
			return fmt.Errorf("%s: %w", h.what, err)
		}
		if old.Token == h.doc.Token { // the answer to our own Create was lost
			h.revision = before.Revision
			return nil
		}
		if taken, err := h.takeOver(ctx, before, old); taken || err != nil {
			return err
		}
	}
}

// takeOver waits for a sign of life, and takes the claim where there is none.
func (h *Held) takeOver(ctx context.Context, before Entry, old claimDoc) (bool, error) {
	silence, cancel := context.WithTimeout(ctx, h.c.lease*5/4)
	defer cancel()
	for e, err := range h.c.table.Watch(silence, h.key) {
		switch {
		case err != nil && ctx.Err() != nil:
			return false, ctx.Err()
		case err != nil && silence.Err() == nil:
			return false, err
		case err != nil:
			return h.overDead(ctx, before, old)
		case e.Gone:
			return false, nil
		case e.Revision != before.Revision:
			return false, &HeldError{h.what, old.Owner, old.Since}
		}
	}
	return false, silence.Err()
}

func (h *Held) overDead(ctx context.Context, before Entry, old claimDoc) (bool, error) {
	h.doc.Fences, h.sign = old.Fences, time.Now()
	rev, err := h.c.table.Update(ctx, h.key, h.encode(), before.Revision)
	if errors.Is(err, ErrConflict) { // it lives, or another one was faster
		h.doc.Fences = nil
		now, getErr := h.c.table.Get(ctx, h.key)
		if getErr != nil {
			return false, ignoreMissing(getErr)
		}
		if next, err := decodeClaim(now.Value); err == nil && next.Token != h.doc.Token {
			return false, &HeldError{h.what, next.Owner, next.Since}
		}
		h.doc.Fences, h.revision = old.Fences, now.Revision
		return true, nil
	}
	h.revision = rev
	return err == nil, err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (h *Held) encode() []byte {
	b, err := json.Marshal(h.doc)
	if err != nil {
		panic("a claim cannot be encoded: " + err.Error())
	}
	return b
}

func decodeClaim(b []byte) (d claimDoc, err error) {
	if err := CheckVersion("claim", b); err != nil {
		return d, err
	}
	err = Strict(b, &d)
	if err == nil && len(d.Fences) > maxFences {
		err = fmt.Errorf("claim with %d open leases, at most %d: %w", len(d.Fences), maxFences, ErrInvalid)
	}
	return d, err
}

// live shows signs of life. Who cannot show one for a whole lease is dead to the others a quarter of a lease later.
func (h *Held) live(ctx context.Context) {
	defer close(h.done)
	tick := time.NewTicker(h.c.lease / 3)
	defer tick.Stop()
	for {
		h.mu.Lock()
		left := h.c.lease - time.Since(h.sign)
		h.mu.Unlock()
		end := time.NewTimer(left)
		select {
		case <-ctx.Done():
			end.Stop()
			return
		case <-end.C:
			h.lose()
			return
		case <-tick.C:
		}
		end.Stop()
		if err := h.Confirm(ctx); errors.Is(err, ErrLost) {
			return
		}
	}
}

func (h *Held) lose() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.loseLocked()
}

func (h *Held) loseLocked() {
	if !h.over {
		h.over = true
		close(h.lost)
	}
}

// Lost is closed when the claim is held no more without having been released.
func (h *Held) Lost() <-chan struct{} { return h.lost }

// Confirm shows a sign of life now. On nil the claim was held at a moment after the call began. ErrLost: it is not.
func (h *Held) Confirm(ctx context.Context) error {
	return h.change(ctx, func(*claimDoc) error { return nil })
}

// Fences are what the holders before left to be ended: do that, then call Ended.
func (h *Held) Fences() []Fence {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.doc.Fences)
}

// Guard notes something that whoever takes the claim over must end first. It is durable on return: what must not outlive the claim
// begins afterwards, or is abandoned when this fails.
func (h *Held) Guard(ctx context.Context, f Fence) error {
	return h.change(ctx, func(d *claimDoc) error {
		if len(d.Fences) >= maxFences {
			return fmt.Errorf("%s has %d open leases: %w", h.what, maxFences, ErrInvalid)
		}
		d.Fences = append(slices.Clone(d.Fences), f)
		return nil
	})
}

// Ended takes fences away again.
func (h *Held) Ended(ctx context.Context, list ...Fence) error {
	return h.change(ctx, func(d *claimDoc) error {
		d.Fences = slices.DeleteFunc(slices.Clone(d.Fences), func(f Fence) bool { return slices.Contains(list, f) })
		return nil
	})
}

// change changes the entry if it is still ours.
func (h *Held) change(ctx context.Context, f func(*claimDoc) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over || time.Since(h.sign) >= h.c.lease {
		h.loseLocked()
		return fmt.Errorf("%s: %w", h.what, ErrLost)
	}
	ctx, cancel := context.WithTimeout(ctx, h.c.lease-time.Since(h.sign))
	defer cancel()
	was, begun := h.doc, time.Now()
	if err := f(&h.doc); err != nil {
		return err
	}
	rev, err := h.c.table.Update(ctx, h.key, h.encode(), h.revision)
	if errors.Is(err, ErrConflict) {
		rev, err = h.mine(ctx, err)
	}
	if err != nil {
		h.doc = was
		return fmt.Errorf("%s: %w", h.what, err)
	}
	h.revision, h.sign = rev, begun
	return nil
}

// mine looks at an entry that was changed: by us, where the answer was lost, or by another one. What we wanted to change is written
// again then.
func (h *Held) mine(ctx context.Context, conflict error) (uint64, error) {
	e, err := h.c.table.Get(ctx, h.key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	if err == nil {
		if d, err := decodeClaim(e.Value); err == nil && d.Token == h.doc.Token && e.Revision > h.revision {
			return h.c.table.Update(ctx, h.key, h.encode(), e.Revision)
		}
	}
	h.loseLocked()
	return 0, errors.Join(ErrLost, conflict)
}

// Release gives the claim back. A claim that was lost needs no release, and gives no error.
func (h *Held) Release(ctx context.Context) error {
	h.cancel()
	<-h.done
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return nil
	}
	h.over = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.c.lease)
	defer cancel()
	if len(h.doc.Fences) > 0 { // who was not sure that it ended what it began: silence, and the next one ends it
		return nil
	}
	if err := h.c.table.Delete(ctx, h.key, h.revision); err != nil && !errors.Is(err, ErrConflict) {
		return fmt.Errorf("%s is not released, and free in %s: %w", h.what, h.c.lease, err)
	}
	return nil
}
