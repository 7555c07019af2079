package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
)

// Settle is as pipe.Settler has it: packs that are not full yet are stored as they are.
func (w *pointWriter) Settle(ctx context.Context) error {
	w.mu.Lock()
	closed := w.closed
	w.mu.Unlock()
	if closed {
		return fs.ErrClosed
	}
	if err := w.s.flush(ctx); err != nil {
		return err
	}
	if err := w.s.flushIndex(); err != nil {
		w.r.warn(fmt.Sprintf("index: %v", err))
	}
	return nil
}

// maxSettles bounds how often packs are looked for that somebody was just about to upload.
const maxSettles = 64

// settle makes durable what was put by calls that have returned, while others go on: flush is for a session's end.
func (s *session) settle(ctx context.Context) error {
	must := s.undurable(nil)
	for range maxSettles {
		if err := s.uploadOpen(ctx); err != nil {
			return err
		}
		if err := s.failed(); err != nil {
			return err
		}
		if len(s.undurable(must)) > 0 {
			continue // somebody had it between two hands
		}
		if err := s.flushIndex(); err != nil {
			s.r.warn(fmt.Sprintf("index: %v", err))
		}
		return nil
	}
	return errors.New("packs could not be made durable beside the copy")
}

// undurable are the packs that are not durable yet, of those that are given, if any are.
func (s *session) undurable(of map[*openPack]bool) map[*openPack]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[*openPack]bool{}
	for _, at := range s.overlay {
		if of == nil || of[at.pack] {
			found[at.pack] = true
		}
	}
	return found
}

// uploadOpen uploads what is not full, and waits for that and for what is on its way.
func (s *session) uploadOpen(ctx context.Context) error {
	packs, err := s.takeOpen(ctx)
	if err != nil {
		return err
	}
	for i, p := range packs {
		if err := s.upload(ctx, p); err != nil {
			s.mu.Lock()
			s.full = append(s.full, packs[i:]...) // the next who needs room uploads them
			s.mu.Unlock()
			return err
		}
	}
	s.mu.Lock()
	flying := slices.Collect(maps.Values(s.flying))
	s.mu.Unlock()
	for _, done := range flying {
		select {
		case <-done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// takeOpen takes the packs that are not full yet. It waits until nobody has one in hand: it holds what others put before.
func (s *session) takeOpen(ctx context.Context) (packs []*openPack, err error) {
	for held := range maxPens {
		select {
		case s.pens <- struct{}{}:
		case <-ctx.Done():
			for range held {
				<-s.pens
			}
			return nil, context.Cause(ctx)
		}
	}
	s.mu.Lock()
	packs = append(s.idle, s.full...)
	s.idle, s.full = nil, nil
	s.mu.Unlock()
	for range maxPens {
		<-s.pens
	}
	s.metaMu.Lock()
	if s.meta != nil {
		packs = append(packs, s.meta)
		s.meta = nil
	}
	s.metaMu.Unlock()
	return slices.DeleteFunc(packs, func(p *openPack) bool { return p.b.Frames() == 0 }), nil
}
