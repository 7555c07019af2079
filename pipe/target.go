package pipe

import (
	"context"
	"encoding/hex"
	"errors"
	"time"
)

// Target takes one disk's content. It starts as zeros everywhere, or as its base where it was opened with one.
//
// Writing ends in Commit; Close alone abandons, so a deferred Close is always right. WriteAt, Mark and PutBlock are
// safe for concurrent use as long as their ranges do not overlap; Commit and Close are called alone.
type Target interface {
	// Size is the length of the disk in bytes.
	Size() int64

	// WriteAt stores p at byte off, and keeps no reference to p. It returns len(p) and nil, or an error. Nothing is
	// durable before Commit has returned nil.
	WriteAt(ctx context.Context, p []byte, off int64) (n int, err error)

	// Commit seals the disk: on nil, everything written is durable (for a disk of a [PointWriter]: as soon as the
	// point is committed). After an error the target is as after Close.
	Commit(ctx context.Context) error

	// Close releases the target. Without a Commit before, what was written is abandoned.
	Close() error
}

// ExtentTarget is an optional ability of a Target: it is told about ranges that carry no data and why.
type ExtentTarget interface {
	Target

	// Mark says that the range reads as zero, with the reason (Zero, Free, Swap, Excluded, Bad), or that it is what
	// the base has there (Unchanged). Marking replaces what the target held in the range before.
	// Data cannot be marked. Unchanged needs a base.
	Mark(ctx context.Context, e Extent) error
}

// BlockTarget is an optional ability of a Target: it takes fingerprints first and blocks after, so that a far
// repository deduplicates before anything is sent.
//
// Blocks are aligned to BlockSize; the last block of a disk may be shorter. A block that is all zeros is never put:
// it is marked.
type BlockTarget interface {
	ExtentTarget

	// BlockSize is the length of a block in bytes, a power of two.
	BlockSize() int

	// Fingerprint returns the identity of a block with content p. It is keyed by the target and safe for concurrent use.
	Fingerprint(p []byte) ID

	// Missing reports for each id whether the target needs the block's content. An answer of false is a promise for
	// as long as this target is open, with one exception: PutBlock may still ask, by ErrNeedBlock.
	Missing(ctx context.Context, ids []ID) ([]bool, error)

	// PutBlock places a block at byte off. data is the block's content encoded with codec, plain is its decoded
	// length in bytes. data may be nil where Missing answered false for id; the target then uses the block that it
	// has, or returns ErrNeedBlock, and the caller puts again with the data. The target does not trust id: it decodes
	// and recomputes the fingerprint of what it stores, and returns ErrBlockMismatch where they differ.
	// The target keeps no reference to data. It reports what it added to the store.
	PutBlock(ctx context.Context, off int64, id ID, plain int, codec Codec, data []byte) (PutResult, error)
}

// Assembler is an optional ability of a BlockTarget that is near: it is offered a missing block before anybody encodes
// it, because it may hold large parts of the block elsewhere, at other offsets, and store it by naming them.
type Assembler interface {
	// Assemble places the block at byte off, or answers false, and then the block is encoded and put as usual. The
	// target does not trust id. It keeps no reference to block.
	Assemble(ctx context.Context, off int64, id ID, block []byte) (PutResult, bool, error)
}

// Far is an optional ability of a Target, or of an Image, that is reached over a line: each call takes a round trip, so
// that a copy keeps more of them under way than it would with a disk. An image's is found behind its wrappers, by [As].
type Far interface{ Flight() Flight }

// Flight is what a copy to a far target, or from a far image, keeps under way. What is zero is as for a near one.
type Flight struct {
	Asks  int   // calls of Missing
	Puts  int   // calls of PutBlock, Mark and WriteAt
	Reads int   // calls of ReadAt, each of up to 1 MiB
	Bytes int64 // buffers, unless the options say otherwise
}

// Durable is an optional ability of a [PointWriter]: it tells, while the point is written, what of it would survive the
// end of the process. Blocks that do are found by their fingerprints by whoever tries again.
type Durable interface {
	// Stamp is a number for everything that was put by calls that have returned.
	Stamp() uint64
	// Durable is a number that only grows: what was put before a Stamp of at most that number is durable.
	Durable() uint64
}

// Settler is an optional ability of a [PointWriter]: Settle makes durable what was put by calls that have returned. It is
// for a writer that is about to be given up: who tries again finds those blocks. The point itself is no nearer to being
// there.
type Settler interface {
	Settle(ctx context.Context) error
}

// PutResult says what one PutBlock did, in bytes.
type PutResult struct {
	Deduplicated int64 // plain bytes that were already there, in this block or as parts of others
	Stored       int64 // bytes added to packs, without parity
}

// Accountant is an optional ability of a Target or a [PointWriter]: what has been added to the store so far.
type Accountant interface{ Usage() Usage }

// Lined is an optional ability of a Target behind a network. Line is how long, so far, the connection to it took no more while there was more
// to send: over a copy it is that copy's share of the network in its time. Where there are several connections it is their average. Several disks
// that are written over one line at once each see what all of them sent.
type Lined interface{ Line() time.Duration }

// Overwriter is an optional ability of a disk's Target that stands on a base. It tells, once the disk is committed, how many bytes of
// blocks that held data in the base hold other data now, and of how many of those what they hold now looks like chance
// ([LooksRandom]). A file that is encrypted in place is there; one that was added, compressed or not, is not.
type Overwriter interface{ Overwritten() (data, random int64) }

// Usage is what was added to a store, in bytes.
type Usage struct {
	Stored int64 // in packs, without parity
	Parity int64 // parity and cell trailers
}

var (
	// ErrNeedBlock is returned by PutBlock without data when the target does not hold the block (any more).
	ErrNeedBlock = errors.New("the block's content is needed")
	// ErrBlockMismatch is returned by PutBlock when data does not decode to the block that id names. Something
	// between fingerprint and write changed the bytes; the block is not stored.
	ErrBlockMismatch = errors.New("block content does not match its id")
)

// ID is the identity of a block: a keyed 256-bit hash of its content.
type ID [32]byte

func (id ID) String() string { return hex.EncodeToString(id[:]) }
