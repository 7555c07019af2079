package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"github.com/hikae/hikae"
)

// undoers undo effects, by kind. Undoing what never happened, or was undone already, is no error. Each file that makes effects adds
// its kinds here. Every effect's facts name the site as "site" and the host that it was made on as "host"; the VM may have moved.
var undoers = map[string]func(ctx context.Context, p *Provider, e hikae.Effect, keep []hikae.ChangeID) error{
	kindCheckpoint: undoCheckpoint,
	kindReference:  undoReference,
	kindBase:       undoBase,
	kindSet:        undoSet,
	kindRestore:    undoRestore,
}

// Undo implements [hikae.Sweeper] for effects on the provider's site. It touches what bears the session's mark, or what the
// effect names, and nothing else.
func (p *Provider) Undo(ctx context.Context, e hikae.Effect, keep []hikae.ChangeID) error {
	if site := e.Facts["site"]; site != p.site.Address() {
		return fmt.Errorf("effect %s was made on %s, this is %s: %w", e.ID, site, p.site.Address(), errors.ErrUnsupported)
	}
	if strings.HasPrefix(e.Kind, kindVolume) {
		return undoVolume(ctx, p, e)
	}
	if e.Kind == kindHelper {
		return undoHelper(ctx, p, e)
	}
	f := undoers[e.Kind]
	if f == nil {
		return fmt.Errorf("effect %s: %q is unknown", e.ID, e.Kind)
	}
	return f(ctx, p, e, keep)
}

func (p *Provider) swept(vm, format string, args ...any) {
	if p.opts.Swept != nil {
		p.opts.Swept(vm, fmt.Sprintf(format, args...))
	}
}

// Sweeper undoes what dead sessions left on any site. It stays connected to each until Close. Its methods may be called at once.
type Sweeper struct {
	// Connect makes a provider of all VMs of the site at an address that [Site.Address] gave, and says how to end it.
	Connect func(ctx context.Context, site string) (p *Provider, end func() error, err error)

	mu    sync.Mutex
	sites map[string]*sweptSite
}

type sweptSite struct {
	provider *Provider
	end      func() error
}

var _ hikae.Sweeper = (*Sweeper)(nil)

// Undo implements [hikae.Sweeper] for all kinds that begin with "hyperv.".
func (s *Sweeper) Undo(ctx context.Context, e hikae.Effect, keep []hikae.ChangeID) error {
	p, err := s.provider(ctx, e.Facts["site"])
	if err != nil {
		return fmt.Errorf("effect %s: %w", e.ID, err)
	}
	return p.Undo(ctx, e, keep)
}

func (s *Sweeper) provider(ctx context.Context, site string) (*Provider, error) {
	if site == "" {
		return nil, fmt.Errorf("it names no site: %w", fs.ErrInvalid)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.sites[site]; at != nil {
		return at.provider, nil
	}
	p, end, err := s.Connect(ctx, site)
	if err != nil {
		return nil, err
	}
	if s.sites == nil {
		s.sites = map[string]*sweptSite{}
	}
	s.sites[site] = &sweptSite{p, end}
	return p, nil
}

// Close ends all connections.
func (s *Sweeper) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, at := range s.sites {
		errs = append(errs, at.end())
	}
	s.sites = nil
	return errors.Join(errs...)
}
