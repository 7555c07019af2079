package smbstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// pool is the connections to one share. Calls take the one that fewest others use; another is made while all are in
// use and fewer than allowed.
type pool struct {
	at    Address
	creds CredentialsFunc
	opts  Options

	dialing chan struct{} // one at a time: a server that comes back is not stormed
	over    context.Context
	end     context.CancelFunc
	work    sync.WaitGroup // handles that are being closed

	mu     sync.Mutex
	links  []*link
	sealed bool      // the last connection was seen to encrypt
	enough time.Time // no further connection before
}

// enoughFor is how long no further connection is tried after a server refused one while others live.
const enoughFor = 30 * time.Second

func newPool(at Address, creds CredentialsFunc, opts Options) *pool {
	p := &pool{at: at, creds: creds, opts: opts, dialing: make(chan struct{}, 1)}
	p.over, p.end = context.WithCancel(context.Background())
	return p
}

// warm makes the first connection, without waiting for a server that is away.
func (p *pool) warm(ctx context.Context) error {
	l, err := p.connect(ctx)
	if err == nil {
		p.put(l)
	}
	return err
}

// get gives a connection, for a put.
func (p *pool) get(ctx context.Context) (*link, error) {
	if l, err := p.take(false); l != nil || err != nil {
		return l, err
	}
	select {
	case p.dialing <- struct{}{}:
	default: // another is on the way; who can share one does not wait for it
		if l, err := p.take(true); l != nil || err != nil {
			return l, err
		}
		select {
		case p.dialing <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-p.over.Done():
			return nil, fs.ErrClosed
		}
	}
	defer func() { <-p.dialing }()
	if l, err := p.take(false); l != nil || err != nil { // somebody has just made one, or put one back
		return l, err
	}
	return p.redial(ctx)
}

// take gives the least used connection, unless another may be made and full is not set.
func (p *pool) take(full bool) (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over.Err() != nil {
		return nil, fs.ErrClosed
	}
	p.links = slices.DeleteFunc(p.links, (*link).gone)
	var least *link
	for _, l := range p.links {
		if least == nil || l.users < least.users {
			least = l
		}
	}
	more := len(p.links) < p.opts.Connections && !full && time.Now().After(p.enough)
	if least == nil || least.users > 0 && more {
		return nil, nil
	}
	least.users++
	return least, nil
}

// gone reports whether the connection is dead, and makes sure that nothing waits on it.
func (l *link) gone() bool {
	if !l.dead() {
		return false
	}
	l.kill()
	return true
}

func (p *pool) put(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.users--
}

// redial makes a connection, for as long as the options allow where there is none. Credentials that are refused are
// asked for once more: they may have been changed.
func (p *pool) redial(ctx context.Context) (*link, error) {
	since := time.Now()
	logons := 0
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
		l, err := p.connect(ctx)
		if err == nil {
			return l, nil
		}
		if other, closed := p.take(true); other != nil || closed != nil {
			p.mu.Lock()
			p.enough = time.Now().Add(enoughFor)
			p.mu.Unlock()
			return other, closed
		}
		if refused(err) {
			logons++
		}
		switch {
		case ctx.Err() != nil:
			return nil, errors.Join(ctx.Err(), err)
		case logons > 1:
			return nil, err
		case time.Since(since)+pause > p.opts.GiveUp:
			return nil, fmt.Errorf("%s: %w: %w", p.at, ErrAway, err)
		}
		if err := p.sleep(ctx, pause/2+rand.N(pause)); err != nil {
			return nil, err
		}
	}
}

// connect makes one connection and takes it.
func (p *pool) connect(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.over, cancel)()
	l, err := connect(ctx, p.at, p.creds, p.opts)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over.Err() != nil {
		l.kill()
		return nil, fs.ErrClosed
	}
	l.users = 1
	p.sealed = l.line.Encrypted.Load()
	p.links = append(p.links, l)
	return l, nil
}

func (p *pool) sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.over.Done():
		return fs.ErrClosed
	}
}

// later runs what nobody waits for but close.
func (p *pool) later(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over.Err() != nil {
		return // every connection ends, and with it what is open
	}
	p.work.Go(f)
}

func (p *pool) encrypted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sealed
}

// close logs off everywhere.
func (p *pool) close() {
	p.mu.Lock()
	p.end()
	links := p.links
	p.links = nil
	p.mu.Unlock()
	p.work.Wait()
	var all sync.WaitGroup
	for _, l := range links {
		all.Go(l.close)
	}
	all.Wait()
}
