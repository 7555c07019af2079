package mover

import (
	"context"
	"iter"

	"github.com/hikae/hikae/pipe/mover/trust"
)

// BlindStore is what a blind target keeps: objects that it cannot read, and a guard that says what a peer may do with
// them. It is implemented elsewhere, so that a mover brings no repository.
type BlindStore interface {
	// Open returns the store as one peer may use it, for one session.
	Open(ctx context.Context, peer trust.Peer) (BlindSession, error)
}

// BlindSession is a store of objects as one peer sees it. All methods are safe for concurrent use. What the peer may
// not do is fs.ErrPermission with the reason; the other errors are those of a store: fs.ErrNotExist, fs.ErrExist,
// fs.ErrInvalid, and whatever [ServerOptions].Classify knows. A refusal has changed nothing.
type BlindSession interface {
	// Create stores a new object, whole and durable on nil; it never replaces one. It keeps no reference to data.
	Create(ctx context.Context, name string, data []byte) error
	// ReadAt fills p from byte off; at the end of the object it returns fewer bytes and io.EOF.
	ReadAt(ctx context.Context, name string, p []byte, off int64) (n int, err error)
	// Stat is an object's size in bytes.
	Stat(ctx context.Context, name string) (size int64, err error)
	// List yields the objects under prefix that the peer may see. An error ends the sequence and voids it.
	List(ctx context.Context, prefix string) iter.Seq2[BlindObject, error]
	// Remove removes an object.
	Remove(ctx context.Context, name string) error
	// Probe says what the store can do.
	Probe(ctx context.Context) (BlindAbilities, error)
	// Close ends the session's use of the store; the objects stay.
	Close() error
}

// BlindObject is one object of a blind target. Size is in bytes.
type BlindObject struct {
	Name string
	Size int64
}

// BlindAbilities are what a blind target's store promises: see package repo/store. Free is in bytes, negative where it
// is not known.
type BlindAbilities struct {
	ExclusiveCreate, DurableNames, FreshReads bool
	Free                                      int64
}
