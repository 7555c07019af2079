package requester

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Book keeps on the machine which sets were begun under which mark, for a sweep after this process died. Methods may be called
// at once, by several processes.
type Book interface {
	// Put writes a set down durably.
	Put(ctx context.Context, mark string, set ID) error
	// Sets are those of a mark; none is no error.
	Sets(ctx context.Context, mark string) ([]ID, error)
	// Drop forgets a set. One that is not there is no error.
	Drop(ctx context.Context, mark string, set ID) error
}

// DirBook is a Book in a folder of its own: an empty file <mark>-<set> for each set. The folder is made when it is needed and goes with
// the last file. Only administrators may be able to make it, or to write into it: whoever can has sets deleted.
type DirBook struct {
	Dir string
	// Make makes the folder; that it exists is fs.ErrExist. Nil: for its owner alone.
	Make func(dir string) error
}

var _ Book = (*DirBook)(nil)

var (
	markRule = regexp.MustCompile(`^[a-z2-7]{26}$`)
	idRule   = regexp.MustCompile(`^\{[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}\}$`)
)

// maxBook bounds what is read of the folder.
const maxBook = 10_000

func (b *DirBook) file(mark string, set ID) (string, error) {
	if !markRule.MatchString(mark) || !idRule.MatchString(string(set)) {
		return "", fmt.Errorf("mark %.40q, set %.40q: not of their form: %w", mark, string(set), fs.ErrInvalid)
	}
	return filepath.Join(b.Dir, mark+"-"+strings.ToLower(strings.Trim(string(set), "{}"))), nil
}

// Put implements [Book].
func (b *DirBook) Put(_ context.Context, mark string, set ID) error {
	name, err := b.file(mark, set)
	if err != nil {
		return err
	}
	for range 3 { // another process may take the empty folder away in between
		if err = b.makeDir(); err != nil {
			return err
		}
		if err = note(name); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return err
}

func (b *DirBook) makeDir() error {
	mkdir := b.Make
	if mkdir == nil {
		mkdir = func(dir string) error { return os.Mkdir(dir, 0o700) }
	}
	if err := mkdir(b.Dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("the folder of what was begun: %w", err)
	}
	return nil
}

func note(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Sets implements [Book].
func (b *DirBook) Sets(_ context.Context, mark string) ([]ID, error) {
	if !markRule.MatchString(mark) {
		return nil, fmt.Errorf("mark %.40q: not of its form: %w", mark, fs.ErrInvalid)
	}
	d, err := os.Open(b.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(maxBook)
	if len(names) == 0 { // with io.EOF
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var sets []ID
	for _, name := range names {
		rest, ours := strings.CutPrefix(name, mark+"-")
		if id := ID("{" + strings.ToUpper(rest) + "}"); ours && idRule.MatchString(string(id)) {
			sets = append(sets, id)
		}
	}
	return sets, nil
}

// Drop implements [Book].
func (b *DirBook) Drop(_ context.Context, mark string, set ID) error {
	name, err := b.file(mark, set)
	if err != nil {
		return err
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_ = os.Remove(b.Dir) // goes when it is empty
	return nil
}
