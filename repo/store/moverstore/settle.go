package moverstore

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/hikae/hikae/repo/store"
)

var _ store.Settler = (*Store)(nil)

// maxSettled bounds the objects that Settle brings once more, in bytes. Those that stand in folders of their own are
// small: records of a log, manifests, slots.
const maxSettled = 16 << 20

// Settle makes the names below prefix durable that this peer may see. The other side has no call for it, but what it
// answers to a creation it means: before it says that an object exists its folder is synced. So of each folder one object
// is brought once more, the smallest. That takes some round trips, and is for after a failure.
//
// Packs are left out: before a listing of them ends, the other side has settled all that anybody left unsettled.
func (s *Store) Settle(ctx context.Context, prefix string) error {
	err := s.valid(store.ValidPrefix(prefix))
	if err == nil && !isPack(prefix) {
		err = s.settleFolders(ctx, prefix)
	}
	if _, told := errors.AsType[*fs.PathError](err); told {
		return err
	}
	return failed("settle", prefix, err)
}

func isPack(name string) bool {
	return strings.HasPrefix(name, "data/") || strings.HasPrefix(name, "meta/")
}

// folder is the part of a name that is settled with it.
func folder(name string) string { return name[:strings.LastIndexByte(name, '/')+1] }

func (s *Store) settleFolders(ctx context.Context, prefix string) error {
	smallest := map[string]store.Info{}
	for o, err := range s.List(ctx, prefix) {
		if err != nil {
			return err
		}
		dir := folder(o.Name)
		if least, known := smallest[dir]; !isPack(o.Name) && (!known || o.Size < least.Size) {
			smallest[dir] = o
		}
	}
	for _, o := range smallest {
		if err := s.bringAgain(ctx, o.Name); err != nil {
			return err
		}
	}
	return nil
}

// bringAgain creates what is there, as it is: were it removed meanwhile, nothing else would come in its place.
func (s *Store) bringAgain(ctx context.Context, name string) error {
	data, err := store.ReadAll(ctx, s, name, maxSettled)
	switch {
	case errors.Is(err, fs.ErrNotExist): // removed meanwhile, and settled by that
		return nil
	case err != nil:
		return err
	}
	if err := s.Create(ctx, name, data); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
