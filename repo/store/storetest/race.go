package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hikae/hikae/repo/store"
)

// Race tries to create each name with content that tells who made it, and returns the names that it won. Run it at
// the same time from as many stores, processes or machines as you like, with different writers and the same names:
// every name has exactly one winner, and [Winner] reads whose it is.
func Race(ctx context.Context, st store.Store, writer string, names []string) (won []string, err error) {
	for _, name := range names {
		err := st.Create(ctx, name, raceContent(writer, name))
		switch {
		case err == nil:
			won = append(won, name)
		case !errors.Is(err, fs.ErrExist):
			return won, err
		}
	}
	return won, nil
}

// Winner tells who made an object in a [Race], and whether it is whole.
func Winner(ctx context.Context, st store.Store, name string) (string, error) {
	data, err := store.ReadAll(ctx, st, name, 1<<20)
	if err != nil {
		return "", err
	}
	writer, _, _ := strings.Cut(string(data), "\n")
	if !bytes.Equal(data, raceContent(writer, name)) {
		return "", fmt.Errorf("%s is not what %q wrote", name, writer)
	}
	return writer, nil
}

// raceContent is larger than a page, so that a torn one shows.
func raceContent(writer, name string) []byte {
	line := writer + "\n" + name + "\n"
	return []byte(strings.Repeat(line, 9000/len(line)+1))
}

// race lets goroutines create the same names at once.
func race(ctx context.Context, b *bench) error {
	var names []string
	for i := range 25 {
		names = append(names, b.name(fmt.Sprintf("race/%d/%d", i%3, i)))
	}
	won := make([][]string, b.opts.Racers)
	errs := make([]error, b.opts.Racers)
	var wg sync.WaitGroup
	for w := range b.opts.Racers {
		wg.Go(func() { won[w], errs[w] = Race(ctx, b, fmt.Sprint("writer ", w), names) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	owner := map[string]string{}
	for w, names := range won {
		for _, name := range names {
			if other, twice := owner[name]; twice {
				return fmt.Errorf("%s was won by %s and by writer %d", name, other, w)
			}
			owner[name] = fmt.Sprint("writer ", w)
		}
	}
	for _, name := range names {
		got, err := Winner(ctx, b, name)
		if err == nil && got != owner[name] {
			err = fmt.Errorf("%s was won by %q and holds what %q wrote", name, owner[name], got)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// wholeOrAbsent lets readers and listings look all the time while objects come and go.
func wholeOrAbsent(ctx context.Context, b *bench) error {
	const rounds = 25
	data := pattern(8, 300_000)
	var done atomic.Bool
	var wg sync.WaitGroup
	errs := make([]error, 3)
	wg.Go(func() {
		defer done.Store(true)
		for i := range rounds {
			name := b.name(fmt.Sprintf("whole/%d", i%3))
			if errs[0] = errors.Join(b.Create(ctx, name, data), b.Remove(ctx, name)); errs[0] != nil {
				return
			}
		}
	})
	wg.Go(func() {
		for i := 0; !done.Load() && errs[1] == nil; i++ {
			errs[1] = b.wholeOrAbsent(ctx, b.name(fmt.Sprintf("whole/%d", i%3)), data)
		}
	})
	wg.Go(func() {
		for !done.Load() && errs[2] == nil {
			errs[2] = b.listsWhole(ctx, int64(len(data)))
		}
	})
	wg.Wait()
	return errors.Join(errs...)
}

func (b *bench) wholeOrAbsent(ctx context.Context, name string, data []byte) error {
	p := make([]byte, len(data)+1)
	n, err := b.ReadAt(ctx, name, p, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case n != len(data) || !bytes.Equal(p[:n], data):
		return fmt.Errorf("%s is visible and not whole: %d bytes, %v", name, n, err)
	}
	return nil
}

func (b *bench) listsWhole(ctx context.Context, size int64) error {
	found, err := Collect(b.List(ctx, b.opts.Prefix))
	for name, got := range found {
		if got != size {
			return fmt.Errorf("%s is listed with %d of %d bytes", name, got, size)
		}
	}
	return err
}
