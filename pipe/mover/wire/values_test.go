package wire_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// full is a small message of a kind in which no field is zero.
func full(t testing.TB, b *book, k wire.Kind) wire.Message {
	t.Helper()
	m, n := wire.Empty(k), uint64(2)
	b.fill(reflect.ValueOf(m).Elem(), b.shapes[k.String()], func(f field, v reflect.Value) {
		n++
		setPlain(f, v, n)
	})
	settle(m)
	requireNothingZero(t, k.String(), reflect.ValueOf(m).Elem())
	return m
}

// fill gives every field of a shape to set, lists with two elements each.
func (b *book) fill(v reflect.Value, s *shape, set func(field, reflect.Value)) {
	for _, f := range s.fields {
		if f.name[0] >= 'a' {
			continue
		}
		at := v.FieldByName(f.name)
		part, isList := f.part()
		switch inner := b.shapes[f.kind]; {
		case isList:
			at.Set(reflect.MakeSlice(at.Type(), 2, 2))
			for i := range 2 {
				if of := b.shapes[part]; of != nil {
					b.fill(at.Index(i), of, set)
				} else {
					set(field{of: f.of, name: f.name, kind: part, max: f.max[1:]}, at.Index(i))
				}
			}
		case inner != nil:
			b.fill(at, inner, set)
		default:
			set(f, at)
		}
	}
}

// setPlain sets a field to something that n decides.
func setPlain(f field, v reflect.Value, n uint64) {
	switch f.kind {
	case "u8":
		v.SetUint(uint64(f.min) + n%uint64(f.max[0]-f.min) + min(1, 1-uint64(f.min)))
	case "code":
		v.SetUint(1 + n%23)
	case "u16", "u32", "u64":
		v.SetUint(n)
	case "size", "room":
		v.SetInt(int64(n))
	case "time":
		v.SetInt(-int64(n))
	case "flag":
		v.SetBool(true)
	case "id", "key":
		for i := range v.Len() {
			v.Index(i).SetUint((n + uint64(i)) % 256)
		}
	case "text", "prose":
		v.SetString(fmt.Sprintf("%s-é%d", f.name, n))
	case "rest":
		v.SetBytes([]byte{byte(n), 0, 0xff})
	case "table":
		v.Set(reflect.ValueOf(map[string]string{"b": fmt.Sprint(n), "a": "", "": "z"}))
	case "amounts":
		v.Set(reflect.ValueOf(map[string]uint64{"swap": n, "free": 0}))
	default:
		panic(fmt.Sprintf("%v: the document has no type %q", f, f.kind))
	}
}

// settle makes the fields of a message agree with each other where the protocol wants them to.
func settle(m wire.Message) {
	switch m := m.(type) {
	case *wire.Hello:
		m.Version = wire.Version
	case *wire.Ack: // in order, and below Below
		slices.Sort(m.Open)
		m.Open = slices.Compact(m.Open)
		m.Open = slices.DeleteFunc(m.Open, func(n uint64) bool { return n == 0 || n == 1<<64-1 })
		if len(m.Open) == 0 {
			m.Open = nil
		} else {
			m.Below = max(m.Below, m.Open[len(m.Open)-1]+1)
		}
	case *wire.PointList:
		m.More = m.More && len(m.Points) > 0
	case *wire.StoreNames:
		m.More = m.More && len(m.Names) > 0
	case *wire.Put:
		m.Content = len(m.Data) > 0
	case *wire.StorePart:
		m.Off = min(m.Off, wire.MaxObject-int64(len(m.Data)))
	case *wire.ExtentList:
		for i := range m.Extents {
			e := &m.Extents[i]
			e.Len = max(1, e.Len/wire.MaxExtents)
			if e.Off /= 2; i > 0 {
				e.Off = m.Extents[i-1].End()
			}
		}
	}
}

func requireNothingZero(t testing.TB, name string, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.Struct:
		for _, f := range reflect.VisibleFields(v.Type()) {
			if f.IsExported() {
				requireNothingZero(t, name+"."+f.Name, v.FieldByName(f.Name))
			}
		}
	case reflect.Slice:
		require.NotZero(t, v.Len(), name)
		for i := range v.Len() {
			if v.Index(i).Kind() == reflect.Struct {
				requireNothingZero(t, name, v.Index(i))
			}
		}
	default:
		require.False(t, v.IsZero(), "the generator leaves %s out", name)
	}
}

// message draws a message of a kind, with sizes at the edges of their bounds more often than chance would have it.
func (b *book) message(t *rapid.T, k wire.Kind) wire.Message {
	m := wire.Empty(k)
	b.draw(t, reflect.ValueOf(m).Elem(), b.shapes[k.String()])
	settle(m)
	return m
}

