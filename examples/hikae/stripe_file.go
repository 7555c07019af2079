package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/stripe"
)

// stripePrefix is that of a file which lists the places of a striped set.
const stripePrefix = "stripe:"

func isStripe(place string) bool { return strings.HasPrefix(place, stripePrefix) }

// stripeFile is what such a file says.
type stripeFile struct {
	path     string
	names    []string
	places   []string
	degraded bool
}

const (
	maxStripeFile = 64 << 10
	stripeHint    = "A line for each member: NAME PLACE. See: hikae repo stripe --help."
)

// readStripe reads a file of lines "NAME PLACE". Lines that begin with # say nothing; the line "degraded" allows writing
// while members are away. A folder that is not absolute is meant from where the file is.
func readStripe(path string) (*stripeFile, error) {
	path = strings.TrimPrefix(path, stripePrefix)
	raw, err := readSmall(path, maxStripeFile)
	if err != nil {
		return nil, err
	}
	f := &stripeFile{path: path}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for n := 1; lines.Scan(); n++ {
		if err := f.line(strings.TrimSpace(lines.Text())); err != nil {
			return nil, &outcome.Error{Kind: outcome.KindUsage, Object: path, Text: fmt.Sprintf("line %d", n), Err: err, Hint: stripeHint}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(f.names) < 2 {
		return nil, &outcome.Error{Kind: outcome.KindUsage, Object: path, Text: "it names no members", Hint: stripeHint}
	}
	return f, nil
}

func (f *stripeFile) line(line string) error {
	switch {
	case line == "" || line[0] == '#':
		return nil
	case line == "degraded":
		f.degraded = true
		return nil
	}
	name, place, ok := strings.Cut(line, " ")
	place = strings.TrimSpace(place)
	switch {
	case !ok || place == "":
		return errors.New("a name, and a place after it, were expected")
	case f.find(name) >= 0:
		return fmt.Errorf("%q is there twice", name)
	case isStripe(place), strings.HasPrefix(place, moverScheme):
		return fmt.Errorf("%q cannot be a member: folders, shares and buckets can", place)
	}
	if !isURL(place) && !filepath.IsAbs(place) {
		place = filepath.Join(filepath.Dir(f.path), place)
	}
	f.names, f.places = append(f.names, name), append(f.places, place)
	return nil
}

func (f *stripeFile) find(name string) int {
	for i, n := range f.names {
		if n == name {
			return i
		}
	}
	return -1
}

func (f *stripeFile) options() *stripe.Options { return &stripe.Options{Degraded: f.degraded} }

// placePatience is how long one place of a set may take to be opened before it counts as away. All are opened at once, so that a set of
// which several are gone is waited for no longer than one of them; a single store waits for a minute, because nobody else has what it has.
const placePatience = 10 * time.Second

// errMute says that a place did not answer in time.
var errMute = errors.New("it does not answer")

// stores opens the places at once, but the one at without. What cannot be opened in time is nil, with a reason.
func (f *stripeFile) stores(ctx context.Context, without int, open func(context.Context, string) (store.Store, error)) ([]store.Store, []error) {
	list, errs := make([]store.Store, len(f.places)), make([]error, len(f.places))
	var wg sync.WaitGroup
	for i, place := range f.places {
		if i == without {
			continue
		}
		wg.Go(func() {
			st, err := openWithin(ctx, placePatience, place, open)
			if err != nil {
				errs[i] = fmt.Errorf("member %s: %w", f.names[i], err)
				return
			}
			list[i] = st
		})
	}
	wg.Wait()
	return list, errs
}

// openWithin opens a place, and waits no longer for one that does not heed its context, as a folder of a server that is gone. What it opens
// afterwards is closed.
func openWithin(ctx context.Context, patience time.Duration, place string, open func(context.Context, string) (store.Store, error)) (store.Store, error) {
	type opened struct {
		st  store.Store
		err error
	}
	within, cancel := context.WithTimeoutCause(ctx, patience, errMute)
	defer cancel()
	got := make(chan opened, 1)
	go func() {
		st, err := open(within, place)
		got <- opened{st, err}
	}()
	select {
	case o := <-got:
		return o.st, o.err
	case <-within.Done():
	}
	go func() {
		if o := <-got; o.err == nil {
			_ = o.st.Close()
		}
	}()
	return nil, context.Cause(within)
}

func closeStores(list []store.Store) (err error) {
	for _, st := range list {
		if st != nil {
			err = errors.Join(err, st.Close())
		}
	}
	return err
}

// openStripe opens a set for a repository.
func (t *tool) openStripe(ctx context.Context, place string) (store.Store, error) {
	f, err := readStripe(place)
	if err != nil {
		return nil, err
	}
	list, errs := f.stores(ctx, -1, t.openStore)
	st, err := stripe.Open(ctx, list, f.options())
	if err != nil {
		err = errors.Join(err, closeStores(list))
		return nil, &outcome.Error{Place: place, Text: stripeWhy(errs), Err: err}
	}
	t.warnSeats(st, errs)
	return st, nil
}

func stripeWhy(errs []error) string {
	var why []string
	for _, err := range errs {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			why = append(why, outcome.Clean(err.Error()))
		}
	}
	return strings.Join(why, "; ")
}

// warnSeats says which members are away or behind.
func (t *tool) warnSeats(st *stripe.Store, errs []error) {
	warn := func(s string) {
		fmt.Fprintf(t.stderr, "%s %s\n", t.printer(t.stderr).Yellow("warning:"), outcome.Clean(s))
	}
	seats, odd := st.Seats()
	for _, s := range seats {
		switch {
		case !s.Here && s.Arbiter:
			warn(fmt.Sprintf("member %s of the striped set, its arbiter, is not there: nothing can be written", s.Label))
		case !s.Here:
			warn(fmt.Sprintf("member %s of the striped set is not there", s.Label))
		case s.Standing != stripe.Current:
			warn(fmt.Sprintf("member %s of the striped set is %s", s.Label, s.Standing))
		}
	}
	for _, err := range append(odd, errs...) {
		if err != nil {
			warn(err.Error())
		}
	}
}
