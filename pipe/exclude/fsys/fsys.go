// Package fsys is what the readers of guest file systems have in common: [FileSystem], which tells what of a volume is
// free and what its files are, read-only, from the outside, and with nothing mounted.
//
// Each kind of file system has a package of its own with
//
//	func Open(ctx context.Context, vol pipe.Image) (fsys.FileSystem, error)
//
// which answers [ErrOther] where the volume holds something else. A reader never trusts a field: every loop has a bound
// that comes from the volume's size, every allocation one of [MaxMemory], and a volume that contradicts itself is a
// [*CorruptError] with the place, never a panic.
//
// A file system that was in use when the disk was pinned has a log with changes that are not in their places yet. Open
// replays it in memory: all answers are those of the file system as its own driver would show it after the next mount,
// with the one exception of [FileSystem.Free].
package fsys

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"time"
)

// MaxMemory bounds what a reader keeps of one volume, in bytes.
const MaxMemory = 128 << 20

// MaxName bounds a name in a directory, in bytes of UTF-8; MaxLink the target of a symbolic link.
const (
	MaxName = 1024
	MaxLink = 64 << 10
)

// ErrOther: the volume does not hold a file system of this kind.
var ErrOther = errors.New("another kind of file system")

// CorruptError says that a volume contradicts itself.
type CorruptError struct {
	What string // the structure: "inode 12", "group descriptor 3"
	Off  int64  // its byte in the volume; -1 where it has no one place
	Why  string
}

func (e *CorruptError) Error() string {
	if e.Off < 0 {
		return fmt.Sprintf("%s: %s", e.What, e.Why)
	}
	return fmt.Sprintf("%s at byte %d: %s", e.What, e.Off, e.Why)
}

// FileSystem is an opened file system. It is safe for concurrent use.
type FileSystem interface {
	Info() Info

	// Free yields what holds nothing that is in use, in bytes of the volume, ascending, disjoint and not adjacent. A
	// block is free only if it is so both before and after the log's replay, and metadata and the log never are. Where
	// Info.Doubt is set it yields nothing. After an error what was yielded before does not hold.
	Free(ctx context.Context) iter.Seq2[Range, error]

	// Root is the root directory.
	Root() Node

	// ReadDir yields the entries of a directory, without "." and "..", in the order in which they are stored. It holds
	// no more of a directory in memory than a bounded part.
	ReadDir(ctx context.Context, dir Node) iter.Seq2[Entry, error]

	// Stat tells about a node. Errors wrap fs.ErrNotExist for a number that is not in use.
	Stat(ctx context.Context, n Node) (Attr, error)

	// Runs yields where the content of a regular file lies, ascending and gap-free from 0 to at least its size rounded
	// up to whole blocks; also what is allocated beyond its end. Content that has no blocks of its own (inline, resident,
	// compressed) is a run of the kind Packed.
	Runs(ctx context.Context, n Node) iter.Seq2[Run, error]

	// ReadAt reads the content of a regular file like io.ReaderAt: fewer bytes than asked for come with an error, at
	// the end io.EOF.
	ReadAt(ctx context.Context, n Node, p []byte, off int64) (int, error)

	// Readlink is the target of a symbolic link, as it stands there.
	Readlink(ctx context.Context, n Node) (string, error)
}

// Info is what a file system says about itself.
type Info struct {
	Kind      string // "ext4", "xfs", "ntfs", "vfat"
	UUID      string // lower case; of NTFS and FAT the serial number
	Label     string
	Size      int64 // bytes of the volume that it covers, from byte 0
	BlockSize int64 // the unit of allocation in bytes

	// Doubt says in words why what it calls free must not be relied on: an unknown feature, a wrong checksum, a log
	// that cannot be replayed. Empty: nothing is wrong. The volume is then stored whole.
	Doubt string
	// Replayed is how many bytes of the log's changes were put into their places, in memory.
	Replayed int64
	// Hibernated: a system sleeps on this volume, and everything on it must stay as it is.
	Hibernated bool
}

// Node names a file within its file system: an inode number, a file record number.
type Node uint64

// Entry is one name in a directory.
type Entry struct {
	Name string // as stored, in UTF-8 where the file system says what its names are in; may hold any byte but NUL and "/"
	Node Node
	Type fs.FileMode // the type bits only
}

// Attr is what a file is.
type Attr struct {
	Node  Node
	Mode  fs.FileMode // type and permissions
	Size  int64       // bytes
	Links uint32      // how many names it has
	UID   uint32
	GID   uint32
	Mod   time.Time
	// Kept says in words why its blocks must never be left out although it is a regular file: they are shared with
	// another file, or are metadata. Empty: they are its own.
	Kept string
}

// Range is a part of a volume in bytes.
type Range struct{ Off, Len int64 }

// End is the first byte after the range.
func (r Range) End() int64 { return r.Off + r.Len }

// RunKind says what a part of a file is.
type RunKind uint8

const (
	Written   RunKind = iota // Vol holds the content
	Unwritten                // allocated at Vol, but reads as zero whatever is there
	Hole                     // not allocated, reads as zero
	Packed                   // the content is somewhere that only ReadAt finds
	Shared                   // Vol holds the content, and another file may use the same place
)

// Run is a part of a file and where it lies, in bytes.
type Run struct {
	File int64 // where it begins in the file
	Len  int64
	Vol  int64 // where it begins in the volume; -1 for Hole and Packed
	Kind RunKind
}
