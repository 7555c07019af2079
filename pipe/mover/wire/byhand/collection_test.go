package byhand

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// source has one image, and brings it as one piece.
type source struct{ content []byte }

func (s source) Images(context.Context) ([]wire.NamedImage, error) {
	return []wire.NamedImage{{Name: "web1/disk0", Size: int64(len(s.content))}}, nil
}

func (s source) Open(_ context.Context, name string) (pipe.Image, error) {
	if name != "web1/disk0" {
		return nil, fs.ErrNotExist
	}
	m := pipe.NewMemory(int64(len(s.content)))
	_, err := m.WriteAt(context.Background(), s.content, 0)
	return m, err
}

func (s source) Collect(ctx context.Context, order *wire.Collect, to pipe.Backend) ([]byte, error) {
	w, err := to.Begin(ctx, order.VM, &pipe.PointOptions{Consistency: "crash"})
	if err != nil {
		return nil, err
	}
	defer w.Close()
	d, err := w.Disk(ctx, order.Disks[0].Key, int64(len(s.content)))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	_, err = d.WriteAt(ctx, s.content, 0)
	if err = errors.Join(err, d.Commit(ctx)); err != nil {
		return nil, err
	}
	id, err := w.Commit(ctx, map[string]string{"disk0": "tracking of " + order.Disks[0].Image})
	return []byte("point " + id), err
}

// TestCollection is a target by hand that collects from a real source service (section 10; R011, R012).
func TestCollection(t *testing.T) {
	t.Parallel()
	content := []byte("what stands on the disk")
	s := start(t, &mover.ServerOptions{Source: source{content}, StateDir: t.TempDir()})
	key := s.enrolled("site-b", trust.Full)

	// Reading a source's image needs no collection.
	reader := s.lane(key)
	reader.hello(1, 1, session(1), 0)
	reader.welcome(false, "site-b")
	reader.call(1, 72)
	require.Equal(t, cat(u16(1), text("web1/disk0"), u64(uint64(len(content)))), reader.answer(1, 73))
	reader.call(2, 74, text("web1/disk0"))
	image := reader.answer(2, 27)
	require.Equal(t, u64(uint64(len(content))), image[4:12])
	reader.call(3, 28, image[:4], u64(5), u32(1000))
	require.Equal(t, cat(u32(len(content)-5), []byte{0}, content[5:]), reader.answer(3, 29))
	reader.call(4, 40, text("web1"), text(""), u64(0), text(""), u16(0))
	reader.fail(4, 16) // it is no target
	reader.call(5, 75, order()...)
	reader.fail(5, 6) // an order comes in a session for it

	l := s.lane(key)
	l.hello(1, 2, session(1), 0)
	l.welcome(false, "site-b")
	l.call(1, 75, order()...)
	l.quiet() // the source has no credit
	l.send(8, 0, u32(64), u64(8<<20), u64(8<<20))
	next := func(kind byte) (uint64, []byte) {
		k, call, payload, err := l.read()
		for err == nil && k == 6 { // Ack
			k, call, payload, err = l.read()
		}
		require.NoError(t, err)
		require.Equal(t, kind, k, "%q", payload)
		return call, payload
	}
	call, begin := next(40)
	require.EqualValues(t, 1, call, "the source's calls have numbers of their own")
	require.Equal(t, cat(text("web1"), text("")), begin[:8])
	l.send(41, call, u32(7), make([]byte, 32))
	call, points := next(24)
	require.Equal(t, cat(text("web1"), text("")), points)
	l.send(25, call, flag(false), u16(0))
	call, disk := next(42)
	require.Equal(t, cat(u32(7), text("disk0"), u64(uint64(len(content)))), disk)
	l.send(43, call, u32(8), u32(0), flag(true))
	call, write := next(49)
	sum := blake3.Sum256([]byte(content))
	require.Equal(t, cat(u32(8), u64(0), sum[:], u32(len(content)), []byte{0}, content), write)
	l.send(16, call)
	call, seal := next(50)
	require.Equal(t, u32(8), seal)
	l.send(16, call)
	call, commit := next(56)
	require.Equal(t, cat(u32(7), u16(1), text("disk0"), text("tracking of web1/disk0")), commit)
	l.send(57, call, text("point-1"))
	for {
		kind, call, payload, err := l.read()
		require.NoError(t, err)
		switch kind {
		case 6: // Ack
		case 59: // Usage
			l.send(60, call, u64(1), u64(2))
		default:
			require.Equal(t, []uint64{76, 1}, []uint64{uint64(kind), call}, "%q", payload)
			require.Equal(t, "point point-1", string(payload))
			return
		}
	}
}

func order() [][]byte {
	return [][]byte{text("web1"), u16(1), text("disk0"), text("web1/disk0"), text("default"), {1}, {1}, u16(0), {0}}
}

// TestLost: a mover that was started anew knows no session of before.
func TestLost(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	key := s.enrolled("site-a", trust.Append)
	l := s.lane(key)
	l.hello(1, 1, session(2), 0)
	l.welcome(false, "site-a")
	s.stop()
	var kinds []byte
	for {
		kind, _, payload, err := l.read()
		if err != nil {
			break
		}
		if kinds = append(kinds, kind); kind == 3 {
			require.EqualValues(t, 9, binary.BigEndian.Uint16(payload), "Busy: come back")
		}
	}
	require.Equal(t, []byte{9, 3}, kinds, "Drain, and then Refuse")
}
