package object_test

import (
	"bytes"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
)

func FuzzParseHeader(f *testing.F) {
	for _, w := range ways(f) {
		f.Add(headerOf(f, newBuilder(f, object.SuiteAES, object.KindSlot, w.wrap, master)).Append(nil))
	}
	f.Add(headerOf(f, newBuilder(f, object.SuiteClear, object.KindLog)).Append(nil))
	f.Fuzz(func(t *testing.T, p []byte) {
		h, err := object.ParseHeader(p)
		if err != nil {
			require.Nil(t, h)
			return
		}
		require.LessOrEqual(t, h.Len(), object.HeaderMax)
		require.Equal(t, p[:h.Len()], h.Append(nil))
	})
}

// FuzzTable gives any table to a key that everyone has: what parses must fill its space and be written the same again.
func FuzzTable(f *testing.F) {
	b := newBuilder(f, object.SuiteClear, object.KindData)
	fill(f, b, some(5)...)
	b.Void(b.Entries()[2].FrameRef)
	want := b.Entries()
	stream, _, _, err := cell.Decode(seal(f, b))
	require.NoError(f, err)
	h, err := object.ParseHeader(stream)
	require.NoError(f, err)
	c, err := object.Unwrap(h, object.Clear{})
	require.NoError(f, err)
	off, n, err := object.TableSpan(cell.Geometry{Stream: len(stream)}, stream)
	require.NoError(f, err)
	table := stream[off : off+n-object.Overhead]
	require.Equal(f, table, object.AppendTable(nil, want))

	f.Add(bytes.Clone(table), off)
	f.Add([]byte{}, h.Len())
	f.Add(bytes.Clone(table[:44]), off)
	f.Fuzz(func(t *testing.T, table []byte, off int) {
		if off < 0 || off > cell.MaxStream {
			return
		}
		entries, err := c.ParseTable(object.SealTable(c, table, off), h.Len(), off)
		if err != nil {
			return
		}
		require.True(t, bytes.Equal(table, object.AppendTable(nil, entries)))
		at := h.Len()
		for _, e := range entries {
			require.Equal(t, at, int(e.Offset))
			at += int(e.Stored)
		}
		require.Equal(t, off, at)
	})
}

func FuzzTableSpan(f *testing.F) {
	f.Add([]byte{60, 0, 0, 0}, 5000)
	f.Add([]byte{0xFF, 0xFF, 0xFF, 0xFF}, cell.MaxStream)
	f.Add([]byte{16, 0, 0}, 100)
	f.Fuzz(func(t *testing.T, tail []byte, stream int) {
		if stream < 0 || stream > cell.MaxStream {
			return
		}
		off, n, err := object.TableSpan(cell.Geometry{Stream: stream}, tail)
		if err == nil {
			require.Positive(t, off)
			require.GreaterOrEqual(t, n, object.Overhead)
			require.Equal(t, stream, off+n+4)
		}
	})
}

// FuzzAge: whatever stands in an age wrap, a reader neither panics nor takes it for a key that the header commits to.
func FuzzAge(f *testing.F) {
	a, err := age.GenerateX25519Identity()
	require.NoError(f, err)
	h := headerOf(f, newBuilder(f, object.SuiteAES, object.KindSlot, object.AgeRecipients{a.Recipient()}))
	good := h.Wraps[0].Body
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(bytes.Repeat(good, 40)[:object.MaxWrap])
	f.Fuzz(func(t *testing.T, body []byte) {
		changed := *h
		changed.Wraps = []object.Wrap{{Type: object.WrapAge, Body: body}}
		c, err := object.Unwrap(&changed, object.AgeIdentities{a})
		require.Equal(t, err == nil, c != nil)
		if !bytes.Equal(body, good) && len(body) > object.MaxWrap {
			require.ErrorIs(t, err, object.ErrNoKey)
		}
	})
}

// FuzzOpen takes any stream.
func FuzzOpen(f *testing.F) {
	want := cell.Ident{Kind: object.KindManifest, Repo: repo}
	for n := range 3 {
		b := newBuilder(f, object.SuiteClear, object.KindManifest)
		fill(f, b, some(n)...)
		stream, _, _, err := cell.Decode(seal(f, b))
		require.NoError(f, err)
		f.Add(stream)
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		o, err := object.Open(stream, want, []object.Unwrapper{object.Clear{}})
		if err != nil {
			return
		}
		for i, e := range o.Entries() {
			if got, err := o.Content(i); err == nil {
				require.Len(t, got, int(e.Plain))
			}
		}
	})
}
