package mover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/session"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// What one session may have open at once.
const (
	maxImages  = 64
	maxWriters = 64
	maxOpen    = wire.MaxDisks // disks, over all writers
	maxStreams = 16            // blobs being written, and being read
	maxObjects = 16            // of a blind target
	maxLists   = 4
)

// teardown bounds how long anybody waits for the end of a writer that is being put aside.
const teardown = 2 * time.Minute

// handler answers the calls of one session.
type handler struct {
	host   *host
	peer   trust.Peer
	who    callers
	space  space
	tenant *tenant // nil where there is no backend, and for who brings nothing
	push   func(wire.Message)
	log    *slog.Logger

	complaints *complaints

	gate   gate
	ctx    context.Context // ends with the session
	cancel context.CancelCauseFunc
	ending sync.WaitGroup // writers that are being put aside, and the teller

	seen    frontier
	telling sync.Once
	blind   BlindSession
	back    func(ctx context.Context) (*Client, error) // calls of our own in this session; nil: it is none for that

	images  *refs[*openImage]
	writers *refs[*writer]
	totals  committedTotals
	disks   *refs[*disk]
	blobs   *refs[*blob]
	objects *refs[*object]
	pages   listings
	lists   *refs[*objectList]
	reading blobReaders
}

var errSessionEnded = &wire.Fail{Code: wire.CodeLost, Text: "the session has ended"}

// newHandler begins a session of a peer.
func newHandler(ctx context.Context, hs *host, peer trust.Peer, push func(wire.Message)) (*handler, error) {
	h := &handler{
		host: hs, peer: peer, who: callersOf(peer), push: push,
		images:  newRefs[*openImage]("image", maxImages),
		writers: newRefs[*writer]("point", maxWriters),
		disks:   newRefs[*disk]("disk", maxOpen),
		blobs:   newRefs[*blob]("blob", maxStreams),
		objects: newRefs[*object]("object", maxObjects),
		lists:   newRefs[*objectList]("listing", maxLists),

		complaints: newComplaints(),
	}
	h.space = spaceOf(peer.Name, h.who == byFull)
	if hs.backend != nil && h.who&byAny != 0 {
		t, err := hs.tenants.open(peer.Name)
		if err != nil {
			return nil, err
		}
		h.tenant = t
	}
	if hs.blind != nil && h.who&byAny != 0 {
		b, err := hs.blind.Open(ctx, peer)
		if err != nil {
			h.release()
			return nil, err
		}
		h.blind = b
	}
	h.ctx, h.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	hs.mu.Lock()
	hs.live[h] = struct{}{}
	hs.last++
	name := session.NameIn(ctx) // by which the other side knows it too
	if name == "" {
		name = strconv.FormatUint(hs.last, 10)
	}
	h.log = hs.log.With("peer", peer.Name, "session", name)
	hs.mu.Unlock()
	h.log.Info("a session began", "role", string(peer.Role))
	hs.observer.Session(peer.Name, 1)
	return h, nil
}

// callersOf is what a peer counts as. A role that nobody knows may do nothing.
func callersOf(p trust.Peer) callers {
	switch {
	case p.Token:
		return byToken
	case p.Role == trust.Append:
		return byAppend
	case p.Role == trust.Full:
		return byFull
	case p.Role == trust.Guest:
		return byGuest
	}
	return 0
}

// Handle answers one call.
func (h *handler) Handle(ctx context.Context, call uint64, req wire.Message) (wire.Message, error) {
	w := h.writerOf(req) // a call that ends something takes its number
	answer, err := h.handle(ctx, call, req)
	if err == nil && ctx.Err() != nil {
		h.undo(answer)
		err = ctx.Err()
	}
	if err == nil {
		return answer, nil
	}
	f := h.fail(err)
	h.host.observer.Failed(h.peer.Name, req.Kind(), f.Code)
	h.complain(w, req.Kind(), f, err)
	return nil, f
}

func (h *handler) handle(ctx context.Context, call uint64, req wire.Message) (wire.Message, error) {
	done, err := h.arrive(call, req)
	defer done()
	if err != nil {
		return nil, err
	}
	if err := h.gate.enter(); err != nil {
		return nil, err
	}
	defer h.gate.leave()
	if f := h.allowed(req.Kind()); f != nil {
		return nil, f
	}
	return h.answer(ctx, call, req)
}

// arrive notes that a call has come: first for the writer that it brings something to, and only then for the session,
// so that nothing can be told durable between the two.
func (h *handler) arrive(call uint64, req wire.Message) (done func(), err error) {
	done = func() {}
	var ref wire.Ref
	write, pieces := req.(*wire.Write)
	put, block := req.(*wire.Put)
	switch {
	case block:
		ref = put.Disk
	case pieces:
		ref = write.Disk
	default:
		h.seen.saw(call)
		return done, nil
	}
	if d, err := h.disks.get(ref); err == nil && d.w.progress != nil {
		p := d.w.progress
		p.begin(call)
		done = func() {
			if pieces && !d.whole(write.Off, int64(write.Plain)) {
				p.hold(call, d)
			} else {
				p.end(call)
			}
		}
	}
	if !h.seen.saw(call) {
		err = &wire.Fail{Code: wire.CodeDeadline, Text: "the call has come so late that nobody waited for it any more"}
	}
	return done, err
}

