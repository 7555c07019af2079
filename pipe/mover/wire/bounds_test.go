package wire_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// TestEveryTruncation: a message that ends early is refused, unless what is missing is a part of its content; and one
// byte too many is refused.
func TestEveryTruncation(t *testing.T) {
	t.Parallel()
	b := protocol(t)
	for _, k := range wire.Kinds() {
		fields := b.shapes[k.String()].fields
		open := len(fields) > 0 && fields[len(fields)-1].kind == "rest"
		payload := written(t, full(t, b, k))
		for n := range payload {
			m, err := wire.Decode(k, payload[:n])
			if err == nil {
				require.True(t, open, "%v of %d bytes", k, n)
				require.Equal(t, string(payload[:n]), string(written(t, m)))
				continue
			}
			require.ErrorIs(t, err, wire.ErrMalformed, "%v of %d bytes", k, n)
		}
		if !open {
			_, err := wire.Decode(k, append(payload, 0))
			require.ErrorIs(t, err, wire.ErrMalformed, "%v and a byte", k)
		}
	}
}

// TestTruncatedStream: a stream that ends within a frame is told from one that ends between two.
func TestTruncatedStream(t *testing.T) {
	t.Parallel()
	b := protocol(t)
	for _, k := range wire.Kinds() {
		one := frame(k, callOf(k), written(t, full(t, b, k)))
		for n := range one {
			r := wire.NewReader(bytes.NewReader(append(bytes.Clone(one), one[:n]...)))
			f, err := r.Read()
			require.NoError(t, err, "%v", k)
			require.Equal(t, wire.Frame{Call: callOf(k), Message: full(t, b, k)}, f)
			_, err = r.Read()
			if n == 0 {
				require.Equal(t, io.EOF, err)
			} else {
				require.ErrorIs(t, err, io.ErrUnexpectedEOF, "%v after %d bytes", k, n)
			}
		}
	}
}

// raw is what stands in a field's place, and whether it is to be read.
type raw struct {
	bytes []byte
	good  bool
}

// edges are the bytes at a field's bounds, just beyond them, and other things that it cannot hold.
func edges(f field) (out []raw) {
	u16 := func(n int64) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }
	u64 := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	limit := uint64(math.MaxUint64)
	if len(f.max) > 0 {
		limit = uint64(f.max[0])
	}
	around := func(size int, low, high uint64) {
		cut := func(n uint64) []byte { return u64(n)[8-size:] }
		out = append(out, raw{cut(low), true}, raw{cut(high), true})
		if low > 0 {
			out = append(out, raw{cut(low - 1), false})
		}
		if high < math.MaxUint64>>(64-8*size) {
			out = append(out, raw{cut(high + 1), false}, raw{cut(math.MaxUint64), false})
		}
	}
	switch f.kind {
	case "u8":
		around(1, uint64(f.min), min(limit, math.MaxUint8))
	case "u16":
		around(2, uint64(f.min), min(limit, math.MaxUint16))
	case "code":
		around(2, 1, 23)
	case "u32":
		around(4, 0, min(limit, math.MaxUint32))
	case "u64", "time":
		around(8, 0, limit)
	case "size":
		around(8, 0, min(limit, 1<<62))
	case "room":
		around(8, 0, math.MaxInt64)
	case "flag":
		around(1, 0, 1)
	case "text", "prose":
		n := f.max[0]
		text := func(n int64, s string) []byte { return append(u16(n), s...) }
		long := strings.Repeat("t", int(n))
		out = append(out, raw{text(n, long), true}, raw{text(n+1, long+"t"), false}, raw{text(0xffff, long), false},
			raw{text(1, "\xff"), false}, raw{text(2, "a\x80"), false}, raw{text(3, "\xed\xa0\x80"), false}, raw{text(2, "\xc0\x80"), false})
	case "rest":
		out = append(out, raw{make([]byte, limit), true}, raw{make([]byte, limit+1), false})
	case "table", "amounts":
		out = tableEdges(f)
	}
	return out
}

