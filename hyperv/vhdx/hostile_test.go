package vhdx_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
)

var le, be = binary.LittleEndian, binary.BigEndian

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal puts the checksum of a VHDX structure right.
func seal(b []byte) {
	le.PutUint32(b[4:], 0)
	le.PutUint32(b[4:], crc32.Checksum(b, castagnoli))
}

// The places in files that Create makes.
const (
	atHeader0, atHeader1, headerLen = 64 << 10, 128 << 10, 4096
	atRegions0, atRegions1          = 192 << 10, 256 << 10
	regionsLen                      = 64 << 10
	atLog, atMeta, atBAT            = 1 << 20, 2 << 20, 3 << 20
)

// sample is a small VHDX with some data, or one whose log is in use.
func sample(t testing.TB, dirty bool) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sample.vhdx")
	r := rand.New(rand.NewPCG(1, 1))
	create(t, path, 3<<20, &vhdx.CreateOptions{BlockSize: 1 << 20}, func(w pipe.ExtentTarget) { put(t, w, noise(r, 5000), 1<<20) })
	if dirty {
		d, err := vhdx.OpenDisk(t.Context(), path, nil)
		require.NoError(t, err)
		put(t, d, noise(r, 5000), 2<<20)
		require.NoError(t, d.Flush(t.Context()))
		require.NoError(t, d.Close())
	}
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return b
}

func fromBytes(b []byte) pipe.Image { return pipe.FromReaderAt(bytes.NewReader(b), int64(len(b))) }

// requireKnown: an error that callers can act on.
func requireKnown(t testing.TB, err error) {
	t.Helper()
	var (
		corrupt     *vhdx.CorruptError
		unsupported *vhdx.UnsupportedError
		parent      *vhdx.ParentError
	)
	if !errors.As(err, &corrupt) && !errors.As(err, &unsupported) && !errors.As(err, &parent) {
		t.Fatalf("an error of no known type: %T %v", err, err)
	}
}

// readSome opens bytes as a disk and reads of it what can be read in bounded time.
func readSome(t testing.TB, b []byte) error {
	t.Helper()
	img, err := vhdx.New(t.Context(), fromBytes(b), nil)
	if err != nil {
		return err
	}
	at, count := int64(0), 0
	p := make([]byte, 4096)
	for e, err := range img.Extents(t.Context(), 0, img.Size()) {
		if err != nil {
			return err
		}
		require.Equal(t, at, e.Off)
		require.Positive(t, e.Len)
		if at = e.End(); count < 50 {
			q := p[:min(e.Len, int64(len(p)))]
			if _, err := img.ReadAt(t.Context(), q, e.Off); err != nil {
				return err
			}
			if e.Kind == pipe.Zero {
				require.Zero(t, len(bytes.TrimLeft(q, "\x00")))
			}
		}
		if count++; count > 1000 {
			return nil
		}
	}
	require.Equal(t, img.Size(), at)
	return nil
}

// bounded runs read and holds it to 1 s and 128 MiB. The time is not held under load: the deadline is generous and what
// takes long takes minutes.
func bounded(t testing.TB, read func() error) error {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	err := read()
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	require.Less(t, took, 8*time.Second)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(128<<20), "memory")
	return err
}

