package mover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/pipe/pipetest"
)

// openPoint begins a point of one disk by hand.
type openPoint struct {
	*handler
	key    [32]byte
	writer wire.Ref
	disk   wire.Ref
	call   uint64
}

func newPoint(t testing.TB, h *handler, vm string, size int64) *openPoint {
	t.Helper()
	return newPointAt(t, h, 1, vm, size)
}

// newPointAt is newPoint in a session that has had calls.
func newPointAt(t testing.TB, h *handler, call uint64, vm string, size int64) *openPoint {
	t.Helper()
	return beginPoint(t, h, call, &wire.Begin{VM: vm}, size)
}

func newPointOf(t testing.TB, h *handler, m *wire.Begin, size int64) *openPoint {
	t.Helper()
	return beginPoint(t, h, 1, m, size)
}

func beginPoint(t testing.TB, h *handler, call uint64, m *wire.Begin, size int64) *openPoint {
	t.Helper()
	b := do[*wire.Begun](t, h, call, m)
	d := do[*wire.DiskStarted](t, h, call+1, &wire.StartDisk{Writer: b.Writer, Key: "disk0", Size: size})
	require.EqualValues(t, testBlock, d.BlockSize)
	return &openPoint{handler: h, key: b.Key, writer: b.Writer, disk: d.Disk, call: call + 2}
}

// block is the Put of a block's content.
func (p *openPoint) block(off int64, data []byte) *wire.Put {
	return &wire.Put{Disk: p.disk, Off: off, ID: keyedID(p.key, data), Plain: uint32(len(data)), Content: true, Data: data}
}

// named is a Put that only names its block.
func (p *openPoint) named(off int64, data []byte) *wire.Put {
	m := p.block(off, data)
	m.Content, m.Data = false, nil
	return m
}

func (p *openPoint) next() uint64 { p.call++; return p.call - 1 }

func (p *openPoint) commit(t testing.TB) string {
	t.Helper()
	do[*wire.OK](t, p.handler, p.next(), &wire.SealDisk{Disk: p.disk})
	return do[*wire.Committed](t, p.handler, p.next(), &wire.Commit{Writer: p.writer}).Point
}

// chacha is a block that does not compress.
func chacha(seed uint64, n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	_, _ = r.Read(p)
	return p
}

// A block that is not what its id names is refused, and nothing of it is stored; nor can it be asked for afterwards.
func TestPoisonedBlock(t *testing.T) {
	t.Parallel()
	p := newPlace(t, nil)
	h := p.session("web", trust.Append, nil)
	o := newPoint(t, h, "vm1", 2*testBlock)
	good, bad := chacha(1, testBlock), chacha(2, testBlock)
	poison := o.block(0, bad)
	poison.ID = keyedID(o.key, good)
	f := fails(t, h, o.next(), wire.CodeMismatch, poison)
	require.EqualValues(t, testBlock, f.Length)
	fails(t, h, o.next(), wire.CodeNeedBlock, o.named(0, good))
	fails(t, h, o.next(), wire.CodeNeedBlock, o.named(0, bad))
	known := do[*wire.Known](t, h, o.next(), &wire.Query{Disk: o.disk, IDs: []pipe.ID{keyedID(o.key, good), keyedID(o.key, bad)}})
	require.Equal(t, []byte{0}, known.Bits)

	do[*wire.Placed](t, h, o.next(), o.block(0, good))
	do[*wire.Placed](t, h, o.next(), o.named(testBlock, good))
	id := o.commit(t)
	requireSame(t, p.repo, id, pipetest.Bytes(bytes.Repeat(good, 2)))
}

