package wire_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"reflect"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// guarded is a stream that must not be read beyond its header.
type guarded struct {
	header io.Reader
	t      *testing.T
}

func (g guarded) Read(p []byte) (int, error) {
	n, err := g.header.Read(p)
	if err == io.EOF {
		g.t.Error("the payload was read")
	}
	return n, err
}

// TestHeadersRefused: a header that cannot be right is refused before a byte of the payload is read (row "Frames" of the
// catalogue of hostile input: 2^31 bytes, unknown kinds).
func TestHeadersRefused(t *testing.T) {
	t.Parallel()
	header := func(n uint32, kind wire.Kind, reserved [3]byte, call uint64) []byte {
		b := append(binary.BigEndian.AppendUint32(nil, n), byte(kind))
		return binary.BigEndian.AppendUint64(append(b, reserved[:]...), call)
	}
	refuse := func(b []byte, why string) {
		t.Helper()
		r := wire.NewReader(guarded{bytes.NewReader(b), t})
		_, err := r.Read()
		require.ErrorIs(t, err, wire.ErrMalformed, "%x", b)
		require.ErrorContains(t, err, why)
	}
	known := map[wire.Kind]bool{}
	for _, k := range wire.Kinds() {
		known[k] = true
		for _, n := range []uint32{uint32(wire.Bound(k)) + 1, 1 << 31, 1<<31 - 1, math.MaxUint32} {
			refuse(header(n, k, [3]byte{}, callOf(k)), fmt.Sprintf("%v of %d bytes, at most %d", k, n, wire.Bound(k)))
		}
		for i := range 3 {
			var reserved [3]byte
			reserved[i] = 1
			refuse(header(0, k, reserved, callOf(k)), "reserved")
		}
		refuse(header(0, k, [3]byte{}, map[bool]uint64{true: 0, false: 1}[k.InCall()]), "call")
		_, err := wire.Decode(k, make([]byte, wire.Bound(k)+1))
		require.ErrorIs(t, err, wire.ErrMalformed)
	}
	for k := range 256 {
		if !known[wire.Kind(k)] {
			refuse(header(0, wire.Kind(k), [3]byte{}, 1), "unknown kind")
			_, err := wire.Decode(wire.Kind(k), nil)
			require.ErrorIs(t, err, wire.ErrMalformed)
		}
	}
}

// TestOtherVersions: a Hello of any other version is read as far as its number, so that it can be refused by CodeVersion.
func TestOtherVersions(t *testing.T) {
	t.Parallel()
	hello := binary.BigEndian.AppendUint64(nil, wire.Magic)
	for _, version := range []uint16{0, 2, math.MaxUint16} {
		for _, rest := range []string{"", "x", "something that version 9 says in its own way"} {
			payload := append(binary.BigEndian.AppendUint16(bytes.Clone(hello), version), rest...)
			m, err := wire.Decode(wire.KindHello, payload)
			require.NoError(t, err)
			require.Equal(t, version, m.(*wire.Hello).Version)
			require.Equal(t, payload, written(t, m))
		}
	}
	_, err := wire.Decode(wire.KindHello, append(hello, 0, 1))
	require.ErrorIs(t, err, wire.ErrMalformed)
	_, err = wire.Decode(wire.KindHello, []byte("GET / HTTP/1.1\r\nHost: example\r\n"))
	require.ErrorContains(t, err, "does not begin as a mover does")
}

// allocated is how many bytes f takes, garbage included.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// memory is what decoding n bytes may allocate. A point's maps take more room than their bytes, and only a target that
// the caller has pinned sends points.
func memory(k wire.Kind, n int) uint64 {
	if k == wire.KindPointList {
		return uint64(18*n + 64<<10)
	}
	return uint64(4*n + 64<<10)
}

// TestHostileCounts: a count that the bytes behind it cannot hold is refused before anything is made for it; elements that
// are as small as they can be cost little. Not parallel: it measures.
func TestHostileCounts(t *testing.T) {
	b := protocol(t)
	tried := 0
	for _, k := range wire.Kinds() {
		decode := func(payload []byte, good bool) {
			t.Helper()
			tried++
			var err error
			used := allocated(func() { _, err = wire.Decode(k, payload) })
			require.LessOrEqual(t, used, memory(k, len(payload)), "%v of %d bytes", k, len(payload))
			require.Equal(t, good, err == nil, "%v: %v", k, err)
		}
		// Every count alone, as large as can be, with the message that goes with a small one.
		b.payload(full(t, b, k), func(f field, _ reflect.Value) []byte {
			if f.name[len(f.name)-1] == '#' {
				decode(b.payload(full(t, b, k), func(at field, _ reflect.Value) []byte {
					return map[bool][]byte{true: {0xff, 0xff}}[at.String() == f.String()]
				}), false)
				decode(b.payload(full(t, b, k), func(at field, _ reflect.Value) []byte {
					return map[bool][]byte{true: binary.BigEndian.AppendUint16(nil, uint16(f.max[0]))}[at.String() == f.String()]
				}), false)
			}
			return nil
		})
		// A payload as long as can be, of zeros and of ones.
		zeros := make([]byte, wire.Bound(k))
		used := allocated(func() { _, _ = wire.Decode(k, zeros) })
		require.LessOrEqual(t, used, memory(k, 0), "%v", k)
		used = allocated(func() { _, _ = wire.Decode(k, bytes.Repeat([]byte{0xff}, wire.Bound(k))) })
		require.LessOrEqual(t, used, memory(k, wire.Bound(k)), "%v", k)
	}
	require.Greater(t, tried, 15)
}

