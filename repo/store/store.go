// Package store is where a repository keeps its objects: a flat, small interface that a directory, an object store or
// a machine far away can implement.
//
// Objects are written once, whole, and never changed. A store knows nothing of what is in them.
//
// # Names
//
// A name is one to eight parts of [a-z0-9.-], separated by slashes, at most 200 bytes in all; [ValidName] says so. No
// part is empty, begins or ends with a dot, or is a device name on Windows (nul, com1.x), so that a store can be copied
// to any file system. No name is the folder of another: where a/b is an object, a is none; a store may refuse it with
// [ErrForeign]. Stores keep other files out of List (temporary files, foreign files).
//
// # Implementing a store
//
// Five methods do the work; the suite in storetest says whether they do it right. Everything else is an optional
// ability, found by [As] behind any number of wrappers.
package store

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"strings"
)

// Store keeps objects. All methods are safe for concurrent use by several goroutines and, where the store's abilities
// say so, by several processes and machines.
//
// Errors: fs.ErrNotExist for an object that is not there, fs.ErrExist from Create for one that is, fs.ErrInvalid for
// a bad name, prefix or offset, fs.ErrClosed after Close, [ErrForeign] where something else sits at the name; anything
// else is a failure that says nothing about the object. A store never answers "not there" when it could not look.
type Store interface {
	// Create stores an object that does not exist yet. Of several creators of one name exactly one succeeds. On nil
	// the object and its name are durable, and readers see it whole or not at all. After fs.ErrExist the object that
	// was there is untouched. After any other error the object may or may not be there, whole; the caller settles
	// that by reading. The store keeps no reference to data.
	Create(ctx context.Context, name string, data []byte) error

	// ReadAt fills p from byte off of an object. At the end it returns n < len(p) and io.EOF; a p that ends exactly
	// where the object ends is full, with a nil error.
	ReadAt(ctx context.Context, name string, p []byte, off int64) (n int, err error)

	// Stat returns an object's size.
	Stat(ctx context.Context, name string) (Info, error)

	// List yields the objects whose names start with prefix (whole parts: "pack/" or "" for all, see [ValidPrefix]),
	// in no order and each once. An object that is there during the whole listing is yielded. An error ends the
	// sequence and voids it: what was yielded is then not the whole. The loop may call the store.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]

	// Remove removes an object. It is durable on nil. Removing what is not there is fs.ErrNotExist.
	Remove(ctx context.Context, name string) error

	// Close releases the store; objects stay. Closing again is no error.
	Close() error
}

var (
	// ErrForeign says that what sits at a name is no object: a folder, a link, a device, another program's file. It
	// is neither there nor absent; a person has to look.
	ErrForeign = errors.New("not an object of this store")
	// ErrNotDurable says that what was written could not be made durable. Trying again with the same bytes may seem
	// to work and prove nothing, so nothing is tried again: the data goes into a new file or the store is given up.
	ErrNotDurable = errors.New("could not be made durable")
)

// Info is what a store knows of an object.
type Info struct {
	Name string
	Size int64
}

// Abilities say what a store can promise. They are probed, not believed: see Prober.
type Abilities struct {
	ExclusiveCreate bool // Create never overwrites, whoever else creates the same name
	DurableNames    bool // after Create the name survives a power cut
	FreshReads      bool // an object is visible by name to everyone as soon as Create has returned
}

// Shared reports whether several writers may use the store at once.
func (a Abilities) Shared() bool { return a.ExclusiveCreate && a.DurableNames && a.FreshReads }

// Prober is an optional ability: the store finds out what it can do on the system that it is on. It leaves nothing
// behind. A store without it is taken to be unable.
type Prober interface {
	Probe(ctx context.Context) (Abilities, error)
}

// Settler is an optional ability: Settle makes the names of all objects under prefix durable, whoever created them.
// A writer that died between making a name visible and making it durable leaves names that a power cut takes away;
// before anybody relies on such an object it is settled. A store without the ability needs no settling.
type Settler interface {
	Settle(ctx context.Context, prefix string) error
}

