package hyperv

import (
	"context"
	"fmt"
	"sync"
)

// siteStore is the files of a machine, opened when they are first needed.
type siteStore struct {
	mu     sync.Mutex
	store  Store
	closed bool
}

// Store is the files of a host, of its cluster's volumes and of the shares that its VMs lie on, by the names that the host uses. It
// is shared, and closed with the site.
func (s *Site) Store(ctx context.Context, h *Host) (Store, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, errClosed
	}
	st := s.stores[h.info.Name]
	if st == nil {
		st = &siteStore{}
		s.stores[h.info.Name] = st
	}
	s.mu.Unlock()
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.closed {
		return nil, errClosed
	}
	if st.store != nil {
		return st.store, nil
	}
	open := s.opts.Store
	if open == nil {
		open = s.openStore
	}
	opened, err := open(ctx, h.info.Name)
	if err != nil {
		return nil, fmt.Errorf("files of %s: %w", h.info.Name, err)
	}
	st.store = opened
	return opened, nil
}

func (st *siteStore) close() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.closed = true
	if st.store == nil {
		return nil
	}
	return st.store.Close()
}