// What is no block of the disk, and what is all zeros, is refused.
func TestPutThatIsNoBlock(t *testing.T) {
	t.Parallel()
	h := newPlace(t, nil).session("web", trust.Append, nil)
	o := newPoint(t, h, "vm1", 2*testBlock+512)
	data := chacha(1, testBlock)
	for name, change := range map[string]func(m *wire.Put){
		"between blocks": func(m *wire.Put) { m.Off = 512 },
		"behind the end": func(m *wire.Put) { m.Off = 3 * testBlock },
		"far behind":     func(m *wire.Put) { m.Off = 1 << 62 },
		"past the end":   func(m *wire.Put) { m.Off = 2 * testBlock },
		"too short":      func(m *wire.Put) { m.Data, m.Plain = m.Data[:512], 512 },
		"zeros":          func(m *wire.Put) { *m = *o.block(0, make([]byte, testBlock)) },
	} {
		m := o.block(0, data)
		change(m)
		require.NotNil(t, fails(t, h, o.next(), wire.CodeInvalid, m), name)
	}
	for name, change := range map[string]func(m *wire.Put){
		"other length":  func(m *wire.Put) { m.Data = m.Data[:100] },
		"other codec":   func(m *wire.Put) { m.Codec = pipe.Zstd },
		"another codec": func(m *wire.Put) { m.Codec = pipe.S2 },
		"no codec":      func(m *wire.Put) { m.Codec = 9 },
	} {
		m := o.block(0, data)
		change(m)
		require.NotNil(t, fails(t, h, o.next(), wire.CodeMismatch, m), name)
	}
	other := o.block(0, data)
	other.Disk = 99
	fails(t, h, o.next(), wire.CodeClosed, other)
	// A hole in what was said of the disk is no disk.
	_, err := h.Handle(t.Context(), o.next(), &wire.SealDisk{Disk: o.disk})
	require.Error(t, err)
}

// Of two tenants with the same blocks neither hears of the other's: not by a question, not by naming them, not by what a
// Put, a writer or a point is said to have cost. In the repository they stand once.
func TestTenantsAreApart(t *testing.T) {
	t.Parallel()
	p := newPlace(t, nil)
	img := pipetest.Bytes(chacha(1, 8*testBlock))
	first := p.client("one", trust.Append)
	mustBackup(t, first, "vm", img, nil)
	before := stored(t, p)

	h := p.session("two", trust.Append, nil)
	o := newPoint(t, h, "vm", 8*testBlock)
	require.NotEqual(t, p.session("one", trust.Append, nil).tenant.key, o.key)
	blocks := make([][]byte, 8)
	var ids []pipe.ID
	for i := range blocks {
		blocks[i] = make([]byte, testBlock)
		_, err := img.ReadAt(t.Context(), blocks[i], int64(i)*testBlock)
		require.NoError(t, err)
		ids = append(ids, keyedID(o.key, blocks[i]))
	}
	ask := &wire.Query{Disk: o.disk, IDs: ids}
	require.Equal(t, []byte{0}, do[*wire.Known](t, h, o.next(), ask).Bits)
	for i, b := range blocks {
		off := int64(i) * testBlock
		fails(t, h, o.next(), wire.CodeNeedBlock, o.named(off, b))
		require.Equal(t, &wire.Placed{Stored: testBlock}, do[*wire.Placed](t, h, o.next(), o.block(off, b)))
	}
	require.Equal(t, []byte{0xff}, do[*wire.Known](t, h, o.next(), ask).Bits, "its own it knows")
	require.Equal(t, &wire.UsageIs{Stored: 8 * testBlock}, do[*wire.UsageIs](t, h, o.next(), &wire.Usage{Writer: o.writer}))
	id := o.commit(t)
	requireSame(t, p.repo, id, img)
	require.Equal(t, before, stored(t, p), "the same blocks were stored twice")

	// The ids of one are nothing to the other, even with the blocks at hand.
	list := do[*wire.PointList](t, h, o.next(), &wire.Points{})
	require.Len(t, list.Points, 1)
	require.Zero(t, list.Points[0].New)

	// A full peer is told what it cost.
	fh := p.session("full", trust.Full, nil)
	fo := newPoint(t, fh, "vm", testBlock)
	require.Equal(t, &wire.Placed{Deduplicated: testBlock}, do[*wire.Placed](t, fh, 5, fo.block(0, blocks[0])))
}

// stored is how many blocks the repository holds.
func stored(t testing.TB, p *place) int64 {
	s, err := p.repo.Stats(t.Context())
	require.NoError(t, err)
	return int64(s.Blocks)
}

