package xfs

import (
	"context"
	"fmt"
	"sync"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// FS is an XFS volume. It is safe for concurrent use.
type FS struct {
	sb      *super
	after   view   // as it is after the log's replay
	head    uint64 // position of the log's head; 0 while it is not known
	applied int64

	mu      sync.Mutex // guards what follows, once Open has returned
	doubt   string
	checked bool // what files have was held against what is free

	busy    [][]span            // by group: touched by the log, or named by an unfinished free
	between map[uint64]struct{} // files that the log leaves between two states
	adopted map[uint64]struct{} // files whose trees change their owner
	sharing bool                // what files share changes with the next mount

	cache  *cache
	window int // free extents that are in memory at once, about
}

var _ fsys.FileSystem = (*FS)(nil)

// Open reads the superblock, replays the log in memory and verifies what says which blocks are free. The error is
// [fsys.ErrOther] where the volume holds no XFS, and a [*fsys.CorruptError] where it claims an impossible geometry. What
// can be read and not be relied on has Info.Doubt.
func Open(ctx context.Context, vol pipe.Image) (fsys.FileSystem, error) {
	f := &FS{after: view{vol: vol}, cache: newCache(), window: windowSpans, between: map[uint64]struct{}{}, adopted: map[uint64]struct{}{}}
	sb, reason, err := readSuper(ctx, f.after, vol.Size())
	if err != nil {
		return nil, err
	}
	f.sb, f.doubt = sb, reason
	if f.doubt != "" {
		return f, nil
	}
	if err := f.settle(ctx); isCorrupt(err) {
		f.doubt = err.Error()
	} else if err != nil {
		return nil, err
	}
	return f, nil
}

// settle replays the log and verifies the groups.
func (f *FS) settle(ctx context.Context) error {
	at, ok := f.sb.logAt()
	if !ok || at.Len < 2*maxRecord {
		return superError("a log of %d bytes at block %d", at.Len, f.sb.logStart)
	}
	r := &ring{v: f.after, at: at.Off, blocks: at.Len / logBlock, uuid: f.sb.uuid}
	e, err := r.findEnds(ctx)
	if err != nil {
		return err
	}
	f.head = r.lsn(e.headCycle, e.head)
	f.busy = make([][]span, f.sb.agCount)
	r.sealed = f.sb.v5
	if !e.clean && e.tail != e.head {
		if err := f.replay(ctx, r, e); err != nil {
			return err
		}
	}
	for no := range f.sb.agCount {
		if err := f.checkGroup(ctx, no); err != nil {
			return err
		}
	}
	if f.replayed() && !f.sb.v5 {
		return errVersion4
	}
	return nil
}

// errVersion4 becomes a doubt. The replay of version 4 has neither checksums nor positions to go by, and no kernel that
// still has it was at hand to hold ours against. Files are shown all the same.
var errVersion4 = &fsys.CorruptError{What: "log", Off: -1, Why: "a replay for version 4 is not proven"}

// replayed says whether the log changed anything.
func (f *FS) replayed() bool { return f.after.over != nil }

// Info is as [fsys.FileSystem] has it. A doubt may also come from the first [FS.Free], which reads all inodes.
func (f *FS) Info() fsys.Info {
	f.mu.Lock()
	defer f.mu.Unlock()
	u := f.sb.uuid
	return fsys.Info{
		Kind: "xfs", Label: f.sb.label, Size: f.sb.size(), BlockSize: f.sb.blockSize, Doubt: f.doubt, Replayed: f.applied,
		UUID: fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]),
	}
}

// Root is the root directory.
func (f *FS) Root() fsys.Node { return fsys.Node(f.sb.root) }
