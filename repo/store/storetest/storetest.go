// Package storetest says whether a store keeps the contract of [store.Store], and has stores that fail, count and
// remember for the tests of what stands on one.
//
// # In a test
//
//	func TestStore(t *testing.T) {
//		storetest.TestStore(t, func(t testing.TB) store.Store { return open(t.TempDir()) })
//	}
//
// # On a live store
//
// [Check] returns an error, so that a program can look at a bucket or a share before it trusts it. It works below one
// prefix of its own and removes what it made.
//
// # What it cannot see
//
// That something survives a power cut needs the power cut; that several machines exclude each other needs the
// machines: run [Race] on each of them with the same names.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"testing"

	"github.com/hikae/hikae/repo/store"
)

// Options change how much is checked. Nil and zero fields are good defaults.
type Options struct {
	// Prefix is where the checks work, a valid prefix of at most three parts and 100 bytes. They add a random number.
	// Empty: "storetest-" and that number.
	Prefix string
	// Big is the size of the largest object. Zero: 5 MiB and a byte.
	Big int
	// Racers is how many goroutines create, read and list at once. Zero: 8.
	Racers int
	// Keep leaves what was made.
	Keep bool
}

// TestStore runs every check on a new store of its own.
func TestStore(t *testing.T, open func(t testing.TB) store.Store) {
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			st := open(t)
			b := newBench(st, nil)
			if err := errors.Join(c.run(t.Context(), b), b.clean(t.Context())); err != nil {
				t.Error(err)
			}
			if err := errors.Join(st.Close(), closed(context.WithoutCancel(t.Context()), st)); err != nil {
				t.Error(err)
			}
		})
	}
}

// Check runs every check on a live store and joins what is wrong. It does not close the store.
func Check(ctx context.Context, st store.Store, opts *Options) error {
	var errs []error
	for _, c := range checks {
		b := newBench(st, opts)
		if err := c.run(ctx, b); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.name, err))
		}
		if err := b.clean(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: clean up: %w", c.name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

type check struct {
	name string
	run  func(ctx context.Context, b *bench) error
}

var checks = []check{
	{"create and read", createAndRead},
	{"sizes", sizes},
	{"read at the edges", readEdges},
	{"absent", absent},
	{"exclusive", exclusive},
	{"race", race},
	{"whole or absent", wholeOrAbsent},
	{"names", names},
	{"prefixes", prefixes},
	{"list", list},
	{"remove", remove},
	{"folder and object", folderAndObject},
	{"data is copied", dataIsCopied},
	{"cancelled", cancelled},
	{"abilities", abilities},
}

// bench is one check's place in a store.
type bench struct {
	store.Store
	opts Options
}

func newBench(st store.Store, opts *Options) *bench {
	b := &bench{Store: st}
	if opts != nil {
		b.opts = *opts
	}
	if b.opts.Prefix == "" {
		b.opts.Prefix = "storetest-"
	}
	b.opts.Prefix += fmt.Sprintf("%x/", rand.Uint64())
	if b.opts.Big <= 0 {
		b.opts.Big = 5<<20 + 1
	}
	if b.opts.Racers <= 0 {
		b.opts.Racers = 8
	}
	return b
}

func (b *bench) name(s string) string { return b.opts.Prefix + s }

// clean removes everything below the bench's prefix.
func (b *bench) clean(ctx context.Context) error {
	if b.opts.Keep {
		return nil
	}
	found, err := Collect(b.List(ctx, b.opts.Prefix))
	for name := range found {
		err = errors.Join(err, b.Remove(ctx, name))
	}
	return err
}

// Collect gathers a listing: sizes by name. A name that comes twice is an error.
func Collect(seq iter.Seq2[store.Info, error]) (map[string]int64, error) {
	found := map[string]int64{}
	for info, err := range seq {
		if err != nil {
			return nil, err
		}
		if _, twice := found[info.Name]; twice {
			return nil, fmt.Errorf("%s is listed twice", info.Name)
		}
		found[info.Name] = info.Size
	}
	return found, nil
}

// want compares an error with what it should be.
func want(what string, got, wanted error) error {
	if errors.Is(got, wanted) {
		return nil
	}
	return fmt.Errorf("%s: got error %v, want %v", what, got, wanted)
}

// holds reads an object in full and compares.
func (b *bench) holds(ctx context.Context, name string, data []byte) error {
	info, err := b.Stat(ctx, name)
	if err != nil {
		return err
	}
	if info != (store.Info{Name: name, Size: int64(len(data))}) {
		return fmt.Errorf("stat %s: got %+v, want %d bytes", name, info, len(data))
	}
	got, err := store.ReadAll(ctx, b, name, info.Size)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, data) {
		return fmt.Errorf("%s: content differs", name)
	}
	return nil
}

// pattern is content that tells its seed at every place.
func pattern(seed uint64, n int) []byte {
	p := make([]byte, n)
	rng := rand.New(rand.NewPCG(seed, uint64(n)))
	for i := 0; i < n; i += 8 {
		v := rng.Uint64()
		for j := i; j < min(i+8, n); j++ {
			p[j] = byte(v)
			v >>= 8
		}
	}
	return p
}

// closed checks what a store does after Close.
func closed(ctx context.Context, st store.Store) error {
	_, readErr := st.ReadAt(ctx, "a", make([]byte, 1), 0)
	_, statErr := st.Stat(ctx, "a")
	_, listErr := Collect(st.List(ctx, ""))
	return errors.Join(
		want("create after close", st.Create(ctx, "a", nil), fs.ErrClosed),
		want("read after close", readErr, fs.ErrClosed),
		want("stat after close", statErr, fs.ErrClosed),
		want("list after close", listErr, fs.ErrClosed),
		want("remove after close", st.Remove(ctx, "a"), fs.ErrClosed),
		want("second close", st.Close(), nil),
	)
}

// readAt compares one range of an object.
func (b *bench) readAt(ctx context.Context, name string, data []byte, off int64, n int) error {
	p := make([]byte, n)
	got, err := b.ReadAt(ctx, name, p, off)
	rest := data[min(off, int64(len(data))):]
	wantN, wantErr := min(n, len(rest)), error(nil)
	if wantN < n {
		wantErr = io.EOF
	}
	if got != wantN || err != wantErr || !bytes.Equal(p[:got], rest[:wantN]) {
		return fmt.Errorf("read %d bytes at %d of %d: got %d, %v; want %d, %v and the same bytes",
			n, off, len(data), got, err, wantN, wantErr)
	}
	return nil
}