// What is known outlives the session and the process, and what the backend has lost is not known.
func TestKnownIsAskedOfTheBackend(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	img := chacha(1, 4*testBlock)
	r := newRepo(t)
	hs, err := newHost(&ServerOptions{Backend: r, StateDir: dir}, uncared{})
	require.NoError(t, err)
	h, err := newHandler(t.Context(), hs, trust.Peer{Name: "web", Role: trust.Append}, func(wire.Message) {})
	require.NoError(t, err)
	o := newPoint(t, h, "vm", 4*testBlock)
	for i := range 4 {
		do[*wire.Placed](t, h, o.next(), o.block(int64(i)*testBlock, img[i*testBlock:][:testBlock]))
	}
	o.commit(t)
	require.NoError(t, h.Close())
	require.NoError(t, hs.close())

	for name, want := range map[string]byte{"same": 0xf0, "another": 0} {
		b := pipe.Backend(r)
		if name == "another" {
			b = newRepo(t)
		}
		hs, err := newHost(&ServerOptions{Backend: b, StateDir: dir}, uncared{})
		require.NoError(t, err)
		h, err := newHandler(t.Context(), hs, trust.Peer{Name: "web", Role: trust.Append}, func(wire.Message) {})
		require.NoError(t, err)
		again := newPoint(t, h, "vm", 4*testBlock)
		require.Equal(t, o.key, again.key)
		var ids []pipe.ID
		for i := range 4 {
			ids = append(ids, keyedID(again.key, img[i*testBlock:][:testBlock]))
		}
		require.Equal(t, []byte{want}, do[*wire.Known](t, h, 4, &wire.Query{Disk: again.disk, IDs: ids}).Bits, name)
		if name == "another" {
			fails(t, h, 5, wire.CodeNeedBlock, again.named(0, img[:testBlock]))
			do[*wire.Placed](t, h, 6, again.block(0, img[:testBlock]))
			do[*wire.Placed](t, h, 7, again.named(testBlock, img[:testBlock]))
		}
		require.NoError(t, h.Close())
		require.NoError(t, hs.close())
	}
}

// Bar 17: a bit that turns over in the target's memory, anywhere in a Put, is found before the block is acknowledged; one
// in its offset, which may name another place of the disk, when the disk is sealed, for the right place is then missing.
// No point holds a wrong byte. 10,000 in the long tier.
func TestBitFlips(t *testing.T) {
	t.Parallel()
	flips := 300
	if longTier() {
		flips = 10_000
	}
	p := newPlace(t, nil)
	d := newDirect(p.session("web", trust.Append, nil))
	const blocks = 16
	r := rand.New(rand.NewPCG(17, 17))
	found, late, meaningless := 0, 0, 0
	for round := uint64(0); found+late < flips; round++ {
		content := chacha(round, blocks*testBlock)
		for i := range content { // half of it compresses
			if i/testBlock%2 == 1 {
				content[i] &= 3
			}
		}
		enc, err := pipe.NewEncoder([]pipe.Compression{pipe.Fast, pipe.Default}[round%2], testBlock)
		require.NoError(t, err)
		d.calls.Store(d.calls.Load() + 2)
		o := newPointAt(t, d.h, d.calls.Load()-1, fmt.Sprint("vm", round), blocks*testBlock)
		misplaced := false
		for i := 0; i < blocks && !misplaced; i++ {
			m := o.block(int64(i)*testBlock, content[i*testBlock:][:testBlock])
			m.Data, m.Codec = enc.Encode(nil, m.Data)
			for range flips / blocks / 4 {
				offset, same := false, false
				d.spoil = func(frame []byte) {
					at := 8*wire.HeaderSize + r.IntN(8*(len(frame)-wire.HeaderSize)) // the header is the session's
					if r.IntN(4) == 0 {                                              // most of a message is content
						at = 8*wire.HeaderSize + r.IntN(8*64)
					}
					offset = at/8 >= wire.HeaderSize+4 && at/8 < wire.HeaderSize+12
					frame[at/8] ^= 1 << (at % 8)
					// A format has bits that say nothing, such as one in the header of each zstd frame (RFC 8878, 3.1.1.1.1.3).
					same = m.Codec != pipe.Plain && at/8 >= len(frame)-len(m.Data) && decodesTo(frame[len(frame)-len(m.Data):], m, content[i*testBlock:])
				}
				if _, _, err := d.CallNumbered(t.Context(), m); err != nil {
					require.False(t, same)
					found++
				} else if same {
					meaningless++
				} else {
					require.True(t, offset, "a message that was changed was taken")
					misplaced = true
					break
				}
			}
			d.spoil = nil
			if !misplaced {
				_, _, err := d.CallNumbered(t.Context(), m)
				require.NoError(t, err, "the block as it is must be taken")
			} else {
				for k := i + 1; k < blocks; k++ { // the sender goes on: it was told that this one was placed
					_, _, err := d.CallNumbered(t.Context(), o.block(int64(k)*testBlock, content[k*testBlock:][:testBlock]))
					require.NoError(t, err)
				}
			}
		}
		o.call = d.calls.Load() + 1
		d.calls.Store(o.call + 2)
		if misplaced {
			_, err := d.h.Handle(t.Context(), o.next(), &wire.SealDisk{Disk: o.disk})
			require.Error(t, err, "a disk with a block in the wrong place was sealed")
			do[*wire.OK](t, d.h, o.next(), &wire.DropPoint{Writer: o.writer})
			late++
			continue
		}
		requireSame(t, p.repo, o.commit(t), pipetest.Bytes(content))
	}
	t.Logf("%d flips found at once, %d when the disk was sealed; %d changed no byte", found, late, meaningless)
	require.True(t, late > 0 || !longTier())
}

