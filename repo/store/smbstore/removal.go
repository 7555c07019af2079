package smbstore

import "io/fs"

// quiet lets this process's readers of a file that is to be removed close it, and not open it again until done.
func (s *share) quiet(name string) (done func(), err error) {
	if err := s.awaitRemoval(name); err != nil {
		return nil, err
	}
	end := make(chan struct{})
	var idle []*reading
	s.mu.Lock()
	s.removing[name] = end
	for r := range s.readings {
		if r.name == name {
			idle = append(idle, r)
		}
	}
	s.mu.Unlock()
	for _, r := range idle {
		r.expire()
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.removing[name] == end {
			delete(s.removing, name)
		}
		close(end)
	}, nil
}

// awaitRemoval waits while a file is being removed, which BusyWait bounds.
func (s *share) awaitRemoval(name string) error {
	s.mu.Lock()
	end := s.removing[name]
	s.mu.Unlock()
	if end == nil {
		return nil
	}
	select {
	case <-end:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	case <-s.pool.over.Done():
		return fs.ErrClosed
	}
}

// goes reports whether a file is being removed.
func (s *state) goes(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.removing[name] != nil
}

// note remembers which readings have a handle.
func (s *state) note(r *reading, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if open {
		s.readings[r] = true
		return
	}
	delete(s.readings, r)
}