// tableEdges are tables that are full, out of order, and that hold a key twice.
func tableEdges(f field) (out []raw) {
	text := func(s string) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...) }
	value, long := text("v"), text
	if f.kind == "amounts" {
		value = make([]byte, 8)
		long = func(s string) []byte { return binary.BigEndian.AppendUint64(nil, 1<<62-1+min(1, uint64(len(s))-1)) }
		out = append(out, raw{bytes.Join([][]byte{{0, 1}, text("k"), binary.BigEndian.AppendUint64(nil, 1<<62+1)}, nil), false})
		f.max = append(f.max, 2)
	}
	table := func(n int, keys ...string) []byte {
		b := binary.BigEndian.AppendUint16(nil, uint16(n))
		for _, k := range keys {
			b = append(append(b, text(k)...), value...)
		}
		return b
	}
	keys := func(n int64) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprintf("%06d", i))
		}
		return out
	}
	most := int(f.max[0])
	one := func(key, value string) []byte { return bytes.Join([][]byte{{0, 1}, text(key), long(value)}, nil) }
	name, content := strings.Repeat("k", int(f.max[1])), strings.Repeat("v", int(f.max[2]))
	out = append(out,
		raw{table(0), true}, raw{table(2, "", "a"), true}, raw{table(2, "a", "é"), true},
		raw{table(most, keys(f.max[0])...), true}, raw{table(most+1, keys(f.max[0]+1)...), false}, raw{table(0xffff, "a"), false},
		raw{table(2, "b", "a"), false}, raw{table(2, "a", "a"), false}, raw{table(2, "", ""), false}, raw{table(1, "\xff"), false},
		raw{one(name, content), true}, raw{one(name+"k", content), false})
	if f.kind == "table" {
		out = append(out, raw{one(name, content+"v"), false}, raw{one("k", "\xff"), false})
	}
	return out
}

// agree makes the other fields of a message fit to a field at its bound.
func agree(m wire.Message, f field) wire.Message {
	switch m := m.(type) {
	case *wire.ReadImage:
		m.Off, m.Len = 0, 0
	case *wire.ReadBlob:
		m.Off, m.Len = 0, 0
	case *wire.StoreRead:
		m.Off, m.Len = 0, 0
	case *wire.ImageExtents:
		m.Off, m.Len = 0, 0
	case *wire.Put:
		m.Off, m.Plain = 0, 0
	case *wire.Write:
		m.Off, m.Plain = 0, 0
	case *wire.BlobPart:
		m.Off = 0
		if f.name == "Off" {
			m.Data = nil
		}
	case *wire.StorePart:
		m.Off = 0
		if f.name == "Off" {
			m.Data = nil
		}
	case *wire.Mark:
		m.Extent.Off, m.Extent.Len = 0, 0
	case *wire.Ack:
		if f.name == "Below" {
			m.Open = nil
		}
	}
	return m
}

// related are fields whose bounds are those of a whole message; TestRelated holds them.
func related(k wire.Kind, f field) bool {
	return k == wire.KindExtentList && f.name != "Kind" || f.String() == "Put.Content" || f.String() == "Ack.Open"
}

// TestEveryBound puts the bytes at each field's bound, and one beyond, into its place.
func TestEveryBound(t *testing.T) {
	t.Parallel()
	b := protocol(t)
	tried, refused := 0, 0
	for _, k := range wire.Kinds() {
		seen := map[string]bool{}
		b.payload(full(t, b, k), func(f field, _ reflect.Value) []byte {
			if seen[f.String()] || strings.HasSuffix(f.name, "#") || f.fixed != "" || related(k, f) {
				return nil
			}
			seen[f.String()] = true
			for i, edge := range edges(f) {
				done := false
				payload := b.payload(agree(full(t, b, k), f), func(at field, _ reflect.Value) []byte {
					if done || at.String() != f.String() {
						return nil
					}
					done = true
					return append([]byte{}, edge.bytes...)
				})
				m, err := wire.Decode(k, payload)
				if tried++; edge.good {
					require.NoError(t, err, "%v: edge %d: %.40x", f, i, edge.bytes)
					require.True(t, bytes.Equal(payload, written(t, m)), "%v: edge %d", f, i)
				} else {
					refused++
					require.ErrorIs(t, err, wire.ErrMalformed, "%v: edge %d: %.40x", f, i, edge.bytes)
				}
			}
			return nil
		})
	}
	require.Greater(t, tried, 500)
	require.Greater(t, refused, 250)
}

