package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
)

// session is one writer at work: it puts content into packs, packs into the store, and knows what of it is durable.
//
// Content that it wrote itself is found in the overlay until its pack is durable; only then does it enter the
// repository's index, so that no other writer ever relies on a pack that may never come.
type session struct {
	r     *Repository
	lease *lease
	idx   *index
	again bool // a rewriter's: what it writes may be there already, and is not looked for elsewhere

	anchorOnce sync.Once
	anchors    *anchorTable // nil where it could not be loaded
	encodeOnce sync.Once
	literals   *pipe.Encoder
	encodeErr  error

	ctx    context.Context // of the uploads: ends with the session or its first failure
	cancel context.CancelCauseFunc

	pens    chan struct{} // data packs that are written to: each costs its full size in memory
	slots   chan struct{} // uploads under way
	uploads sync.WaitGroup

	mu      sync.Mutex
	overlay map[contentID]inPack
	looked  map[pipe.ID][]anchor
	claims  map[contentID]chan struct{} // content that somebody is just putting into a pack
	idle    []*openPack                 // data packs that nobody is writing to
	full    []*openPack                 // full packs whose writer gave up while it waited to upload them
	spare   []*object.Builder           // buffers of sealed packs
	meta    *openPack
	metaMu  sync.Mutex                  // held while the meta pack is written to
	flying  map[*openPack]chan struct{} // packs that are being stored
	usage   pipe.Usage
	puts    uint64               // blocks written so far
	begun   map[*openPack]uint64 // data packs that are not durable: how many blocks were written before their first
	tables  []packTable          // durable, not yet in an index object
	tabled  int                  // entries in tables

	indexing sync.Mutex // held while an index object is made: its tables may be as large as a pack

	closing  sync.Once
	closeErr error
}

// contentID tells apart blocks, pages and chunks, whose ids come from different keys.
type contentID = pipe.ID

// openPack is a pack that is being written.
type openPack struct {
	mu  sync.Mutex      // the builder is one goroutine's at a time
	b   *object.Builder // nil once the pack is durable
	ref packRef

	anchors []anchor // of its blocks
}

// inPack is content in a pack that is not durable yet.
type inPack struct {
	pack *openPack
	ref  object.FrameRef
}

// packTable is a durable pack's table, for the index object.
type packTable struct {
	ref     packRef
	stream  int
	entries []object.Entry
	anchors []anchor
}

const (
	maxPens     = 1 // content was proven before, so writing it into a pack takes microseconds; and disk order is kept
	maxUploads  = 2
	indexChunk  = 64 << 10 // entries after which an index object is written: about 3 MiB
	minTailRoom = 64 << 10
)

func (r *Repository) newSession(ctx context.Context, base []id16) (*session, error) {
	idx, err := r.index(ctx, r.keys.scope)
	if err != nil {
		return nil, err
	}
	l, err := r.newLease(ctx, accessWrite, base)
	if err != nil {
		return nil, err
	}
	// A sweep waits for this session only if its tombstone comes after our lease: what it named before is not relied on.
	if idx, err = r.renew(ctx, idx); err != nil {
		return nil, errors.Join(err, l.end(ctx))
	}
	return r.sessionUnder(ctx, l, idx), nil
}

// sessionUnder is a session under a lease, of whose scope the index must be.
func (r *Repository) sessionUnder(ctx context.Context, l *lease, idx *index) *session {
	s := &session{
		r: r, lease: l, idx: idx,
		pens:    make(chan struct{}, maxPens),
		slots:   make(chan struct{}, maxUploads),
		overlay: map[contentID]inPack{},
		claims:  map[contentID]chan struct{}{},
		looked:  map[pipe.ID][]anchor{},
		begun:   map[*openPack]uint64{},
		flying:  map[*openPack]chan struct{}{},
	}
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	return s
}

// known reports whether content needs not be put: it is durable and good, or on its way into a pack of this session.
func (s *session) known(ctx context.Context, id pipe.ID) (bool, error) {
	_, ok, err := s.length(ctx, id)
	return ok, err
}

// length is how long content that needs not be put is.
func (s *session) length(ctx context.Context, id pipe.ID) (plain int, ok bool, err error) {
	s.mu.Lock()
	at, ok := s.overlay[id]
	s.mu.Unlock()
	if ok {
		return int(at.ref.Plain), true, nil
	}
	loc, ok, err := s.r.reusable(ctx, s.idx, id)
	if err == nil && ok {
		err = s.rely(ctx, loc.pack)
	}
	return int(loc.plain), ok, err
}

