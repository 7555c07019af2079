package storetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/hikae/hikae/repo/store"
)

func createAndRead(ctx context.Context, b *bench) error {
	data := pattern(1, 1000)
	for _, name := range []string{b.name("one"), b.name("pack/7f/3a-b.c"), b.name("pack/7f/3b")} {
		if err := b.Create(ctx, name, data); err != nil {
			return err
		}
		if err := b.holds(ctx, name, data); err != nil {
			return err
		}
	}
	return nil
}

func sizes(ctx context.Context, b *bench) error {
	for i, n := range []int{0, 1, 4095, 4096, 4097, 1 << 20, b.opts.Big} {
		name, data := b.name(fmt.Sprintf("size/%d", n)), pattern(uint64(i), n)
		if err := b.Create(ctx, name, data); err != nil {
			return err
		}
		if err := b.holds(ctx, name, data); err != nil {
			return err
		}
	}
	return nil
}

func readEdges(ctx context.Context, b *bench) error {
	name, data := b.name("edges"), pattern(2, 10_000)
	if err := b.Create(ctx, name, data); err != nil {
		return err
	}
	var errs []error
	for _, off := range []int64{0, 1, 4096, 9_999, 10_000, 10_001, 1 << 40} {
		for _, n := range []int{1, 2, 5_904, 9_999, 10_000, 10_001, 20_000} {
			errs = append(errs, b.readAt(ctx, name, data, off, n))
		}
	}
	if n, err := b.ReadAt(ctx, name, nil, 5); n != 0 || err != nil {
		errs = append(errs, fmt.Errorf("read nothing: got %d, %v", n, err))
	}
	_, err := b.ReadAt(ctx, name, make([]byte, 1), -1)
	errs = append(errs, want("read at -1", err, fs.ErrInvalid))
	return errors.Join(errs...)
}

func absent(ctx context.Context, b *bench) error {
	if err := b.Create(ctx, b.name("there/one"), []byte("x")); err != nil {
		return err
	}
	var errs []error
	for _, s := range []string{"one", "there/two", "not/there", "there/one/below"} {
		name := b.name(s)
		_, statErr := b.Stat(ctx, name)
		_, readErr := b.ReadAt(ctx, name, make([]byte, 1), 0)
		_, allErr := store.ReadAll(ctx, b, name, 10)
		errs = append(errs,
			want("stat absent "+s, statErr, fs.ErrNotExist),
			want("read absent "+s, readErr, fs.ErrNotExist),
			want("read all of absent "+s, allErr, fs.ErrNotExist),
			want("remove absent "+s, b.Remove(ctx, name), fs.ErrNotExist))
	}
	return errors.Join(errs...)
}

func exclusive(ctx context.Context, b *bench) error {
	name, first := b.name("log/1"), pattern(3, 500)
	if err := b.Create(ctx, name, first); err != nil {
		return err
	}
	for _, second := range [][]byte{pattern(4, 500), pattern(4, 5), nil, first} {
		if err := want("create again", b.Create(ctx, name, second), fs.ErrExist); err != nil {
			return err
		}
		if err := b.holds(ctx, name, first); err != nil {
			return fmt.Errorf("after a refused create: %w", err)
		}
	}
	return nil
}

// names checks that a bad name is refused by every method, and changes nothing.
func names(ctx context.Context, b *bench) error {
	before, err := Collect(b.List(ctx, b.opts.Prefix))
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range badNames {
		_, statErr := b.Stat(ctx, name)
		_, readErr := b.ReadAt(ctx, name, make([]byte, 1), 0)
		errs = append(errs,
			want(fmt.Sprintf("create %q", name), b.Create(ctx, name, []byte("x")), fs.ErrInvalid),
			want(fmt.Sprintf("stat %q", name), statErr, fs.ErrInvalid),
			want(fmt.Sprintf("read %q", name), readErr, fs.ErrInvalid),
			want(fmt.Sprintf("remove %q", name), b.Remove(ctx, name), fs.ErrInvalid))
	}
	for _, prefix := range badPrefixes {
		_, err := Collect(b.List(ctx, prefix))
		errs = append(errs, want(fmt.Sprintf("list %q", prefix), err, fs.ErrInvalid))
	}
	after, err := Collect(b.List(ctx, b.opts.Prefix))
	if err == nil && !maps.Equal(before, after) {
		err = errors.New("refused calls left something")
	}
	long := b.name(strings.Repeat("n", store.MaxName-len(b.opts.Prefix)))
	deep := b.name(strings.Repeat("d/", store.MaxParts-1-strings.Count(b.opts.Prefix, "/")) + "d")
	return errors.Join(append(errs, err, b.Create(ctx, long, nil), b.Create(ctx, deep, nil))...)
}