// TestEveryList: a full list is read, and one element more is refused by the writer as by the reader.
func TestEveryList(t *testing.T) {
	t.Parallel()
	b := protocol(t)
	lists := 0
	for _, k := range wire.Kinds() {
		for _, f := range b.shapes[k.String()].fields {
			if _, ok := f.part(); !ok {
				continue
			}
			lists++
			for _, n := range []int64{f.max[0], f.max[0] + 1} {
				m := wire.Empty(k)
				at := reflect.ValueOf(m).Elem().FieldByName(f.name)
				at.Set(reflect.MakeSlice(at.Type(), int(n), int(n)))
				follow(m)
				payload := b.payload(m, nil)
				got, err := wire.Decode(k, payload)
				_, wrong := wire.Append(nil, wire.Frame{Call: callOf(k), Message: m})
				if n > f.max[0] {
					require.ErrorIs(t, err, wire.ErrMalformed, "%v of %d", f, n)
					require.Error(t, wrong, "%v of %d", f, n)
					continue
				}
				require.NoError(t, err, "%v of %d", f, n)
				require.NoError(t, wrong, "%v of %d", f, n)
				require.Equal(t, string(payload), string(written(t, got)), "%v", f)
			}
		}
	}
	require.Equal(t, 8, lists)
}

// TestEveryInnerList: the same for the lists in a point.
func TestEveryInnerList(t *testing.T) {
	t.Parallel()
	b := protocol(t)
	lists := 0
	for _, f := range b.shapes["Point"].fields {
		if _, ok := f.part(); !ok {
			continue
		}
		lists++
		for _, n := range []int64{f.max[0], f.max[0] + 1} {
			m := &wire.PointList{Points: make([]wire.Point, 1)}
			at := reflect.ValueOf(&m.Points[0]).Elem().FieldByName(f.name)
			at.Set(reflect.MakeSlice(at.Type(), int(n), int(n)))
			_, err := wire.Decode(m.Kind(), b.payload(m, nil))
			_, wrong := wire.Append(nil, wire.Frame{Call: 1, Message: m})
			require.Equal(t, n > f.max[0], err != nil, "%v of %d: %v", f, n, err)
			require.Equal(t, n > f.max[0], wrong != nil, "%v of %d: %v", f, n, wrong)
		}
	}
	require.Equal(t, 2, lists)
}

// TestLargestMessage: a payload of exactly its bound is written and read, and one byte more is not.
func TestLargestMessage(t *testing.T) {
	t.Parallel()
	m := &wire.StoreNames{}
	left := wire.Bound(m.Kind()) - len(written(t, m))
	for left > 0 {
		n := min(left, 10+wire.MaxName)
		if rest := left - n; 0 < rest && rest < 10 {
			n -= 10
		}
		m.Names = append(m.Names, wire.StoreName{Name: strings.Repeat("n", n-10)})
		left -= n
	}
	payload := written(t, m)
	require.Len(t, payload, wire.Bound(m.Kind()))
	got, err := wire.Decode(m.Kind(), payload)
	require.NoError(t, err)
	require.Equal(t, m, got)
	_, err = wire.NewReader(bytes.NewReader(frame(m.Kind(), 1, payload))).Read()
	require.NoError(t, err)
	last := &m.Names[len(m.Names)-1]
	if len(last.Name) == wire.MaxName {
		last = &m.Names[len(m.Names)-2]
	}
	last.Name += "n"
	_, err = wire.Append(nil, wire.Frame{Call: 1, Message: m})
	require.ErrorContains(t, err, "at most")
	_, err = wire.Decode(m.Kind(), protocol(t).payload(m, nil))
	require.ErrorIs(t, err, wire.ErrMalformed)
}

