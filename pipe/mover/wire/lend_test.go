package wire_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// writeOf is a frame of a Write with n bytes of content.
func writeOf(t testing.TB, fill byte, n int) []byte {
	b, err := wire.Append(nil, wire.Frame{Call: 1, Message: &wire.Write{Plain: 1, Data: bytes.Repeat([]byte{fill}, n)}})
	require.NoError(t, err)
	return b
}

// TestLend: large payloads come into the lender's memory, of the length that is needed, and the reader leaves it alone from
// the next frame on. Small ones come into its own.
func TestLend(t *testing.T) {
	t.Parallel()
	sizes := []int{10, 100_000, 20, 64 << 10, 300_000, 65, 64<<10 - 49, 64<<10 - 48, 1 << 20}
	var stream []byte
	for i, n := range sizes {
		stream = append(stream, writeOf(t, byte(i+1), n)...)
	}
	var lent [][]byte
	r := wire.NewReader(bytes.NewReader(stream))
	r.Lend(func(n int) []byte {
		lent = append(lent, make([]byte, n, n+7))
		return lent[len(lent)-1]
	})
	var kept [][]byte
	for i, n := range sizes {
		before := len(lent)
		f, err := r.Read()
		require.NoError(t, err)
		data := f.Message.(*wire.Write).Data
		require.Equal(t, bytes.Repeat([]byte{byte(i + 1)}, n), data)
		if len(lent) > before {
			require.Equal(t, &lent[before][len(lent[before])-1], &data[n-1], "it is in the memory that was lent")
			kept = append(kept, data)
		}
	}
	require.Len(t, kept, 5, "of more than 64 KiB with their fields")
	for _, data := range kept {
		require.Equal(t, bytes.Repeat(data[:1], len(data)), data)
	}
	_, err := r.Read()
	require.Equal(t, io.EOF, err)
}

// TestLendsForWhatComes: nothing is lent for a frame of which 64 KiB have not come, and what was lent for one that was cut
// is the lender's again.
func TestLendsForWhatComes(t *testing.T) {
	t.Parallel()
	whole := writeOf(t, 1, 1<<20)
	for _, n := range []int{0, wire.HeaderSize, 1000, wire.HeaderSize + 64<<10 - 1, wire.HeaderSize + 64<<10, len(whole) - 1} {
		var lent []byte
		r := wire.NewReader(bytes.NewReader(whole[:n]))
		r.Lend(func(n int) []byte {
			lent = make([]byte, n)
			return lent
		})
		_, err := r.Read()
		require.Error(t, err)
		require.Equal(t, n >= wire.HeaderSize+64<<10, lent != nil, "%d bytes have come", n)
	}
}

// TestSplit: head and content together are the frame, and content is the message's own memory.
func TestSplit(t *testing.T) {
	t.Parallel()
	b := protocol(t)
	for _, k := range wire.Kinds() {
		f := wire.Frame{Call: callOf(k), Message: full(t, b, k)}
		whole, err := wire.Append(nil, f)
		require.NoError(t, err)
		head, content, err := wire.Split([]byte("before"), f)
		require.NoError(t, err)
		require.Equal(t, "before"+string(whole), string(head)+string(content), "%v", k)
	}
	m := &wire.Put{Content: true, Data: []byte("content")}
	_, content, err := wire.Split(nil, wire.Frame{Call: 1, Message: m})
	require.NoError(t, err)
	require.Equal(t, &m.Data[0], &content[0])
	for _, wrong := range []wire.Message{&wire.Put{Data: []byte{1}}, &wire.Write{Data: make([]byte, wire.MaxStored+1)}, &wire.Committed{Point: "\xff"}} {
		head, content, err := wire.Split([]byte("before"), wire.Frame{Call: 1, Message: wrong})
		require.Error(t, err)
		require.Equal(t, "before", string(head))
		require.Nil(t, content)
	}
}

// endless is one frame, again and again.
type endless struct {
	frame []byte
	at    int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.frame[e.at:])
	e.at = (e.at + n) % len(e.frame)
	return n, nil
}

func BenchmarkRead(b *testing.B) {
	frame := writeOf(b, 7, 256<<10)
	r := wire.NewReader(&endless{frame: frame})
	memory := make([]byte, len(frame))
	r.Lend(func(n int) []byte { return memory[:n] })
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Read(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSplit(b *testing.B) {
	f := wire.Frame{Call: 1, Message: &wire.Put{Content: true, Data: make([]byte, 256<<10)}}
	var head []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if head, _, err = wire.Split(head[:0], f); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkQuery(b *testing.B) {
	payload := written(b, &wire.Query{IDs: make([]pipe.ID, wire.MaxIDs)})
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := wire.Decode(wire.KindQuery, payload); err != nil {
			b.Fatal(err)
		}
	}
}
