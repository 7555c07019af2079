package object_test

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
)

// What a table says of itself is believed up to its bounds, and not a byte further.
func TestBoundsOfATable(t *testing.T) {
	t.Parallel()
	const entry = 44
	span := func(stream, sealed int) error {
		tail := binary.LittleEndian.AppendUint32(nil, uint32(sealed))
		off, n, err := object.TableSpan(cell.Geometry{Stream: stream}, tail)
		if err == nil {
			require.Equal(t, sealed, n)
			require.Equal(t, stream-4-sealed, off)
		}
		return err
	}
	const header = object.FixedHeader
	for _, frames := range []int{0, 1, 7, object.MaxFrames} {
		table := frames*entry + object.Overhead
		require.NoError(t, span(header+table+4, table), "%d frames and not a byte more", frames)
		require.Error(t, span(header+table+3, table), "it would reach into the header")
		require.Error(t, span(header+table+100, table+1), "%d frames and a part of one", frames)
	}
	over := (object.MaxFrames+1)*entry + object.Overhead
	require.Error(t, span(header+over+4, over), "more frames than an object has")
	require.Error(t, span(1000, object.Overhead-1))
	require.Error(t, span(1000, 0))
	_, _, err := object.TableSpan(cell.Geometry{Stream: 1000}, make([]byte, 3))
	require.ErrorIs(t, err, object.ErrShort)
}

// An entry of a table is held against the room that there is, the kinds of frames and the codecs.
func TestBoundsOfAnEntry(t *testing.T) {
	t.Parallel()
	good := object.Entry{FrameRef: object.FrameRef{Type: object.TypeBlock, Codec: object.CodecPlain, Stored: 116, Plain: 100}}
	with := func(f func(*object.Entry)) *object.Entry {
		e := good
		f(&e)
		return &e
	}
	for _, c := range []struct {
		what  string
		entry *object.Entry
		space int
		right bool
	}{
		{"all of the room", &good, 116, true},
		{"a byte more than there is", &good, 115, false},
		{"a plain frame that grew", with(func(e *object.Entry) { e.Plain = 99 }), 200, false},
		{"an empty frame", with(func(e *object.Entry) { e.Stored, e.Plain = object.Overhead, 0 }), 200, true},
		{"less than sealing adds", with(func(e *object.Entry) { e.Stored, e.Plain, e.Codec = object.Overhead-1, 0, 1 }), 200, false},
		{"the largest", with(func(e *object.Entry) { e.Plain, e.Codec = object.MaxPlain, 1 }), 200, true},
		{"larger", with(func(e *object.Entry) { e.Plain, e.Codec = object.MaxPlain+1, 1 }), 200, false},
		{"no type", with(func(e *object.Entry) { e.Type = 0 }), 200, false},
		{"the last type", with(func(e *object.Entry) { e.Type = object.TypeAnchors }), 200, true},
		{"an unknown type", with(func(e *object.Entry) { e.Type = object.TypeAnchors + 1 }), 200, false},
		{"a block of parts", with(func(e *object.Entry) { e.Codec = object.CodecAssembled }), 200, true},
		{"a void of parts", with(func(e *object.Entry) { e.Codec, e.Type = object.CodecAssembled, object.TypeVoid }), 200, true},
		{"a page of parts", with(func(e *object.Entry) { e.Codec, e.Type = object.CodecAssembled, object.TypePage }), 200, false},
		{"an unknown codec", with(func(e *object.Entry) { e.Codec = object.CodecAssembled + 1 }), 200, false},
	} {
		if err := object.CheckEntry(c.entry, c.space); c.right {
			require.NoError(t, err, c.what)
		} else {
			require.Error(t, err, c.what)
		}
	}
}