// rely makes sure that a pack that the new point refers to stays there: what this session wrote, and what was settled,
// does.
func (s *session) rely(ctx context.Context, pack uint32) error {
	if pack < s.idx.settled.Load() || s.idx.pack(pack).Lease == s.lease.n {
		return nil
	}
	return s.r.settle(ctx, s.idx)
}

// reuse is known for a caller that says how long the content is: it has to agree, for an id says nothing of lengths.
func (s *session) reuse(ctx context.Context, id pipe.ID, plain int) (bool, error) {
	n, ok, err := s.length(ctx, id)
	if ok && n != plain {
		return false, fmt.Errorf("%w: it is of %d bytes, not %d", pipe.ErrBlockMismatch, n, plain)
	}
	return ok, err
}

// put makes sure that the content named id is in the repository once the session is flushed. Without data it only
// looks. Of two callers with the same content one writes and the other waits for it.
func (s *session) put(ctx context.Context, typ uint8, id pipe.ID, plain int, codec pipe.Codec, data []byte) (pipe.PutResult, error) {
	return s.putFrame(ctx, &frame{typ: typ, id: id, plain: plain, codec: codec, data: data, sum: xxhash.Sum64(data)})
}

func (s *session) putFrame(ctx context.Context, f *frame) (pipe.PutResult, error) {
	for {
		if err := s.failed(); err != nil {
			return pipe.PutResult{}, err
		}
		if ok, err := s.reuse(ctx, f.id, f.plain); err != nil || ok {
			return pipe.PutResult{Deduplicated: int64(f.plain)}, err
		}
		if f.data == nil {
			return pipe.PutResult{}, pipe.ErrNeedBlock
		}
		wait, mine := s.claim(f.id)
		if mine {
			break
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return pipe.PutResult{}, context.Cause(ctx)
		}
	}
	defer s.release(f.id)
	// Between the look and the claim somebody else may have finished.
	if ok, err := s.reuse(ctx, f.id, f.plain); err != nil || ok {
		return pipe.PutResult{Deduplicated: int64(f.plain)}, err
	}
	return s.write(ctx, f)
}

func (s *session) claim(id pipe.ID) (wait chan struct{}, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.claims[id]; ok {
		return c, false
	}
	s.claims[id] = make(chan struct{})
	return nil, true
}

func (s *session) release(id pipe.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.claims[id])
	delete(s.claims, id)
}

func (s *session) write(ctx context.Context, f *frame) (pipe.PutResult, error) {
	buf := s.r.buffer()
	defer s.r.buffers.Put(buf)
	if err := s.prove(ctx, f, buf); err != nil {
		return pipe.PutResult{}, err
	}
	p, err := s.take(ctx, f.typ)
	if err != nil {
		return pipe.PutResult{}, err
	}
	ref, err := f.seal(p, buf)
	if err != nil {
		return pipe.PutResult{}, errors.Join(err, s.giveBack(ctx, f.typ, p))
	}
	s.mu.Lock()
	s.overlay[f.id] = inPack{p, ref}
	p.anchors = append(p.anchors, f.anchors...)
	s.usage.Stored += int64(ref.Stored)
	if f.typ == object.TypeBlock {
		s.count(p)
	}
	s.mu.Unlock()
	if err := s.giveBack(ctx, f.typ, p); err != nil {
		return pipe.PutResult{}, err
	}
	return pipe.PutResult{Stored: int64(ref.Stored), Deduplicated: int64(f.copied)}, nil
}

// count numbers a block that was written to a pack. The caller holds the session's lock.
func (s *session) count(p *openPack) {
	if _, ok := s.begun[p]; !ok {
		s.begun[p] = s.puts
	}
	s.puts++
}

// stamp is how many blocks were written.
func (s *session) stamp() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.puts
}

// durable is how many blocks, of those that were written first, are in packs that are durable. The packs that are not
// are one that is written to, and those that are being uploaded or wait for that: a handful.
func (s *session) durable() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.puts
	for _, first := range s.begun {
		n = min(n, first)
	}
	return n
}

// frame is one piece of content on its way into a pack.
type frame struct {
	typ     uint8
	id      pipe.ID
	plain   int
	codec   pipe.Codec
	data    []byte // encoded
	sum     uint64 // of data, taken before data was proven
	copied  int    // of a recipe: bytes that other blocks have
	anchors []anchor
}

