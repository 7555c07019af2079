package list

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

// ErrMalformed says that bytes are not a list of files, or an entry cannot be in one.
var ErrMalformed = errors.New("not a list of files")

// Bounds of what an entry or a volume says, in bytes.
const (
	MaxPath   = 64 << 10
	MaxTarget = 64 << 10
	MaxText   = 1 << 10 // each of the others
)

// Volume is one file system of a guest.
type Volume struct {
	Mount  string // where the guest has it: "/", "/var", "C:"
	Device string // "/dev/sda1"; empty: not known
	Kind   string // "ext4", "NTFS"
	ID     string // UUID or serial number; empty: not known
	Label  string
	System System
}

// System says how modes and owners are to be read.
type System string

// The systems.
const (
	POSIX   System = "posix"   // Mode is permission bits (07777), Owner and Group decimal numbers
	Windows System = "windows" // Mode is file attributes, Owner a SID
)

// Type is what a name stands for.
type Type uint8

// The types.
const (
	File Type = iota
	Dir
	Link    // a symbolic link, or another name surrogate
	Special // a device, a pipe, a socket
	lastType
)

func (t Type) String() string {
	return [...]string{"file", "dir", "link", "special"}[min(t, Special)]
}

// Entry is one name of a volume.
type Entry struct {
	// Path has slashes, none in front; the volume's root is "". Its bytes are the guest's: any but NUL.
	Path string
	Type Type
	Size int64 // bytes; of files only
	// ModUnix and CreatedUnix are in seconds since 1970; whole ones, because fractions would be a third of an index.
	// CreatedUnix is 0 where it is not known.
	ModUnix, CreatedUnix int64
	Mode                 uint32
	Owner, Group         string // empty: not known
	Target               string // of a Link
	Note                 string // why there is nothing below a folder, although there may be
}

// NoteMount is the note of a folder that another file system is mounted on: that is a volume of its own, or not one of the
// guest's disks.
const NoteMount = "another file system is mounted here"

// Name is the last part of the path.
func (e *Entry) Name() string { return e.Path[strings.LastIndexByte(e.Path, '/')+1:] }

// Compare is the order of paths within a volume: that of a walk, so that what is below a folder follows it at once. It is
// the order of their bytes, if a slash were the smallest of all.
func Compare(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		switch x, y := a[i], b[i]; {
		case x == y:
		case x == '/':
			return -1
		case y == '/':
			return 1
		default:
			return cmp.Compare(x, y)
		}
	}
	return cmp.Compare(len(a), len(b))
}

// Within reports whether a path is that folder or below it. The folder "" is the volume's root.
func Within(p, folder string) bool {
	rest, ok := strings.CutPrefix(p, folder)
	return ok && (folder == "" || rest == "" || rest[0] == '/')
}

// Check says what is wrong with an entry: it wraps [ErrMalformed].
func (e *Entry) Check() error {
	switch {
	case !validPath(e.Path):
		return fmt.Errorf("%w: %.100q is not a path", ErrMalformed, e.Path)
	case e.Type >= lastType:
		return fmt.Errorf("%w: %.100q is of type %d", ErrMalformed, e.Path, e.Type)
	case e.Size < 0:
		return fmt.Errorf("%w: %.100q has %d bytes", ErrMalformed, e.Path, e.Size)
	case len(e.Owner) > MaxText || len(e.Group) > MaxText || len(e.Target) > MaxTarget || len(e.Note) > MaxText:
		return fmt.Errorf("%w: %.100q has texts that are too long", ErrMalformed, e.Path)
	}
	return nil
}

// Check says what is wrong with a volume: it wraps [ErrMalformed].
func (v *Volume) Check() error {
	for _, s := range v.fields() {
		if len(*s) > MaxText {
			return fmt.Errorf("%w: a volume with a text of %d bytes", ErrMalformed, len(*s))
		}
	}
	if v.System != POSIX && v.System != Windows {
		return fmt.Errorf("%w: a volume of the system %.20q", ErrMalformed, v.System)
	}
	return nil
}

func (v *Volume) fields() []*string {
	return []*string{&v.Mount, &v.Device, &v.Kind, &v.ID, &v.Label, (*string)(&v.System)}
}

// validPath reports that there is no NUL, no empty part, no "." and no "..".
func validPath(p string) bool {
	if len(p) > MaxPath || strings.IndexByte(p, 0) >= 0 {
		return false
	}
	if p == "" {
		return true
	}
	for part := range strings.SplitSeq(p, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}
