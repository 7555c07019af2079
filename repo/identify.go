package repo

import (
	"context"

	"github.com/hikae/hikae/repo/store"
)

// Identify returns the id of the repository in st, as [Repository.ID] has it. It opens nothing and needs no secret, and
// proves nothing either: the header is believed. Errors: ErrNotRepository, *ErrCorrupt, *ErrUnsupported.
func Identify(ctx context.Context, st store.Store) (string, error) {
	r := &Repository{st: st, vital: vitals{st: st, warn: func(string) {}}}
	if err := r.readHeader(ctx, nil); err != nil {
		return "", err
	}
	return r.ID(), nil
}