var badNames = []string{
	"", "/", "a/", "/a", "a//b", ".", "..", "a/..", "../a", "a/../../b", "...", "a/./b", ".tmp", ".tmp/1", "a/.b", "a.",
	"a./b", "A", "a/B", "a_b", "a b", "a\\b", "a:b", "c:", "a\x00", "a\nb", "ä", "a*", "nul", "con.txt", "a/aux", "com1",
	"lpt9.x", strings.Repeat("a", store.MaxName+1), "1/2/3/4/5/6/7/8/9",
}

var badPrefixes = []string{"a", "/", "a//", "../", "a/../", ".tmp/", "A/", "a/b", " "}

func prefixes(ctx context.Context, b *bench) error {
	all := []string{"a", "ab", "ab.c", "p/a", "p/a.b", "p/ab/x", "p/ab/y/z", "pa/x", "p-/x"}
	for _, s := range all {
		if err := b.Create(ctx, b.name(s), []byte(s)); err != nil {
			return err
		}
	}
	var errs []error
	for _, prefix := range []string{"", "p/", "p/ab/", "p/ab/y/", "pa/", "p-/", "none/", "a/", "p/a/"} {
		wanted := map[string]int64{}
		for _, s := range all {
			if strings.HasPrefix(s, prefix) {
				wanted[b.name(s)] = int64(len(s))
			}
		}
		got, err := Collect(b.List(ctx, b.name(prefix)))
		if err == nil && !maps.Equal(got, wanted) {
			err = fmt.Errorf("list %q: got %v, want %v", prefix, got, wanted)
		}
		errs = append(errs, err)
	}
	whole, err := Collect(b.List(ctx, ""))
	for _, s := range all {
		if _, ok := whole[b.name(s)]; err == nil && !ok {
			err = fmt.Errorf("list of everything lacks %s", s)
		}
	}
	return errors.Join(append(errs, err)...)
}

// list checks that a loop may stop early, may call the store, and sees what is there from its begin to its end.
func list(ctx context.Context, b *bench) error {
	wanted := map[string]int64{}
	for i := range 100 {
		name := b.name(fmt.Sprintf("%d/%d", i%7, i))
		wanted[name] = int64(i)
		if err := b.Create(ctx, name, make([]byte, i)); err != nil {
			return err
		}
	}
	for range b.List(ctx, b.opts.Prefix) {
		break
	}
	seen := map[string]int64{}
	for info, err := range b.List(ctx, b.opts.Prefix) {
		if err != nil {
			return err
		}
		seen[info.Name] = info.Size
		if err := b.Remove(ctx, info.Name); err != nil {
			return fmt.Errorf("remove inside a listing: %w", err)
		}
	}
	if !maps.Equal(seen, wanted) {
		return fmt.Errorf("a listing that removes what it gets saw %d of %d", len(seen), len(wanted))
	}
	left, err := Collect(b.List(ctx, b.opts.Prefix))
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%d objects are left: %v", len(left), slices.Sorted(maps.Keys(left))[0])
	}
	return err
}

func remove(ctx context.Context, b *bench) error {
	name := b.name("dir/gone")
	for round := range uint64(3) {
		data := pattern(round, 5000)
		if err := b.Create(ctx, name, data); err != nil {
			return err
		}
		if err := b.holds(ctx, name, data); err != nil { // the object is open now, where a store keeps it so
			return err
		}
		if err := b.Remove(ctx, name); err != nil {
			return err
		}
		_, statErr := b.Stat(ctx, name)
		_, readErr := b.ReadAt(ctx, name, make([]byte, 1), 0)
		err := errors.Join(
			want("stat after remove", statErr, fs.ErrNotExist),
			want("read after remove", readErr, fs.ErrNotExist),
			want("remove after remove", b.Remove(ctx, name), fs.ErrNotExist))
		if err != nil {
			return err
		}
	}
	return nil
}