// RELIABILITY 1.6: files that were made to deceive.
func TestHostile(t *testing.T) {
	header := func(b []byte, change func([]byte)) {
		for _, at := range []int{atHeader0, atHeader1} {
			h := b[at : at+headerLen]
			change(h)
			seal(h)
		}
	}
	regions := func(b []byte, change func([]byte)) {
		for _, at := range []int{atRegions0, atRegions1} {
			r := b[at : at+regionsLen]
			change(r)
			seal(r)
		}
	}
	item := func(b []byte, n int) []byte { // the content of the nth metadata item
		return b[atMeta+int(le.Uint32(b[atMeta+32+32*n+16:])):]
	}
	for name, change := range map[string]func([]byte){
		"both headers bad": func(b []byte) { b[atHeader0+20]++; b[atHeader1+20]++ },
		"headers of equal number": func(b []byte) {
			header(b, func(h []byte) { le.PutUint64(h[8:], 7) })
			b[atHeader0+16]++
			seal(b[atHeader0:][:headerLen])
		},
		"version 2":                func(b []byte) { header(b, func(h []byte) { h[66] = 2 }) },
		"log nowhere":              func(b []byte) { header(b, func(h []byte) { h[48] = 1; le.PutUint64(h[72:], 1<<60) }) },
		"log at 0":                 func(b []byte) { header(b, func(h []byte) { h[48] = 1; le.PutUint64(h[72:], 0) }) },
		"log of 4 GiB":             func(b []byte) { header(b, func(h []byte) { h[48] = 1; le.PutUint32(h[68:], 0xfff00000) }) },
		"log in use and empty":     func(b []byte) { header(b, func(h []byte) { h[48] = 1; h[49] = 99 }) },
		"no regions":               func(b []byte) { regions(b, func(r []byte) { le.PutUint32(r[8:], 0) }) },
		"2^32 regions":             func(b []byte) { regions(b, func(r []byte) { le.PutUint32(r[8:], 1<<32-1) }) },
		"regions on each other":    func(b []byte) { regions(b, func(r []byte) { copy(r[16+16:16+28], r[48+16:48+28]) }) },
		"region beyond the end":    func(b []byte) { regions(b, func(r []byte) { le.PutUint64(r[16+16:], 1<<40) }) },
		"unknown required region":  func(b []byte) { regions(b, func(r []byte) { r[16]++ }) },
		"regions without checksum": func(b []byte) { b[atRegions0+100]++; b[atRegions1+100]++ },
		"block size 0":             func(b []byte) { le.PutUint32(item(b, 0), 0) },
		"block size 2^31":          func(b []byte) { le.PutUint32(item(b, 0), 1<<31) },
		"block size 2^32-1":        func(b []byte) { le.PutUint32(item(b, 0), 1<<32-1) },
		"block size 3 MiB":         func(b []byte) { le.PutUint32(item(b, 0), 3<<20) },
		"disk of 2^63":             func(b []byte) { le.PutUint64(item(b, 1), 1<<63) },
		"disk of nothing":          func(b []byte) { le.PutUint64(item(b, 1), 0) },
		"disk beyond its table":    func(b []byte) { le.PutUint64(item(b, 1), 60<<40) },
		"half a sector":            func(b []byte) { le.PutUint64(item(b, 1), 1<<20+256) },
		"sector of 0":              func(b []byte) { le.PutUint32(item(b, 3), 0) },
		"unknown required item":    func(b []byte) { b[atMeta+32]++ },
		"item outside":             func(b []byte) { le.PutUint32(b[atMeta+32+16:], 1<<32-1) },
		"item of 4 GiB":            func(b []byte) { le.PutUint32(b[atMeta+32+20:], 1<<32-1) },
		"2^16 items":               func(b []byte) { le.PutUint16(b[atMeta+10:], 1<<16-1) },
		"parent without locator":   func(b []byte) { item(b, 0)[4] = 2 },
		"block beyond the end":     func(b []byte) { le.PutUint64(b[atBAT+8:], 1<<44|6) },
		"block on the metadata":    func(b []byte) { le.PutUint64(b[atBAT+8:], atMeta|6) },
		"block on the header":      func(b []byte) { le.PutUint64(b[atBAT+8:], 6) },
		"block on its own table":   func(b []byte) { le.PutUint64(b[atBAT+8:], atBAT|6) },
		"block of state 5":         func(b []byte) { le.PutUint64(b[atBAT+8:], 5<<20|5) },
		"part of no parent":        func(b []byte) { le.PutUint64(b[atBAT+8:], 4<<20|7) },
	} {
		t.Run(name, func(t *testing.T) {
			b := sample(t, false)
			require.NoError(t, readSome(t, b))
			change(b)
			err := bounded(t, func() error { return readSome(t, b) })
			require.Error(t, err)
			requireKnown(t, err)
		})
	}
}