// prove decodes what is to be stored and holds it against the id: the caller's word is not taken for either. Together
// with seal that finds whatever was changed between the fingerprint and the pack: a bad byte in memory, a codec's
// mistake, a liar.
func (s *session) prove(ctx context.Context, f *frame, buf *buffers) error {
	buf.plain = grow(buf.plain, f.plain)
	if err := s.r.decode(ctx, s.idx, buf.plain, f.data, f.codec); err != nil {
		return fmt.Errorf("%w: %w", pipe.ErrBlockMismatch, err)
	}
	if s.idx.ids.id(f.typ, buf.plain) != f.id {
		return fmt.Errorf("%w: the fingerprint differs", pipe.ErrBlockMismatch)
	}
	switch {
	case f.typ != object.TypeBlock || f.codec == codecAssembled:
		return nil
	case s.again:
		if s.idx.scope == (scope{}) {
			buf.hashes = cellHashes(buf.hashes, buf.plain)
			f.anchors = anchorsOf(nil, buf.hashes, f.id)
		}
		return nil
	case !s.loadAnchors(ctx):
		return nil
	}
	if looked, ok := s.lookedAt(f.id); ok {
		f.anchors = looked
		return nil
	}
	buf.hashes = cellHashes(buf.hashes, buf.plain)
	f.anchors = anchorsOf(nil, buf.hashes, f.id)
	return nil
}

// lookedAt are the anchors of a block that was looked at in vain and is now stored whole.
func (s *session) lookedAt(id pipe.ID) ([]anchor, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, ok := s.looked[id]
	delete(s.looked, id)
	return list, ok
}

// maxLooked bounds what is remembered of blocks between the look and the pack.
const maxLooked = 4096

func (s *session) look(id pipe.ID, anchors []anchor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.looked) < maxLooked {
		s.looked[id] = anchors
	}
}

// assemble stores a block as a recipe, where the repository has large parts of it in other blocks.
func (s *session) assemble(ctx context.Context, id pipe.ID, content []byte) (pipe.PutResult, bool, error) {
	if !s.loadAnchors(ctx) {
		return pipe.PutResult{}, false, nil
	}
	buf := s.r.buffer()
	buf.hashes = cellHashes(buf.hashes, content)
	encoded, copied, ok := s.tryRecipe(ctx, content, buf.hashes)
	if !ok {
		s.look(id, anchorsOf(nil, buf.hashes, id))
	}
	s.r.buffers.Put(buf)
	if !ok {
		return pipe.PutResult{}, false, ctx.Err()
	}
	res, err := s.putFrame(ctx, &frame{
		typ: object.TypeBlock, id: id, plain: len(content), codec: codecAssembled, data: encoded, sum: xxhash.Sum64(encoded), copied: copied,
	})
	if errors.Is(err, pipe.ErrBlockMismatch) && ctx.Err() == nil {
		return pipe.PutResult{}, false, nil // a source failed meanwhile: the block is stored whole, and proven again then
	}
	return res, err == nil, err
}

// seal puts content into a pack and opens it again as it will be written: it must still be what was proven.
func (f *frame) seal(p *openPack, buf *buffers) (object.FrameRef, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ref, err := p.b.Append(f.typ, f.id, uint8(f.codec), f.plain, f.data)
	if err != nil {
		return ref, err
	}
	opened, err := p.b.Check(ref, buf.frame)
	if err == nil {
		buf.frame = opened
		if xxhash.Sum64(opened) == f.sum {
			return ref, nil
		}
		err = errors.New("it changed on its way into the pack")
	}
	p.b.Void(ref)
	return ref, fmt.Errorf("%w: %w", pipe.ErrBlockMismatch, err)
}

// loadAnchors makes the anchors ready; without them blocks are stored whole.
func (s *session) loadAnchors(ctx context.Context) bool {
	if s.r.writer != nil {
		return false // it could not read what an anchor leads to
	}
	s.anchorOnce.Do(func() {
		t, err := s.r.loadAnchors(ctx, s.idx)
		if err != nil {
			s.r.warn(fmt.Sprintf("content that the repository has at other offsets is not looked for: %v", err))
		}
		s.anchors = t
	})
	return s.anchors != nil
}

// encoder encodes what no other block has of an assembled one.
func (s *session) encoder() (*pipe.Encoder, error) {
	s.encodeOnce.Do(func() {
		s.literals, s.encodeErr = pipe.NewEncoder(s.r.header.Compression, s.r.header.BlockSize)
	})
	return s.literals, s.encodeErr
}

