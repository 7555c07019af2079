package ext

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// view is a file system as it stands on the volume, or as it is after the log's replay.
type view struct {
	d      *disk
	s      *super
	groups []group // nil: they are read one by one
}

// FS is an opened file system. It is safe for concurrent use.
type FS struct {
	view
	meta     blockSet // what is in use whatever the bitmaps say
	replayed int64

	window   int           // bytes that a map of what is free may take
	checking chan struct{} // held by the one that holds the inodes against the bitmaps
	checked  bool          // guarded by checking: nothing was wrong

	mu    sync.Mutex
	doubt string
}

var _ fsys.FileSystem = (*FS)(nil)

// Open opens the file system on vol. Another kind is [fsys.ErrOther]; a superblock that contradicts itself is a
// [*fsys.CorruptError], and a format with an unknown feature an error that wraps errors.ErrUnsupported. Everything else that is
// wrong is a doubt in what Info says, and the files can be read as far as they are whole. The volume stays the caller's.
func Open(ctx context.Context, vol pipe.Image) (fsys.FileSystem, error) {
	before, err := readSuper(ctx, vol)
	if err != nil {
		return nil, err
	}
	f := &FS{view: view{d: newDisk(vol, before, nil), s: before}, window: freeMapBytes, checking: make(chan struct{}, 1), doubt: before.doubt()}
	if err := f.replay(ctx); err != nil {
		return nil, err
	}
	if err := f.load(ctx); err != nil {
		return nil, err
	}
	return f, nil
}

func readSuper(ctx context.Context, vol pipe.Image) (*super, error) {
	if vol.Size() < superOff+superSize {
		return nil, fsys.ErrOther
	}
	p := make([]byte, superSize)
	if n, err := vol.ReadAt(ctx, p, superOff); n < len(p) {
		return nil, fmt.Errorf("superblock: %w", errors.Join(err, io.ErrUnexpectedEOF))
	}
	return parseSuper(p, vol.Size())
}

// replay reads the log and turns the view into what it will be after the next mount.
func (f *FS) replay(ctx context.Context) error {
	j, err := f.openLog(ctx)
	if err == nil && j != nil {
		f.meta = j.blocks
		err = f.follow(ctx, j)
	}
	return f.orDoubt(err)
}

// follow replays a log that is there and reads the superblock again, which may be in it.
func (f *FS) follow(ctx context.Context, j *journal) error {
	log, err := j.replay(ctx)
	if err != nil || log == nil {
		return err
	}
	d := newDisk(f.d.img, f.s, log)
	p := make([]byte, superSize)
	if err := d.bytes(ctx, p, superOff); err != nil {
		return err
	}
	after, err := parseSuper(p, f.d.img.Size())
	switch {
	case err != nil:
		return &fsys.CorruptError{What: "superblock in the log", Off: superOff, Why: err.Error()}
	case !after.sameGeometry(f.s):
		return &fsys.CorruptError{What: "superblock in the log", Off: superOff, Why: "it has another size or shape: the file system was being resized"}
	}
	f.view = view{d: d, s: after}
	f.replayed = int64(len(log.copies)) << f.s.blockBits
	f.doubtful(after.doubt())
	return nil
}

// load reads the descriptors of all groups and gathers what is in use because of them.
func (f *FS) load(ctx context.Context) error {
	t, err := f.loadTable(ctx)
	if err != nil {
		return f.orDoubt(err)
	}
	f.groups = t.groups
	extra := blockSet{}
	if f.s.first > 0 {
		extra.add(0, f.s.first) // the boot block is in no group
	}
	if f.s.mmp != 0 {
		extra.add(f.s.mmp, 1)
	}
	if f.s.compat&compatResizeInode != 0 && t.wrong == nil {
		if t.wrong = f.resizeBlocks(ctx, &extra); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	f.meta = joined(f.meta, t.meta, extra)
	return f.orDoubt(t.wrong)
}

// resizeBlocks adds the blocks of the inode that keeps room for more descriptors: its map's own, for the room itself lies
// where baseBlocks says.
func (f *FS) resizeBlocks(ctx context.Context, extra *blockSet) error {
	i, err := f.inode(ctx, inodeResize)
	if err != nil {
		return err
	}
	m := &mapper{v: &f.view, i: i, emit: func(mapped) bool { return true }, node: func(b uint64) { extra.add(b, 1) }}
	return m.walk(ctx)
}

// orDoubt makes a doubt of an error about what the volume says, and returns any other.
func (f *FS) orDoubt(err error) error {
	var corrupt *fsys.CorruptError
	if errors.As(err, &corrupt) {
		f.doubtful(err.Error())
		return nil
	}
	return err
}

// doubtful notes the first doubt.
func (f *FS) doubtful(why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.doubt == "" {
		f.doubt = why
	}
}

// noted hands an error on, and makes it a doubt where it says that the volume contradicts itself: damage that was found late
// is damage all the same.
func (f *FS) noted(err error) error {
	_ = f.orDoubt(err)
	return err
}

// Info implements [fsys.FileSystem]. A doubt may appear later, when a part is read that is damaged.
func (f *FS) Info() fsys.Info {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fsys.Info{
		Kind: f.s.kind(), UUID: f.s.id(), Label: f.s.label, Size: int64(f.s.blocks << f.s.blockBits),
		BlockSize: f.s.blockSize() << f.s.clusterBits, Doubt: f.doubt, Replayed: f.replayed,
	}
}

// Root implements [fsys.FileSystem].
func (f *FS) Root() fsys.Node { return inodeRoot }

// Stat implements [fsys.FileSystem].
func (f *FS) Stat(ctx context.Context, n fsys.Node) (fsys.Attr, error) {
	i, err := f.inode(ctx, n)
	if err != nil {
		return fsys.Attr{}, f.noted(err)
	}
	return f.attr(i), nil
}