func (b *book) draw(t *rapid.T, v reflect.Value, s *shape) {
	for _, f := range s.fields {
		if f.name[0] >= 'a' {
			continue
		}
		at := v.FieldByName(f.name)
		part, isList := f.part()
		switch inner := b.shapes[f.kind]; {
		case isList:
			n := rapid.IntRange(0, 4).Draw(t, f.name)
			if n == 0 {
				continue
			}
			at.Set(reflect.MakeSlice(at.Type(), n, n))
			for i := range n {
				if of := b.shapes[part]; of != nil {
					b.draw(t, at.Index(i), of)
				} else {
					drawLeaf(t, field{of: f.of, name: f.name, kind: part, max: f.max[1:]}, at.Index(i))
				}
			}
		case inner != nil:
			b.draw(t, at, inner)
		default:
			drawLeaf(t, f, at)
		}
	}
}

func drawLeaf(t *rapid.T, f field, v reflect.Value) {
	limit := uint64(1<<64 - 1)
	if len(f.max) > 0 {
		limit = uint64(f.max[0])
	}
	number := func(limit uint64) uint64 {
		return rapid.OneOf(rapid.Uint64Range(uint64(f.min), limit), rapid.SampledFrom([]uint64{uint64(f.min), limit})).Draw(t, f.name)
	}
	switch f.kind {
	case "u8":
		v.SetUint(number(limit))
	case "u16":
		v.SetUint(number(min(limit, 1<<16-1)))
	case "u32":
		v.SetUint(number(min(limit, 1<<32-1)))
	case "u64":
		v.SetUint(number(limit))
	case "code":
		v.SetUint(rapid.Uint64Range(1, 23).Draw(t, f.name))
	case "size": // half of what there is, so that the sum of two is in its bound
		v.SetInt(int64(number(min(limit, wire.MaxSize/2))))
	case "room":
		v.SetInt(int64(number(1<<63 - 1)))
	case "time":
		v.SetInt(rapid.Int64().Draw(t, f.name))
	case "flag":
		v.SetBool(rapid.Bool().Draw(t, f.name))
	case "id", "key":
		for i := range v.Len() {
			v.Index(i).SetUint(uint64(rapid.Byte().Draw(t, f.name)))
		}
	case "text", "prose":
		v.SetString(drawText(t, f, int(limit)))
	case "rest":
		if data := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, f.name); len(data) > 0 {
			v.SetBytes(data[:min(len(data), int(limit))])
		}
	case "table":
		if m := rapid.MapOfN(rapid.StringN(0, -1, int(f.max[1])), rapid.StringN(0, -1, int(f.max[2])), 0, 5).Draw(t, f.name); len(m) > 0 {
			v.Set(reflect.ValueOf(m))
		}
	case "amounts":
		if m := rapid.MapOfN(rapid.StringN(0, -1, int(f.max[1])), rapid.Uint64Range(0, wire.MaxSize), 0, 5).Draw(t, f.name); len(m) > 0 {
			v.Set(reflect.ValueOf(m))
		}
	default:
		t.Fatalf("%v: the document has no type %q", f, f.kind)
	}
}

func drawText(t *rapid.T, f field, limit int) string {
	if rapid.IntRange(0, 9).Draw(t, f.name) == 0 {
		return strings.Repeat("n", limit-rapid.IntRange(0, 1).Draw(t, f.name))
	}
	return rapid.StringN(0, -1, limit).Filter(utf8.ValidString).Draw(t, f.name)
}

// TestRoundTrip: what is written is what the document says, and is read back as it was.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	b := protocol(t)
	rapid.Check(t, func(t *rapid.T) {
		for _, k := range wire.Kinds() {
			m := b.message(t, k)
			payload := written(t, m)
			require.Equal(t, string(b.payload(m, nil)), string(payload), "%v", k)
			got, err := wire.Decode(k, payload)
			require.NoError(t, err, "%v", k)
			require.Equal(t, m, got)
		}
	})
}

// TestFullRoundTrip: the same for messages in which every field has something to lose.
func TestFullRoundTrip(t *testing.T) {
	t.Parallel()
	b := protocol(t)
	for _, k := range wire.Kinds() {
		m := full(t, b, k)
		got, err := wire.Decode(k, written(t, m))
		require.NoError(t, err, "%v", k)
		require.Equal(t, m, got)
	}
	require.IsType(t, pipe.Extent{}, full(t, b, wire.KindMark).(*wire.Mark).Extent)
}