// TestDenseMessages: messages whose elements are many and as small as they can be.
func TestDenseMessages(t *testing.T) {
	short := func(i int) string { return string(rune(i)) }
	table := map[string]string{}
	for i := range wire.MaxFacts {
		table[short(i)] = ""
	}
	disks := make([]wire.PointDisk, wire.MaxDisks)
	for i := range disks {
		disks[i].Absent = map[string]uint64{"": 0}
	}
	points := func(p wire.Point) wire.Message {
		m := &wire.PointList{}
		for range wire.MaxPoints {
			m.Points = append(m.Points, p)
		}
		return m
	}
	for name, m := range map[string]wire.Message{
		"facts":    &wire.Begin{Facts: table},
		"tracking": &wire.Commit{Tracking: table},
		"collect":  &wire.Collect{Disks: make([]wire.CollectDisk, wire.MaxDisks), ExcludeFiles: make([]string, wire.MaxPatterns)},
		"images":   &wire.ImageList{Images: make([]wire.NamedImage, wire.MaxDisks)},
		"names":    &wire.StoreNames{Names: make([]wire.StoreName, wire.MaxExtents)},
		"points":   points(wire.Point{}),
		"absent":   points(wire.Point{Disks: disks}),
		"blobs":    points(wire.Point{Blobs: make([]wire.PointBlob, wire.MaxBlobs)}),
		"tables":   points(wire.Point{Tracking: table, Facts: table}),
	} {
		payload := written(t, m)
		var got wire.Message
		var err error
		used := allocated(func() { got, err = wire.Decode(m.Kind(), payload) })
		require.NoError(t, err, name)
		require.Equal(t, string(payload), string(written(t, got)), name)
		require.LessOrEqual(t, used, memory(m.Kind(), len(payload)), "%s: %d bytes for %d", name, used, len(payload))
		t.Logf("%s: %d bytes for %d, %.1f times", name, used, len(payload), float64(used)/float64(len(payload)))
	}
}

// TestAnnouncedIsNotTaken: a frame of 5 MiB that never comes takes memory for what has come of it.
func TestAnnouncedIsNotTaken(t *testing.T) {
	whole := frame(wire.KindWrite, 1, make([]byte, wire.Bound(wire.KindWrite)))
	for _, n := range []int{wire.HeaderSize, 1000, 64 << 10, 200 << 10, 1 << 20, 3 << 20} {
		var err error
		used := allocated(func() { _, err = wire.NewReader(bytes.NewReader(whole[:n])).Read() })
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.LessOrEqual(t, used, uint64(6*n+192<<10), "%d bytes have come", n)
	}
}

// TestReaderReuses: memory is used again unless it is taken, and content that was taken stays as it was.
func TestReaderReuses(t *testing.T) {
	put := func(fill byte, n int) []byte {
		m := &wire.Put{Content: true, Data: bytes.Repeat([]byte{fill}, n)}
		b, err := wire.Append(nil, wire.Frame{Call: 1, Message: m})
		require.NoError(t, err)
		return b
	}
	const block = 256 << 10
	var stream []byte
	for i := range 8 {
		stream = append(stream, put(byte(i), block)...)
	}
	r := wire.NewReader(bytes.NewReader(stream))
	next := func() []byte {
		f, err := r.Read()
		require.NoError(t, err)
		return f.Message.(*wire.Put).Data
	}
	first := next()
	second := next()
	require.Equal(t, &first[0], &second[0], "not taken: the memory is used again")
	r.Take()
	third := next()
	require.Equal(t, bytes.Repeat([]byte{1}, block), second)
	require.Equal(t, bytes.Repeat([]byte{2}, block), third)
	require.Equal(t, len(third), cap(third), "appending to content touches nothing else")
	used := allocated(func() { next(); next() })
	require.Less(t, used, uint64(16<<10), "memory that was not taken is enough for frames of the same length")
	r.Take()
	used = allocated(func() { next() })
	require.Less(t, used, uint64(block+64<<10), "a length that came whole before is made room for at once")
}

// TestWritingChangesNothing: one message may be written to two lanes at once; the race detector looks on.
func TestWritingChangesNothing(t *testing.T) {
	t.Parallel()
	b := protocol(t)
	for _, k := range wire.Kinds() {
		m := full(t, b, k)
		done := make(chan []byte)
		for range 2 {
			go func() {
				got, _ := wire.Append(nil, wire.Frame{Call: callOf(k), Message: m})
				done <- got
			}()
		}
		require.Equal(t, <-done, <-done)
		require.Equal(t, full(t, b, k), m)
	}
}
