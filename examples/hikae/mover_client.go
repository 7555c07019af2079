package main

import (
	"context"
	"errors"
)

// openFar opens a place behind a mover.
func (t *tool) openFar(ctx context.Context, a *access) (*opened, error) {
	p, err := parseFar(a.repo)
	if err != nil {
		return nil, err
	}
	if _, _, err = t.enrolled(p); err != nil {
		return nil, err
	}
	return nil, errors.ErrUnsupported
}
