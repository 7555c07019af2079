package moverstore

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/repo/store"
)

// maxListed bounds the objects of one listing: 100 TB in packs of 16 MiB are 7 million.
const maxListed = 1 << 26

// List yields the objects below prefix that the peer may see, some thousands for each call.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		l := listing{prefix: prefix}
		err := s.valid(store.ValidPrefix(prefix))
		if err == nil {
			err = s.again(ctx, func(c Caller, _ bool) error { return l.begin(ctx, c) })
		}
		for err == nil {
			for _, n := range l.part.Names {
				if !yield(store.Info{Name: n.Name, Size: n.Size}, nil) {
					return
				}
			}
			if !l.part.More {
				return
			}
			if err = s.valid(true); err == nil {
				err = l.next(ctx)
			}
		}
		yield(store.Info{}, failed("list", prefix, err))
	}
}

// listing is a listing under way. It belongs to one session, and cannot go on in another.
type listing struct {
	prefix string
	c      Caller
	part   *wire.StoreNames
	listed int
}

func (l *listing) begin(ctx context.Context, c Caller) error {
	l.c = c
	return l.ask(ctx, 0)
}

func (l *listing) next(ctx context.Context) error { return l.ask(ctx, l.part.List) }

func (l *listing) ask(ctx context.Context, list wire.Ref) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.part, err = call[*wire.StoreNames](ctx, l.c, &wire.StoreList{Prefix: l.prefix, List: list})
	if err != nil {
		return err
	}
	for _, n := range l.part.Names {
		if err := checkListed(n.Name, l.prefix); err != nil {
			return err
		}
	}
	l.listed += len(l.part.Names)
	if l.part.More && (len(l.part.Names) == 0 || l.part.List == 0 || l.listed > maxListed) {
		return fmt.Errorf("a listing that goes on without an end, after %d objects", l.listed)
	}
	return nil
}

// checkListed refuses a name that was not asked for: names become paths, keys and numbers.
func checkListed(name, prefix string) error {
	if !store.ValidName(name) || !strings.HasPrefix(name, prefix) {
		return fmt.Errorf("%q was listed, which is no object there", name)
	}
	return nil
}