// decodesTo reports whether data is the block all the same.
func decodesTo(data []byte, m *wire.Put, want []byte) bool {
	got, err := pipe.Decode(nil, data, m.Codec, int(m.Plain))
	return err == nil && bytes.Equal(got, want[:m.Plain])
}

// Flips behind the check, on the way into the backend: the backend finds them, and the failure is a mismatch.
func TestBitFlipsBehindTheCheck(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	for nth := int64(1); nth <= 8; nth++ {
		b := pipetest.HookBackend(r, pipetest.FlipBlock(nth))
		hs := newHostFor(t, b, unobserved{})
		h, err := newHandler(t.Context(), hs, trust.Peer{Name: "web", Role: trust.Append}, func(wire.Message) {})
		require.NoError(t, err)
		o := newPoint(t, h, fmt.Sprint("vm", nth), 8*testBlock)
		content := chacha(uint64(nth)+100, 8*testBlock)
		failed := 0
		for i := range 8 {
			m := o.block(int64(i)*testBlock, content[i*testBlock:][:testBlock])
			_, err := h.Handle(t.Context(), o.next(), m)
			if f, ok := errors.AsType[*wire.Fail](err); ok {
				require.Equal(t, wire.CodeMismatch, f.Code)
				failed++
				_, err = h.Handle(t.Context(), o.next(), m)
			}
			require.NoError(t, err)
		}
		require.Equal(t, 1, failed)
		requireSame(t, r, o.commit(t), pipetest.Bytes(content))
		require.NoError(t, h.Close())
	}
}

// The same block by many sessions of one peer at once is stored once and right.
func TestSameBlockAtOnce(t *testing.T) {
	t.Parallel()
	p := newPlace(t, nil)
	img := pipetest.Bytes(chacha(9, 16*testBlock))
	var wg sync.WaitGroup
	ids := make([]string, 6)
	for i := range ids {
		c := p.client("web", trust.Append)
		wg.Go(func() {
			id, err := backup(context.Background(), c, fmt.Sprint("vm", i), img, nil)
			if err != nil {
				t.Error(err)
			}
			ids[i] = id
		})
	}
	wg.Wait()
	for _, id := range ids {
		requireSame(t, p.repo, id, img)
	}
	require.EqualValues(t, 16, p.session("web", trust.Append, nil).tenant.known.size())
}