// TestTextsHideNothing: the bytes of a text that is too long are not taken for the fields behind it.
func TestTextsHideNothing(t *testing.T) {
	t.Parallel()
	inner := append([]byte{0, wire.MaxName - 1}, strings.Repeat("x", wire.MaxName-1)...)
	_, err := wire.Decode(wire.KindOpenDisk, append([]byte{1, 0}, inner...))
	require.ErrorContains(t, err, "a text of 256 bytes, at most 255")
}

// follow makes the elements of a list follow each other where the protocol wants it.
func follow(m wire.Message) {
	switch m := m.(type) {
	case *wire.Ack:
		m.Below = math.MaxUint64
		for i := range m.Open {
			m.Open[i] = uint64(i + 1)
		}
	case *wire.ExtentList:
		for i := range m.Extents {
			m.Extents[i] = pipe.Extent{Off: int64(i), Len: 1}
		}
	}
}

// TestRelated: fields that agree with each other, and those that do not.
func TestRelated(t *testing.T) {
	t.Parallel()
	const most = wire.MaxSize
	extents := func(e ...pipe.Extent) *wire.ExtentList { return &wire.ExtentList{Extents: e} }
	for i, c := range []struct {
		m    wire.Message
		good bool
	}{
		{&wire.ReadImage{Off: most - 5, Len: 5}, true}, {&wire.ReadImage{Off: most - 5, Len: 6}, false},
		{&wire.ReadBlob{Off: most - 5, Len: 5}, true}, {&wire.ReadBlob{Off: most - 5, Len: 6}, false},
		{&wire.StoreRead{Off: most - 5, Len: 5}, true}, {&wire.StoreRead{Off: most - 5, Len: 6}, false},
		{&wire.ImageExtents{Off: most - 5, Len: 5}, true}, {&wire.ImageExtents{Off: most - 5, Len: 6}, false},
		{&wire.ImageExtents{Off: most, Len: most}, false},
		{&wire.Put{Off: most - 5, Plain: 5}, true}, {&wire.Put{Off: most - 5, Plain: 6}, false},
		{&wire.Put{Content: true, Data: []byte{1}}, true}, {&wire.Put{Data: []byte{1}}, false}, {&wire.Put{Content: true}, false},
		{&wire.Write{Off: most - 5, Plain: 5}, true}, {&wire.Write{Off: most - 5, Plain: 6}, false},
		{&wire.BlobPart{Off: most - 1, Data: []byte{1}}, true}, {&wire.BlobPart{Off: most, Data: []byte{1}}, false},
		{&wire.StorePart{Off: wire.MaxObject - 1, Data: []byte{1}}, true}, {&wire.StorePart{Off: wire.MaxObject, Data: []byte{1}}, false},
		{&wire.Mark{Extent: pipe.Extent{Off: most - 5, Len: 5}}, true}, {&wire.Mark{Extent: pipe.Extent{Off: most, Len: most}}, false},
		{extents(), true}, {extents(pipe.Extent{Off: 7, Len: 1}, pipe.Extent{Off: 8, Len: 3, Kind: pipe.Data}), true},
		{extents(pipe.Extent{Off: 7}), false}, {extents(pipe.Extent{Len: 2}, pipe.Extent{Off: 3, Len: 1}), false},
		{extents(pipe.Extent{Len: 2}, pipe.Extent{Off: 1, Len: 1}), false},
		{&wire.PointList{More: true}, false}, {&wire.PointList{More: true, Points: make([]wire.Point, 1)}, true},
		{&wire.StoreNames{More: true}, false}, {&wire.StoreNames{More: true, Names: make([]wire.StoreName, 1)}, true},
		{&wire.Ack{Below: 9, Open: []uint64{1, 8}}, true}, {&wire.Ack{Below: 9, Open: []uint64{9}}, false},
		{&wire.Ack{Below: 9, Open: []uint64{0}}, false}, {&wire.Ack{Below: 9, Open: []uint64{2, 2}}, false},
		{&wire.Ack{Below: 9, Open: []uint64{3, 2}}, false},
	} {
		_, wrong := wire.Append(nil, wire.Frame{Call: callOf(c.m.Kind()), Message: c.m})
		_, err := wire.Decode(c.m.Kind(), protocol(t).payload(c.m, nil))
		if c.good {
			require.NoError(t, err, "case %d: %+v", i, c.m)
			require.NoError(t, wrong, "case %d: %+v", i, c.m)
		} else {
			require.ErrorIs(t, err, wire.ErrMalformed, "case %d: %+v", i, c.m)
			require.Error(t, wrong, "case %d: %+v", i, c.m)
		}
	}
}

