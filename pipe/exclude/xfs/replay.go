package xfs

import (
	"context"
	"fmt"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// Kinds of changes in the log.
const (
	itemFreeIntent  = 0x1236 // extents that will be freed
	itemFreeDone    = 0x1237
	itemUnlink      = 0x1238 // of old systems, never written
	itemInode       = 0x123b
	itemBuffer      = 0x123c
	itemQuota       = 0x123d
	itemQuotaOff    = 0x123e
	itemInodesMade  = 0x123f
	itemOwnerIntent = 0x1240
	itemOwnerDone   = 0x1241
	itemRefIntent   = 0x1242
	itemRefDone     = 0x1243
	itemMapIntent   = 0x1244
	itemMapDone     = 0x1245
	itemAttrIntent  = 0x1246
	itemAttrDone    = 0x1247
	itemSwapIntent  = 0x1248 // two files exchange extents
	itemSwapDone    = 0x1249
	// From 0x124a on they are about the realtime section.
)

// extentOf is a range of the volume in units of 512 bytes.
type extentOf struct{ at, len int64 }

// replayer puts the log's changes into an overlay.
type replayer struct {
	f      *FS
	ctx    context.Context // of the one call of Open that the replay is a part of
	v      view            // with the overlay
	budget *budget

	// cancelled counts, for a buffer, the records that say that it was freed: what was logged of it before is void, and
	// its place may be a file's content by now.
	cancelled map[extentOf]int
	touched   map[extentOf]struct{}
	intents   map[intentKey]*intent
	applied   int64
}

// replayMemory bounds the overlay and the transactions that are open at once, overlayMemory what is left of them in the end:
// next to that a reader holds two lists of a group's free extents.
const (
	replayMemory  = fsys.MaxMemory * 7 / 8
	overlayMemory = fsys.MaxMemory * 3 / 8
)

// noteCost is what a buffer that is kept in mind takes.
const noteCost = 64

// replay reads the log twice, as the kernel does: first for what was cancelled, then for what is to be done.
func (f *FS) replay(ctx context.Context, r *ring, e ends) error {
	b := &budget{left: replayMemory}
	p := &replayer{f: f, ctx: ctx, budget: b, v: view{vol: f.after.vol, over: newOverlay(b)},
		cancelled: map[extentOf]int{}, touched: map[extentOf]struct{}{}, intents: map[intentKey]*intent{}}
	if err := r.scan(ctx, e, b, true, p.noteCancelled); err != nil {
		return err
	}
	if err := r.scan(ctx, e, b, false, p.commit); err != nil {
		return err
	}
	f.after, f.applied = p.v, p.applied
	return p.finish()
}

// reshape reads the superblock again: growing a file system is a change like any other, and what comes after it in the
// log may be about the new groups.
func (f *FS) reshape(ctx context.Context, v view) error {
	sb, reason, err := readSuper(ctx, v, v.vol.Size())
	switch {
	case err != nil:
		return err
	case reason != "":
		return superError("after the log's replay: %s", reason)
	case !f.sb.sameShape(sb):
		return superError("the log's replay makes another file system of it")
	}
	f.busy = append(f.busy, make([][]span, sb.agCount-f.sb.agCount)...)
	f.sb = sb
	return nil
}

func (p *replayer) noteCancelled(t *transaction) error {
	for _, i := range t.items {
		if i.kind() != itemBuffer {
			continue
		}
		b, err := parseBuffer(i)
		if err != nil {
			return err
		}
		if b.flags&bufferCancelled != 0 {
			if p.cancelled[b.extentOf]++; p.cancelled[b.extentOf] == 1 {
				if err := p.budget.take(noteCost); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// commit replays one transaction. Buffers come first, then inodes, so that an inode lands in the buffer as it is by then;
// buffers that carry only the chains of unlinked inodes come after them, and cancellations last.
func (p *replayer) commit(t *transaction) error {
	rounds := [4][]*item{}
	for _, i := range t.items {
		if len(i.regions) != i.total {
			return logError("a change %#x has %d regions instead of %d", i.kind(), len(i.regions), i.total)
		}
		round, err := roundOf(i)
		if err != nil {
			return err
		}
		rounds[round] = append(rounds[round], i)
	}
	for _, round := range rounds {
		for _, i := range round {
			if err := p.item(t, i); err != nil {
				return err
			}
		}
	}
	return p.ctx.Err()
}

func roundOf(i *item) (int, error) {
	switch i.kind() {
	case itemInodesMade:
		return 0, nil
	case itemBuffer:
		b, err := parseBuffer(i)
		switch {
		case err != nil:
			return 0, err
		case b.flags&bufferCancelled != 0:
			return 3, nil
		case b.flags&bufferInodes != 0:
			return 2, nil
		}
		return 0, nil
	}
	return 1, nil
}

func logError(format string, args ...any) error {
	return &fsys.CorruptError{What: "log", Off: -1, Why: fmt.Sprintf(format, args...)}
}

func (p *replayer) item(t *transaction, i *item) error {
	switch kind := i.kind(); kind {
	case itemBuffer:
		return p.buffer(t, i)
	case itemInode:
		return p.inode(t, i)
	case itemInodesMade:
		return p.inodesMade(i)
	case itemQuota, itemQuotaOff:
		return nil // what users have used changes neither space nor files
	case itemFreeIntent, itemOwnerIntent, itemRefIntent, itemMapIntent, itemAttrIntent, itemSwapIntent:
		return p.intend(kind, i)
	case itemFreeDone, itemOwnerDone, itemRefDone, itemMapDone, itemAttrDone, itemSwapDone:
		return p.done(kind, i)
	default:
		return logError("a change of the unknown kind %#x", kind)
	}
}

// touch notes that the next mount reads or writes a part of the volume.
func (p *replayer) touch(e extentOf) error {
	if e.at < 0 || e.len <= 0 || e.len > maxBuffer/logBlock || e.at > p.f.after.vol.Size()/logBlock-e.len {
		return logError("a change of %d sectors at sector %d", e.len, e.at)
	}
	if _, known := p.touched[e]; known {
		return nil
	}
	p.touched[e] = struct{}{}
	return p.budget.take(noteCost)
}

func (p *replayer) read(b []byte, off int64) error {
	_, err := p.v.read(p.ctx, b, off)
	return err
}

func (p *replayer) write(b []byte, off int64) error {
	p.applied += int64(len(b))
	return p.v.over.write(b, off, p.read)
}