// take gives the caller a pack of its own to write to; for pages and chunks all share one.
func (s *session) take(ctx context.Context, typ uint8) (*openPack, error) {
	if err := s.uploadFull(ctx); err != nil {
		return nil, err
	}
	if typ != object.TypeBlock {
		s.metaMu.Lock()
		if s.meta == nil {
			p, err := s.newPack(kindMeta)
			if err != nil {
				s.metaMu.Unlock()
				return nil, err
			}
			s.meta = p
		}
		return s.meta, nil
	}
	select {
	case s.pens <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	s.mu.Lock()
	if n := len(s.idle); n > 0 {
		p := s.idle[n-1]
		s.idle = s.idle[:n-1]
		s.mu.Unlock()
		return p, nil
	}
	s.mu.Unlock()
	p, err := s.newPack(kindData)
	if err != nil {
		<-s.pens
	}
	return p, err
}

// giveBack returns a pack; a full one goes to the store.
func (s *session) giveBack(ctx context.Context, typ uint8, p *openPack) error {
	full := p.b.SealedLen() > s.r.header.PackSize-s.r.header.BlockSize-minTailRoom
	if typ != object.TypeBlock {
		defer s.metaMu.Unlock()
		if full {
			s.meta = nil
			return s.uploadOrKeep(ctx, p)
		}
		return nil
	}
	defer func() { <-s.pens }()
	if full {
		return s.uploadOrKeep(ctx, p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = append(s.idle, p)
	return nil
}

func (s *session) newPack(kind uint8) (*openPack, error) {
	b, err := s.builder(kind)
	if err != nil {
		return nil, err
	}
	return &openPack{b: b, ref: packRef{objectRef{s.lease.n, b.ID()}, kind}}, nil
}

func (s *session) builder(kind uint8) (*object.Builder, error) {
	s.mu.Lock()
	for i, b := range s.spare {
		if b.Kind() == kind {
			s.spare = append(s.spare[:i], s.spare[i+1:]...)
			s.mu.Unlock()
			return b, b.Reset()
		}
	}
	s.mu.Unlock()
	k := s.r.keys
	room := s.r.header.PackSize
	if kind == kindMeta {
		room = 1 << 20 // most sessions fill no more; it grows where one does
	}
	return object.NewBuilder(k.repo, k.suite, kind, k.permille, room, k.wrapsOf(kind))
}

// uploadOrKeep uploads a full pack. If the caller gives up, the pack waits for the next one who needs room: what is in it
// counts as known, so it must come into the store before the session's point does.
func (s *session) uploadOrKeep(ctx context.Context, p *openPack) error {
	err := s.upload(ctx, p)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.full = append(s.full, p)
	}
	return err
}

// uploadFull uploads what somebody gave up on.
func (s *session) uploadFull(ctx context.Context) error {
	for {
		s.mu.Lock()
		n := len(s.full)
		if n == 0 {
			s.mu.Unlock()
			return nil
		}
		p := s.full[n-1]
		s.full = s.full[:n-1]
		s.mu.Unlock()
		if err := s.uploadOrKeep(ctx, p); err != nil {
			return err
		}
	}
}

// upload seals a pack and puts it into the store, beside what the caller does next. It waits while too many are under
// way: that bounds the session's memory.
func (s *session) upload(ctx context.Context, p *openPack) error {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
	// Under the lock, so that no upload begins after close has begun to wait for them.
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.failed(); err != nil {
		<-s.slots
		return err
	}
	done := make(chan struct{})
	s.flying[p] = done
	s.uploads.Go(func() {
		defer func() { <-s.slots }()
		defer s.landed(p, done)
		if err := s.store(p); err != nil {
			s.cancel(fmt.Errorf("pack %s: %w", p.ref.name(), err))
		}
	})
	return nil
}

func (s *session) landed(p *openPack, done chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.flying, p)
	close(done)
}

func (s *session) store(p *openPack) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	entries := p.b.Entries()
	file, err := p.b.Seal()
	if err != nil {
		return err
	}
	if err := s.r.vital.createFirst(s.ctx, p.ref.name(), file); err != nil {
		return err
	}
	found := true // by a repository that is opened anew
	if s.r.writer != nil {
		found = s.r.writer.keep(s.ctx, packTable{ref: p.ref, stream: p.b.Len(), entries: entries})
	}
	if err := s.r.addTable(s.idx, p.ref, entries); err != nil {
		return err
	}
	if len(p.anchors) > 0 && s.anchors != nil { // then they are loaded, and whoever loaded them has written to this pack
		if err := s.anchors.addAll(s.idx, p.anchors); err != nil {
			return err
		}
	}
	stream := p.b.Len()
	s.mu.Lock()
	for i := range entries {
		if id := pipe.ID(entries[i].ID); s.overlay[id].pack == p {
			delete(s.overlay, id)
		}
	}
	if found {
		delete(s.begun, p)
	}
	s.usage.Parity += int64(len(file) - stream)
	s.tables = append(s.tables, packTable{p.ref, stream, entries, p.anchors})
	s.tabled += len(entries)
	s.spare = append(s.spare, p.b)
	p.b = nil // it is another pack's from here on
	var tables []packTable
	if s.tabled >= indexChunk {
		tables, s.tables, s.tabled = s.tables, nil, 0
	}
	s.mu.Unlock()
	return s.writeIndex(tables)
}