// A log as large as is taken, made to cost as much as can be.
func TestHostileLog(t *testing.T) {
	base := sample(t, false)
	id := vhdx.NewGUID()
	grow := func(logLen int) []byte {
		b := append(bytes.Clone(base), make([]byte, logLen)...)
		for _, at := range []int{atHeader0, atHeader1} {
			h := b[at : at+headerLen]
			copy(h[48:], id[:])
			le.PutUint32(h[68:], uint32(logLen))
			le.PutUint64(h[72:], uint64(len(base)))
			seal(h)
		}
		return b
	}
	entry := func(b []byte, length int, descs uint32) {
		copy(b, "loge")
		le.PutUint32(b[8:], uint32(length))
		le.PutUint64(b[16:], 1)
		le.PutUint32(b[24:], descs)
		copy(b[32:], id[:])
	}
	const logLen = 8 << 20
	t.Run("every sector an entry of the whole log", func(t *testing.T) {
		b := grow(logLen)
		for at := 0; at < logLen; at += 4096 {
			entry(b[len(base)+at:], logLen, 0)
		}
		err := bounded(t, func() error { return readSome(t, b) })
		requireKnown(t, err)
	})
	t.Run("as many descriptors as there is room", func(t *testing.T) {
		b := grow(logLen)
		log := b[len(base):]
		n := (logLen - 64) / 32
		entry(log, logLen, uint32(n))
		r := rand.New(rand.NewPCG(1, 2))
		for i := range n {
			d := log[64+32*i:]
			copy(d, "zero")
			le.PutUint64(d[8:], uint64(1+r.IntN(1000))<<12)
			le.PutUint64(d[16:], uint64(1<<20+r.Uint32N(1<<20))<<12)
			le.PutUint64(d[24:], 1)
		}
		le.PutUint64(log[48:], uint64(len(base)))
		seal(log)
		require.NoError(t, bounded(t, func() error { return readSome(t, b) }))
	})
	for name, change := range map[string]func(log []byte){
		"over the headers":        func(l []byte) { le.PutUint64(l[64+16:], atHeader0) },
		"not aligned":             func(l []byte) { le.PutUint64(l[64+16:], 3<<20+1) },
		"far":                     func(l []byte) { le.PutUint64(l[64+16:], 1<<63) },
		"a huge range":            func(l []byte) { le.PutUint64(l[64+8:], 1<<63-4096) },
		"for a longer file":       func(l []byte) { le.PutUint64(l[48:], 1<<40) },
		"descriptors outside":     func(l []byte) { le.PutUint32(l[24:], 1<<32-1) },
		"an entry of 0 bytes":     func(l []byte) { le.PutUint32(l[8:], 0) },
		"longer than the log":     func(l []byte) { le.PutUint32(l[8:], 1<<31) },
		"tail outside of the log": func(l []byte) { le.PutUint32(l[12:], 1<<31) },
		"tail at another entry":   func(l []byte) { le.PutUint32(l[12:], 4096) },
		"number 0":                func(l []byte) { le.PutUint64(l[16:], 0); le.PutUint64(l[64+24:], 0) },
	} {
		t.Run(name, func(t *testing.T) {
			b := grow(1 << 20)
			log := b[len(base):]
			entry(log, 4096, 1)
			copy(log[64:], "zero")
			le.PutUint64(log[64+8:], 4096)
			le.PutUint64(log[64+16:], 3<<20)
			le.PutUint64(log[64+24:], 1)
			seal(log[:4096])
			require.NoError(t, readSome(t, b), "a good log")
			change(log)
			seal(log[:4096])
			err := bounded(t, func() error { return readSome(t, b) })
			require.Error(t, err)
			requireKnown(t, err)
		})
	}
}

// A file that ends early opens only if nothing of it is missing: every length of the tables, and around each MiB.
func TestTruncated(t *testing.T) {
	for _, dirty := range []bool{false, true} {
		b := sample(t, dirty)
		want := make([]byte, 3<<20)
		img, err := vhdx.New(t.Context(), fromBytes(b), nil)
		require.NoError(t, err)
		_, err = img.ReadAt(t.Context(), want, 0)
		require.NoError(t, err)
		got := make([]byte, len(want))
		for n := 0; n < len(b); n += 4093 {
			short, err := vhdx.New(t.Context(), fromBytes(b[:n]), nil)
			if err == nil {
				_, err = short.ReadAt(t.Context(), got, 0)
			}
			require.Error(t, err, "%d of %d bytes", n, len(b))
			requireKnown(t, err)
		}
	}
}

// Torn entries at the log's end are passed by; a damaged one that is needed is an error. The newest whole one counts.
func TestLogTorn(t *testing.T) {
	b := sample(t, true)
	require.NoError(t, readSome(t, b))
	log := b[atLog:]
	length := int(le.Uint32(log[8:]))
	require.Equal(t, "loge", string(log[:4]))
	torn := bytes.Clone(b)
	copy(torn[atLog+length:], log[:length-4096]) // another one follows that is not whole
	le.PutUint64(torn[atLog+length+16:], 2)
	img, err := vhdx.New(t.Context(), fromBytes(torn), nil)
	require.NoError(t, err)
	require.True(t, img.Info().LogReplayed)
	whole, err := vhdx.New(t.Context(), fromBytes(b), nil)
	require.NoError(t, err)
	p, q := make([]byte, 3<<20), make([]byte, 3<<20)
	_, err = img.ReadAt(t.Context(), p, 0)
	require.NoError(t, err)
	_, err = whole.ReadAt(t.Context(), q, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(p, q))

	wiped := bytes.Clone(b) // what the log replaces is not read from the file
	clear(wiped[atBAT : atBAT+4096])
	img, err = vhdx.New(t.Context(), fromBytes(wiped), nil)
	require.NoError(t, err)
	_, err = img.ReadAt(t.Context(), p, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(p, q))

	for _, at := range []int{10, 70, 5000, length - 1} {
		bad := bytes.Clone(b)
		bad[atLog+at] ^= 0x40
		requireKnown(t, readSome(t, bad))
	}
}