// folderAndObject checks that a name which is a folder of another is refused, or stored like any other, and that the
// other one stays as it is.
func folderAndObject(ctx context.Context, b *bench) error {
	file, below := b.name("x/file"), b.name("x/file/below")
	folder, inside := b.name("y/folder"), b.name("y/folder/inside")
	data := pattern(5, 100)
	if err := errors.Join(b.Create(ctx, file, data), b.Create(ctx, inside, data)); err != nil {
		return err
	}
	for _, name := range []string{below, folder} {
		err := b.Create(ctx, name, data)
		switch {
		case errors.Is(err, store.ErrForeign):
		case err == nil:
			err = b.holds(ctx, name, data)
			fallthrough
		default:
			if err != nil {
				return fmt.Errorf("folder and object: %w", err)
			}
		}
	}
	if err := b.Remove(ctx, b.name("y")); err == nil {
		return errors.New("a folder was removed")
	}
	return errors.Join(b.holds(ctx, file, data), b.holds(ctx, inside, data))
}

// dataIsCopied checks that a store holds on to neither the bytes that it was given nor those that it gave.
func dataIsCopied(ctx context.Context, b *bench) error {
	name, data := b.name("copied"), pattern(6, 10_000)
	given := slices.Clone(data)
	if err := b.Create(ctx, name, given); err != nil {
		return err
	}
	clear(given)
	got := make([]byte, len(data))
	if _, err := b.ReadAt(ctx, name, got, 0); err != nil {
		return err
	}
	clear(got)
	return b.holds(ctx, name, data)
}

func cancelled(ctx context.Context, b *bench) error {
	name, data := b.name("here"), pattern(7, 100)
	if err := b.Create(ctx, name, data); err != nil {
		return err
	}
	dead, cancel := context.WithCancel(ctx)
	cancel()
	_, statErr := b.Stat(dead, name)
	_, readErr := b.ReadAt(dead, name, make([]byte, 1), 0)
	_, listErr := Collect(b.List(dead, b.opts.Prefix))
	err := errors.Join(
		want("cancelled create", b.Create(dead, b.name("not-here"), data), context.Canceled),
		want("cancelled stat", statErr, context.Canceled),
		want("cancelled read", readErr, context.Canceled),
		want("cancelled list", listErr, context.Canceled),
		want("cancelled remove", b.Remove(dead, name), context.Canceled))
	if err != nil {
		return err
	}
	_, err = b.Stat(ctx, b.name("not-here"))
	return errors.Join(want("stat of what was cancelled", err, fs.ErrNotExist), b.holds(ctx, name, data))
}

// abilities checks what a store says that it can do beyond the contract.
func abilities(ctx context.Context, b *bench) error {
	var errs []error
	name := b.name("settled/one")
	if err := b.Create(ctx, name, []byte("x")); err != nil {
		return err
	}
	if p, ok := store.As[store.Prober](b.Store); ok {
		before, err1 := Collect(b.List(ctx, ""))
		_, err2 := p.Probe(ctx)
		after, err3 := Collect(b.List(ctx, ""))
		errs = append(errs, err1, err2, err3)
		if !maps.Equal(before, after) {
			errs = append(errs, errors.New("a probe left something or took something away"))
		}
	}
	if s, ok := store.As[store.Settler](b.Store); ok {
		errs = append(errs, s.Settle(ctx, b.opts.Prefix), s.Settle(ctx, b.name("none/")),
			want("settle of a bad prefix", s.Settle(ctx, "../"), fs.ErrInvalid))
	}
	if s, ok := store.As[store.Spacer](b.Store); ok {
		n, err := s.Free(ctx)
		if err == nil && n < 0 {
			err = fmt.Errorf("free: %d bytes", n)
		}
		if !errors.Is(err, errors.ErrUnsupported) {
			errs = append(errs, err)
		}
	}
	if s, ok := store.As[store.Sweeper](b.Store); ok {
		_, err := s.Sweep(ctx, false)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, b.holds(ctx, name, []byte("x")))...)
}
