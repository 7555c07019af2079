package wire_test

import (
	"encoding/binary"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// encoder writes a message by the document's rows and checks nothing. Replace, if it is not nil, may put other bytes in
// a field's place.
type encoder struct {
	book    *book
	replace func(f field, v reflect.Value) []byte
	out     []byte
}

// payload is a message's payload as the document has it.
func (b *book) payload(m wire.Message, replace func(field, reflect.Value) []byte) []byte {
	e := &encoder{book: b, replace: replace}
	e.shape(b.shapes[m.Kind().String()], reflect.ValueOf(m).Elem())
	return e.out
}

func (e *encoder) shape(s *shape, v reflect.Value) {
	for _, f := range s.fields {
		if f.name[0] >= 'a' {
			n, err := strconv.ParseUint(f.fixed, 0, 64)
			if err != nil {
				panic(err)
			}
			e.leaf(f, reflect.ValueOf(n))
			continue
		}
		e.value(f, v.FieldByName(f.name))
	}
}

func (e *encoder) value(f field, v reflect.Value) {
	if part, ok := f.part(); ok {
		e.count(f, v)
		inner := e.book.shapes[part]
		for i := range v.Len() {
			if inner != nil {
				e.shape(inner, v.Index(i))
			} else {
				e.leaf(field{of: f.of, name: f.name, kind: part, max: f.max[1:]}, v.Index(i))
			}
		}
		return
	}
	if inner := e.book.shapes[f.kind]; inner != nil {
		e.shape(inner, v)
		return
	}
	e.leaf(f, v)
}

func (e *encoder) leaf(f field, v reflect.Value) {
	if e.replace != nil {
		if b := e.replace(f, v); b != nil {
			e.out = append(e.out, b...)
			return
		}
	}
	switch f.kind {
	case "u8":
		e.out = append(e.out, uint8(v.Uint()))
	case "u16", "code":
		e.u16(v.Uint())
	case "u32":
		e.out = binary.BigEndian.AppendUint32(e.out, uint32(v.Uint()))
	case "u64":
		e.u64(v.Uint())
	case "size", "room", "time":
		e.u64(uint64(v.Int()))
	case "flag":
		e.out = append(e.out, map[bool]byte{true: 1}[v.Bool()])
	case "id", "key":
		for i := range v.Len() {
			e.out = append(e.out, byte(v.Index(i).Uint()))
		}
	case "text", "prose":
		e.text(v.String())
	case "rest":
		e.out = append(e.out, v.Bytes()...)
	case "table":
		m := v.Interface().(map[string]string)
		e.count(f, v)
		for _, k := range slices.Sorted(maps.Keys(m)) {
			e.text(k)
			e.text(m[k])
		}
	case "amounts":
		m := v.Interface().(map[string]uint64)
		e.count(f, v)
		for _, k := range slices.Sorted(maps.Keys(m)) {
			e.text(k)
			e.u64(m[k])
		}
	default:
		panic(fmt.Sprintf("%v: the document has no type %q", f, f.kind))
	}
}

// count is asked for under the name of its list with "#" behind.
func (e *encoder) count(f field, v reflect.Value) {
	if e.replace != nil {
		if b := e.replace(field{of: f.of, name: f.name + "#", kind: f.kind, max: f.max}, v); b != nil {
			e.out = append(e.out, b...)
			return
		}
	}
	e.u16(uint64(v.Len()))
}

func (e *encoder) text(s string) {
	e.u16(uint64(len(s)))
	e.out = append(e.out, s...)
}

func (e *encoder) u16(n uint64) { e.out = binary.BigEndian.AppendUint16(e.out, uint16(n)) }
func (e *encoder) u64(n uint64) { e.out = binary.BigEndian.AppendUint64(e.out, n) }

// frame is a payload with its header, as the document has it.
func frame(kind wire.Kind, call uint64, payload []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))
	b = append(b, byte(kind), 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, call)
	return append(b, payload...)
}

// callOf is a number that a frame of this kind may have.
func callOf(k wire.Kind) uint64 {
	if k.InCall() {
		return 0x0102030405060708
	}
	return 0
}

// written is what the package writes for a message.
func written(t require.TestingT, m wire.Message) []byte {
	b, err := wire.Append(nil, wire.Frame{Call: callOf(m.Kind()), Message: m})
	require.NoError(t, err)
	return b[wire.HeaderSize:]
}

func TestFrameIsAsDocumented(t *testing.T) {
	t.Parallel()
	b := protocol(t)
	for _, k := range wire.Kinds() {
		m := full(t, b, k)
		got, err := wire.Append([]byte("before"), wire.Frame{Call: callOf(k), Message: m})
		require.NoError(t, err, "%v", k)
		require.Equal(t, append([]byte("before"), frame(k, callOf(k), b.payload(m, nil))...), got, "%v", k)
	}
}