// Spacer is an optional ability: how much room is left for this user, in bytes.
type Spacer interface {
	Free(ctx context.Context) (int64, error)
}

// Reserver is an optional ability: the store keeps some room that nothing but [Reserver.Release] makes free, so that a place that was
// filled to the last byte can be cleared: to clear it takes room, too.
type Reserver interface {
	// Reserve keeps so many bytes, or as many as there are, and says how many. What is kept already counts.
	Reserve(ctx context.Context, bytes int64) (kept int64, err error)
	// Release gives all of it back, and says how much that was.
	Release(ctx context.Context) (freed int64, err error)
}

// Sweeper is an optional ability: Sweep removes what dead writers left unfinished (temporary files, started uploads),
// never an object. It removes only what provably nobody works on any more. With alone the caller vouches that no other
// process or machine has the store open for writing, and everything unfinished but this store's own goes.
type Sweeper interface {
	Sweep(ctx context.Context, alone bool) (Swept, error)
}

// Swept is what a sweep did.
type Swept struct {
	Removed int   // unfinished files that are gone
	Bytes   int64 // their size
	Kept    int   // writers whose files stay, because they may be alive
}

// Wrapper is a store around a store. [As] follows Unwrap, so that a wrapper loses no ability of what it wraps.
type Wrapper interface{ Unwrap() Store }

// As returns the first store in st's chain of wrappers that has the ability T.
func As[T any](st Store) (T, bool) {
	for st != nil {
		if t, ok := st.(T); ok {
			return t, true
		}
		w, ok := st.(Wrapper)
		if !ok {
			break
		}
		st = w.Unwrap()
	}
	var zero T
	return zero, false
}

// Limits of a name.
const (
	MaxName  = 200 // bytes
	MaxParts = 8
)

// ValidName reports whether name may name an object.
func ValidName(name string) bool {
	if len(name) == 0 || len(name) > MaxName {
		return false
	}
	parts := 0
	for part := range strings.SplitSeq(name, "/") {
		if parts++; parts > MaxParts || !validPart(part) {
			return false
		}
	}
	return true
}

// ValidPrefix reports whether List and Settle take prefix: "", or a valid name and a slash.
func ValidPrefix(prefix string) bool {
	name, whole := strings.CutSuffix(prefix, "/")
	return prefix == "" || whole && ValidName(name)
}

func validPart(s string) bool {
	return s != "" && s[0] != '.' && s[len(s)-1] != '.' && alphabet(s) && !device(s)
}

func alphabet(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

// device reports whether Windows takes the part for a device, with whatever ending.
func device(s string) bool {
	stem, _, _ := strings.Cut(s, ".")
	switch {
	case stem == "con", stem == "prn", stem == "aux", stem == "nul":
		return true
	case len(stem) != 4, stem[3] < '0', stem[3] > '9':
		return false
	}
	return stem[:3] == "com" || stem[:3] == "lpt"
}

// ReadAll reads a whole object of at most max bytes. A larger one is an error, not a larger allocation.
func ReadAll(ctx context.Context, st Store, name string, max int64) ([]byte, error) {
	return ReadInto(ctx, st, name, nil, max)
}

// ReadInto is ReadAll into memory of the caller's, as far as that is large enough.
func ReadInto(ctx context.Context, st Store, name string, buf []byte, max int64) ([]byte, error) {
	info, err := st.Stat(ctx, name)
	if err != nil {
		return nil, err
	}
	if info.Size < 0 || info.Size > max {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errTooLarge}
	}
	if buf == nil || int64(cap(buf)) < info.Size {
		buf = make([]byte, info.Size)
	}
	p := buf[:info.Size]
	n, err := st.ReadAt(ctx, name, p, 0)
	switch {
	case n == len(p):
		return p, nil
	case err == nil || err == io.EOF: // shorter than Stat said
		err = &fs.PathError{Op: "read", Path: name, Err: io.ErrUnexpectedEOF}
	}
	return nil, err
}

type constError string

func (e constError) Error() string { return string(e) }

const errTooLarge = constError("object is larger than its kind may be")
