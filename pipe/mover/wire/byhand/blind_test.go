package byhand

import (
	"context"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// shelf is a blind store in memory that lets its peers do all but remove.
type shelf struct {
	mu      sync.Mutex
	objects map[string][]byte
}

func (s *shelf) Open(context.Context, trust.Peer) (mover.BlindSession, error) { return s, nil }
func (s *shelf) Close() error                                                 { return nil }
func (s *shelf) Remove(context.Context, string) error                         { return fs.ErrPermission }

func (s *shelf) Create(_ context.Context, name string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects[name] != nil {
		return fs.ErrExist
	}
	s.objects[name] = slices.Clone(data)
	return nil
}

func (s *shelf) ReadAt(_ context.Context, name string, p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.objects[name]
	if !ok {
		return 0, fs.ErrNotExist
	}
	return strings.NewReader(string(data)).ReadAt(p, off)
}

func (s *shelf) Stat(_ context.Context, name string) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if data, ok := s.objects[name]; ok {
		return int64(len(data)), nil
	}
	return 0, fs.ErrNotExist
}

func (s *shelf) List(_ context.Context, prefix string) iter.Seq2[mover.BlindObject, error] {
	return func(yield func(mover.BlindObject, error) bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, name := range slices.Sorted(maps.Keys(s.objects)) {
			if strings.HasPrefix(name, prefix) && !yield(mover.BlindObject{Name: name, Size: int64(len(s.objects[name]))}, nil) {
				return
			}
		}
	}
}

func (s *shelf) Probe(context.Context) (mover.BlindAbilities, error) {
	return mover.BlindAbilities{ExclusiveCreate: true, FreshReads: true, Free: -1}, nil
}

var _ io.Closer = (*shelf)(nil)

// TestBlind brings an object in parts, out of order, and reads it back.
func TestBlind(t *testing.T) {
	t.Parallel()
	s := start(t, &mover.ServerOptions{Blind: &shelf{objects: map[string][]byte{}}, StateDir: t.TempDir()})
	l := s.lane(s.enrolled("site-a", trust.Append))
	l.hello(1, 1, session(1), 0)
	l.welcome(false, "site-a")
	n := uint64(0)
	ask := func(kind byte, fields ...[]byte) uint64 {
		n++
		l.call(n, kind, fields...)
		return n
	}
	name := text("data/0000000000000001/5f")
	object := l.answer(ask(88, name, u64(10)), 89)
	l.answer(ask(90, object, u64(6), []byte("6789")), 16)
	l.fail(ask(90, object, u64(5), []byte("56")), 6)       // a part that was there
	l.fail(ask(90, object, u64(9), []byte("9 and on")), 6) // behind the end
	l.answer(ask(90, object, u64(0), []byte("012345")), 16)
	l.answer(ask(91, object), 16)
	l.fail(ask(91, object), 17)
	again := l.answer(ask(88, name, u64(10)), 89)
	l.answer(ask(90, again, u64(0), []byte("0123456789")), 16)
	l.fail(ask(91, again), 5) // there is one: it is decided when it is sealed

	torn := l.answer(ask(88, text("data/0000000000000001/60"), u64(10)), 89)
	l.answer(ask(90, torn, u64(6), []byte("6789")), 16)
	l.fail(ask(91, torn), 22)
	dropped := l.answer(ask(88, text("data/0000000000000001/61"), u64(0)), 89)
	l.answer(ask(92, dropped), 16)
	l.fail(ask(90, dropped, u64(0), nil), 17)

	require.Equal(t, cat(u32(8), []byte{0}, []byte("23456789")), l.answer(ask(93, name, u64(2), u32(1000)), 29))
	l.fail(ask(93, text("nothing"), u64(0), u32(1)), 4)
	require.Equal(t, u64(10), l.answer(ask(94, name), 95))
	list := l.answer(ask(96, text("data/"), u32(0)), 97)
	require.Equal(t, cat(flag(false), u16(1), name, u64(10)), list[4:])
	l.fail(ask(98, name), 3)
	require.Equal(t, cat([]byte{1, 0, 1}, u64(1<<63-1)), l.answer(ask(99), 100))
	l.fail(ask(24, text(""), text("")), 16)
	l.fail(ask(72), 3)
	health := l.answer(ask(123), 124)
	require.Contains(t, string(health), "blind")
}
