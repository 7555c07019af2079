package repo

import (
	"context"
	"io/fs"

	"github.com/cespare/xxhash/v2"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
)

// rewriter writes content of the repository again, into new packs: a repair what it has mended or found elsewhere, a prune
// what is worth keeping of packs that go. Nothing is written that was not proven by its id, and nothing that was there
// is touched.
//
// The packs lie below a lease that the caller took, of the content's scope, and keeps until after flush: see newLeaseFor.
// Where the log says `bad` of the content, that record has to be older than the lease.
//
// It is safe for concurrent use, but for flush and close.
type rewriter struct {
	r *Repository
	s *session
}

// newRewriter begins writing under a lease. idx is the index of the lease's scope, in which the new packs are found as soon
// as they are durable.
func (r *Repository) newRewriter(ctx context.Context, l *lease, idx *index) *rewriter {
	s := r.sessionUnder(ctx, l, idx)
	s.again = true
	s.slots = make(chan struct{}, 1) // of what is read frame by frame, one upload beside the next pack keeps up
	return &rewriter{r: r, s: s}
}

// copy writes content again that is at loc, in the form in which it is stored there. Where that cannot be read, even from
// parity, it is had from wherever else the index knows it. Content that this rewriter has written before is not written
// twice. The error is *ErrCorrupt where nobody has it.
func (w *rewriter) copy(ctx context.Context, id pipe.ID, loc location) error {
	if w.has(id) {
		return nil
	}
	encoded, err := w.frame(ctx, id, loc)
	if err == nil {
		err = w.write(ctx, loc.typ, id, int(loc.plain), loc.codec, encoded)
	}
	if err == nil || ctx.Err() != nil || isFailure(err) || w.s.failed() != nil {
		return err
	}
	content := make([]byte, loc.plain)
	if err := w.r.fetch(ctx, w.s.idx, id, loc, content); err != nil {
		return err
	}
	return w.put(ctx, loc.typ, id, content)
}

// frame is the sealed form of content, opened and not decoded.
func (w *rewriter) frame(ctx context.Context, id pipe.ID, loc location) ([]byte, error) {
	p := w.s.idx.pack(loc.pack)
	encoded, err := w.r.openFrame(ctx, p, loc)
	if err == nil || ctx.Err() != nil {
		return encoded, err
	}
	o, i, err := w.r.openPack(ctx, p, id, loc)
	if err != nil {
		return nil, err
	}
	return o.Frame(i)
}

// put writes content that the caller has. Content that is not what id names is refused with pipe.ErrBlockMismatch.
func (w *rewriter) put(ctx context.Context, typ uint8, id pipe.ID, content []byte) error {
	if w.has(id) {
		return nil
	}
	if typ == object.TypePage { // in one form only
		return w.write(ctx, typ, id, len(content), pipe.Plain, content)
	}
	enc, err := w.s.encoder()
	if err != nil {
		return err
	}
	data, codec := enc.Encode(nil, content)
	return w.write(ctx, typ, id, len(content), codec, data)
}

func (w *rewriter) write(ctx context.Context, typ uint8, id pipe.ID, plain int, codec pipe.Codec, data []byte) error {
	if err := w.s.failed(); err != nil {
		return err
	}
	if _, mine := w.s.claim(id); !mine {
		return nil // somebody else is just writing it, and flush waits for that
	}
	defer w.s.release(id)
	_, err := w.s.write(ctx, &frame{typ: typ, id: id, plain: plain, codec: codec, data: data, sum: xxhash.Sum64(data)})
	return err
}

// has reports whether this rewriter has written content already.
func (w *rewriter) has(id pipe.ID) bool {
	w.s.mu.Lock()
	_, ok := w.s.overlay[id]
	w.s.mu.Unlock()
	if ok {
		return true
	}
	_, ok, _, err := w.s.idx.find(id, func(l location) bool { return w.s.idx.packs[l.pack].Lease == w.s.lease.n })
	return ok && err == nil
}

// flush makes everything durable that was written, and enters it into index objects. Writing may go on after it.
func (w *rewriter) flush(ctx context.Context) error {
	if err := w.s.flush(ctx); err != nil {
		return err
	}
	return w.s.flushIndex()
}

// usage is what was written.
func (w *rewriter) usage() pipe.Usage {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return w.s.usage
}

// close abandons what was not flushed. The lease stays the caller's. A second call does nothing.
func (w *rewriter) close() {
	w.s.fail(fs.ErrClosed)
	w.s.uploads.Wait()
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.s.spare, w.s.overlay = nil, nil // as large as packs, and whoever holds the rewriter has no more use for them
}
