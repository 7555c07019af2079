package hyperv

import (
	"context"
	"errors"

	"github.com/hikae/hikae"
)

func undoPlace(ctx context.Context, s *Site, e hikae.Effect, mark string) error { return errors.ErrUnsupported }

// InPlace implements [hikae.Restorer].
func (r *Restorer) InPlace(ctx context.Context, id string, opts *hikae.RestoreOptions) (hikae.Draft, error) {
	return nil, errors.ErrUnsupported
}

// Create implements [hikae.Restorer].
func (r *Restorer) Create(ctx context.Context, vm hikae.VM, opts *hikae.RestoreOptions) (hikae.Draft, error) {
	return nil, errors.ErrUnsupported
}