// answer is the one place where kinds become functions.
func (h *handler) answer(ctx context.Context, call uint64, req wire.Message) (wire.Message, error) {
	switch m := req.(type) {
	case *wire.Points:
		return h.points(ctx, m)
	case *wire.OpenDisk:
		return h.openDisk(ctx, m)
	case *wire.ReadImage:
		return h.readImage(ctx, m)
	case *wire.ImageExtents:
		return h.imageExtents(ctx, m)
	case *wire.CloseImage:
		return ok(h.closeImage(m))
	case *wire.ReadBlob:
		return h.readBlob(ctx, m)

	case *wire.Begin:
		return h.begin(ctx, m)
	case *wire.StartDisk:
		return h.startDisk(ctx, m)
	case *wire.Query:
		return h.query(ctx, m)
	case *wire.Put:
		return h.put(ctx, m)
	case *wire.Mark:
		return ok(h.mark(ctx, m))
	case *wire.Write:
		return ok(h.write(ctx, m))
	case *wire.SealDisk:
		return ok(h.sealDisk(ctx, m))
	case *wire.DropDisk:
		return ok(h.dropDisk(ctx, m))
	case *wire.StartBlob:
		return h.startBlob(m)
	case *wire.BlobPart:
		return ok(h.blobPart(ctx, m))
	case *wire.SealBlob:
		return ok(h.sealBlob(ctx, m))
	case *wire.Commit:
		return h.commit(ctx, m)
	case *wire.DropPoint:
		return ok(h.dropPoint(ctx, m))
	case *wire.Usage:
		return h.usage(m)

	case *wire.Images:
		return h.sourceImages(ctx)
	case *wire.OpenSource:
		return h.openSource(ctx, m)
	case *wire.Collect:
		return h.collect(ctx, m)

	case *wire.Enrol:
		return answered(h.host.care.enrol(h.peer, m))
	case *wire.Rotate:
		return ok(h.host.care.rotate(h.peer, m))
	case *wire.Health:
		is := h.host.care.health(ctx, h.who == byFull)
		is.Role = string(h.peer.Role)
		return is, nil
	}
	return h.answerStore(ctx, req)
}

// undo takes back what a call has opened of which nobody will read the answer: nobody else would close it before the
// session's end.
func (h *handler) undo(answer wire.Message) {
	switch m := answer.(type) {
	case *wire.Begun:
		if w, err := h.writers.take(m.Writer); err == nil {
			w.forget()
			w.end(errDropped)
		}
	case *wire.DiskStarted:
		if d, err := h.disks.take(m.Disk); err == nil {
			d.abandon()
		}
	case *wire.BlobStarted:
		if b, err := h.blobs.take(m.Blob); err == nil {
			b.abort(errUnsealed)
		}
	case *wire.ImageOpened:
		if img, err := h.images.take(m.Image); err == nil {
			img.close()
		}
	case *wire.StoreOpened:
		if o, err := h.objects.take(m.Object); err == nil {
			o.drop()
		}
	case *wire.StoreNames: // its part is lost: nobody can go on
		if l, err := h.lists.take(m.List); err == nil {
			l.end()
		}
	}
}

// ok is the answer that says nothing more.
func ok(err error) (wire.Message, error) {
	if err != nil {
		return nil, err
	}
	return &wire.OK{}, nil
}

// answered keeps a nil pointer from becoming a message.
func answered[T any, M interface {
	*T
	wire.Message
}](m M, err error) (wire.Message, error) {
	if err != nil {
		return nil, err
	}
	return m, nil
}

// fail is an error as an answer. What this package cannot know of a backend's errors, the embedder says.
func (h *handler) fail(err error) *wire.Fail {
	f, known := errors.AsType[*wire.Fail](err)
	if !known {
		if h.host.classify != nil {
			if e := h.host.classify(err); e != nil {
				err = e
			}
		}
		f = toFail(err)
	}
	out := *f // an error may be shared
	if r, isRange := errors.AsType[*pipe.RangeError](err); isRange && out.Length == 0 {
		out.Offset, out.Length = max(0, r.Off), max(0, r.Len)
	}
	out.Text, out.Object = clip(out.Text, wire.MaxText), clip(out.Object, wire.MaxName)
	out.Offset, out.Length = max(0, out.Offset), max(0, out.Length)
	return &out
}

// Close ends the session: nothing of it is committed after Close has begun, but for a commit that was under way and
// whose end is waited for.
func (h *handler) Close() error {
	if !h.gate.end(errSessionEnded) {
		return nil
	}
	h.cancel(errSessionEnded)
	for _, w := range h.writers.all() {
		w.end(errSessionEnded)
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(h.ctx), teardown)
	defer stop()
	err := h.gate.wait(ctx)
	for _, w := range h.writers.all() { // begun meanwhile
		w.end(errSessionEnded)
	}
	err = errors.Join(err, h.quiet(ctx))
	for _, img := range h.images.all() {
		img.close()
	}
	h.pages.close()
	h.reading.close()
	for _, o := range h.objects.all() {
		o.drop()
	}
	for _, l := range h.lists.all() {
		l.end()
	}
	if h.blind != nil {
		err = errors.Join(err, h.blind.Close())
	}
	h.release()
	h.host.observer.Session(h.peer.Name, -1)
	return err
}

// quiet waits until all writers have ended. A backend that does not come back from a call is left behind, with its
// writer: the VM stays taken, and nothing of it can be committed.
func (h *handler) quiet(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		h.ending.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the backend does not come back from a call for %v", teardown)
	}
}

func (h *handler) release() {
	h.host.mu.Lock()
	delete(h.host.live, h)
	h.host.mu.Unlock()
	if h.tenant != nil {
		h.host.tenants.release(h.tenant)
	}
}
