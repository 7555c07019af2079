package repo

import (
	"context"
	"errors"
	"fmt"

	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
)

// Identify returns the id of the repository in st, as [Repository.ID] has it. It opens nothing and needs no secret, and
// proves nothing either: the header is believed. Where its three places hold headers of different repositories there is
// nothing to believe, and the error is an *ErrCorrupt: only [Open], with the secret, finds out which one is meant. A place
// that is missing or damaged is passed over. Errors: ErrNotRepository, *ErrCorrupt, *ErrUnsupported.
func Identify(ctx context.Context, st store.Store) (string, error) {
	r := &Repository{st: st, vital: vitals{st: st, warn: func(string) {}}}
	if err := r.readHeader(ctx, nil); err != nil {
		return "", err
	}
	if err := r.agree(ctx); err != nil {
		return "", err
	}
	return r.ID(), nil
}

// agree sees that no place holds another header than the one that was read.
func (r *Repository) agree(ctx context.Context) error {
	for _, place := range copiesOf(headerName) {
		v := new(vital)
		err := v.load(ctx, r.st, place, kindHeader, [16]byte{}, []object.Unwrapper{object.Clear{}})
		switch {
		case isFailure(err):
			return fmt.Errorf("%s: %w", place, err)
		case err != nil || hashBytes(v.content) == r.headerHash:
			continue
		}
		other := new(headerDocument)
		if err := decodeJSON(v.content, other); err != nil {
			continue // no header, and so nobody's
		}
		return &ErrCorrupt{Object: place, Reason: fmt.Sprintf("it is the header of repository %s, and another place has that of %s", other.ID, r.ID()),
			Err: errors.New("somebody may have put another repository's header there")}
	}
	return nil
}