// flush makes everything durable that was put.
func (s *session) flush(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { s.fail(context.Cause(ctx)) })()
	s.mu.Lock()
	packs := append(s.idle, s.full...)
	s.idle, s.full = nil, nil
	s.mu.Unlock()
	s.metaMu.Lock()
	if s.meta != nil {
		packs = append(packs, s.meta)
		s.meta = nil
	}
	s.metaMu.Unlock()
	for _, p := range packs {
		if p.b.Frames() == 0 {
			continue
		}
		if err := s.upload(ctx, p); err != nil {
			return err
		}
	}
	s.uploads.Wait()
	return s.failed()
}

// fail ends the session's uploads. Nothing more is stored after it.
func (s *session) fail(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancel(cause)
}

func (s *session) failed() error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	return nil
}

// writeIndex copies the tables of durable packs into an index object. It is a cache that saves the next reader from
// asking every pack: losing one costs time, so a failure is told and not suffered.
func (s *session) writeIndex(tables []packTable) error {
	if len(tables) == 0 {
		return nil
	}
	s.indexing.Lock()
	defer s.indexing.Unlock()
	id, file, err := s.r.sealIndex(tables)
	if err != nil {
		return err
	}
	err = s.r.st.Create(s.ctx, indexName(objectRef{s.lease.n, id}), file)
	switch {
	case err != nil && s.ctx.Err() == nil:
		s.r.warn(fmt.Sprintf("index object: %v", err))
	case err == nil && s.r.writer != nil:
		s.r.writer.forget(s.ctx, tables)
	}
	s.writeAnchors(tables)
	return nil
}

// sealIndex makes an index object of tables.
func (r *Repository) sealIndex(tables []packTable) (id [16]byte, file []byte, err error) {
	k, room := r.keys, 64<<10
	for _, t := range tables {
		room += packTableHead + len(t.entries)*packTableEntry + object.Overhead
	}
	b, err := object.NewBuilder(k.repo, k.suite, kindIndex, k.permille, room, k.wrapsOf(kindIndex))
	if err != nil {
		return id, nil, err
	}
	for _, t := range tables {
		doc := encodePackTable(t)
		if _, err := b.Append(object.TypeTable, hashBytes(doc), object.CodecPlain, len(doc), doc); err != nil {
			return id, nil, err
		}
	}
	file, err = b.Seal()
	return b.ID(), file, err
}

func (s *session) flushIndex() error {
	s.mu.Lock()
	tables := s.tables
	s.tables, s.tabled = nil, 0
	s.mu.Unlock()
	return s.writeIndex(tables)
}

// close ends the session: nothing is under way when it returns, and the lease is over. A second call does nothing.
func (s *session) close(ctx context.Context) error {
	s.closing.Do(func() {
		s.fail(fs.ErrClosed)
		s.uploads.Wait()
		s.closeErr = s.lease.end(ctx)
	})
	return s.closeErr
}

// content fetches what was put, wherever it is by now.
func (s *session) content(ctx context.Context, typ uint8, id pipe.ID) ([]byte, error) {
	s.mu.Lock()
	at, ok := s.overlay[id]
	s.mu.Unlock()
	if ok {
		at.pack.mu.Lock()
		defer at.pack.mu.Unlock()
		if at.pack.b != nil {
			encoded, err := at.pack.b.Check(at.ref, nil)
			if err != nil {
				return nil, err
			}
			content := make([]byte, at.ref.Plain)
			return content, s.r.decode(ctx, s.idx, content, encoded, pipe.Codec(at.ref.Codec))
		}
	}
	return s.r.content(ctx, s.idx, typ, id)
}

func (s *session) savePage(ctx context.Context, encoded []byte) (pipe.ID, error) {
	id := s.r.keys.id(object.TypePage, encoded)
	_, err := s.put(ctx, object.TypePage, id, len(encoded), pipe.Plain, encoded)
	return id, err
}

func (s *session) loadPage(ctx context.Context, id pipe.ID, level, entries int) (*page, error) {
	b, err := s.content(ctx, object.TypePage, id)
	if err != nil {
		return nil, err
	}
	return decodePage(b, level, entries)
}