// TestLargestPoint: a point of every size that is allowed fits into one message.
func TestLargestPoint(t *testing.T) {
	t.Parallel()
	name := func(i int) string { return fmt.Sprintf("%0*d", wire.MaxName, i) }
	table := map[string]string{}
	p := wire.Point{ID: name(0), VM: name(0), Consistency: name(0), Damage: strings.Repeat("d", wire.MaxText)}
	for i := range wire.MaxFacts {
		table[name(i)] = strings.Repeat("v", wire.MaxFact)
		disk := wire.PointDisk{Key: name(i), Absent: map[string]uint64{}}
		for j := range wire.MaxAmounts {
			disk.Absent[fmt.Sprintf("%0*d", wire.MaxKindName, j)] = uint64(j)
		}
		p.Disks, p.Blobs = append(p.Disks, disk), append(p.Blobs, wire.PointBlob{Name: name(i)})
	}
	p.Tracking, p.Facts = table, table
	m := &wire.PointList{More: true, Points: []wire.Point{p}}
	got, err := wire.Decode(wire.KindPointList, written(t, m))
	require.NoError(t, err)
	require.Equal(t, m, got)
	_, err = wire.Append(nil, wire.Frame{Call: 1, Message: &wire.PointList{Points: []wire.Point{p, p}}})
	require.ErrorContains(t, err, "at most 1048576")
	largest := &wire.Begin{VM: name(1), Base: name(1), Consistency: name(1), Facts: table}
	got, err = wire.Decode(wire.KindBegin, written(t, largest))
	require.NoError(t, err)
	require.Equal(t, largest, got)
}

// TestErrorsCanAlwaysBeTold: an error is made to fit instead of being lost.
func TestErrorsCanAlwaysBeTold(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 5000)
	f := &wire.Fail{Text: long + "\xff", Object: "\xfe" + long, Offset: -7, Length: math.MaxInt64}
	got, err := wire.Decode(wire.KindFail, written(t, f))
	require.NoError(t, err)
	told := got.(*wire.Fail)
	require.Equal(t, wire.CodeFailed, told.Code)
	require.True(t, utf8.ValidString(told.Text) && strings.HasPrefix(long, told.Text))
	require.Len(t, told.Text, wire.MaxText)
	require.Len(t, told.Object, wire.MaxName)
	require.Zero(t, told.Offset)
	require.Equal(t, int64(wire.MaxSize), told.Length)
	require.EqualValues(t, -7, f.Offset, "the message is as it was")

	got, err = wire.Decode(wire.KindRefuse, written(t, &wire.Refuse{Code: wire.CodeBusy, Text: "a\xffb" + long}))
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(got.(*wire.Refuse).Text, "a\uFFFDbé"))
	require.Error(t, second(wire.Append(nil, wire.Frame{Call: 1, Message: &wire.Fail{Code: 24}})))
	require.Error(t, second(wire.Append(nil, wire.Frame{Call: 1, Message: &wire.Committed{Point: "\xff"}})))
	require.Error(t, second(wire.Append(nil, wire.Frame{Call: 1, Message: &wire.UsageIs{Stored: -1}})))
}

func second[T any](_ T, err error) error { return err }
