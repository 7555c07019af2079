package session

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// whole checks that what arrives is what was there when the call was made.
type whole struct {
	t    *testing.T
	came int
	mu   sync.Mutex
}

func (h *whole) Handle(_ context.Context, _ uint64, req wire.Message) (wire.Message, error) {
	m := req.(*wire.Put)
	if !bytes.Equal(m.Data, bytes.Repeat(m.Data[:1], len(m.Data))) || m.ID[0] != m.Data[0] {
		h.t.Error("content was changed while it was sent")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.came++
	return &wire.Placed{}, nil
}

func (*whole) Close() error { return nil }

// A call that is given up in the middle of its content leaves the memory at once, and the line whole.
func TestContentIsLetGo(t *testing.T) {
	for i := range 3 {
		bubble.Test(t, func(t *testing.T) {
			h := &whole{t: t}
			s := newSite(t, &ServerOptions{Open: func(context.Context, trust.Peer, func(wire.Message)) (Handler, error) { return h, nil }})
			s.room = 4 << 10
			r := rand.New(rand.NewPCG(5, uint64(i)))
			s.prep = func(n int, client, server *memConn) {
				client.out.delay = time.Millisecond
				if n < 3 {
					client.out.cut = r.Int64N(1 << 20)
				}
			}
			c := s.client(&ClientOptions{Patience: time.Minute})
			var wg sync.WaitGroup
			for w := range 6 {
				r := rand.New(rand.NewPCG(uint64(w), uint64(i)))
				wg.Go(func() {
					data := make([]byte, 100<<10)
					for round := range 15 {
						b := byte(round*6 + w)
						for i := range data {
							data[i] = b
						}
						ctx, cancel := context.WithTimeout(t.Context(), time.Duration(r.IntN(200))*time.Millisecond)
						_, err := c.Call(ctx, &wire.Put{ID: pipe.ID{b}, Plain: uint32(len(data)), Content: true, Data: data})
						cancel()
						if err != nil && ctx.Err() == nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			require.Zero(t, c.link.calls.credit.calls)
			require.Zero(t, c.link.calls.credit.under)
			require.NoError(t, c.Close())
			s.close()
			require.Positive(t, h.came)
		})
	}
}

// What an answerer takes of its window comes back, whatever becomes of the lanes.
func TestWindowComesBack(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, &ServerOptions{Window: 4 << 20})
		defer s.close()
		s.prep = func(n int, _, server *memConn) {
			if n < 20 {
				server.out.cut = int64(n) * 150_000
			}
		}
		c := s.client(&ClientOptions{Patience: time.Minute})
		defer c.Close()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 20 {
					answer, err := c.Call(t.Context(), &wire.ReadImage{Len: 100_000})
					if err != nil || len(answer.(*wire.Content).Data) != 100_000 {
						t.Error(answer, err)
					}
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		a := s.hosted().link.answers
		require.Zero(t, a.under)
		require.Zero(t, a.running)
		require.Empty(t, a.table, "content is not kept")
	})
}

// A session has no more lanes than it may: a new one takes the place of the one that was silent for longest.
func TestLaneReplaced(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSite(t, &ServerOptions{MaxLanes: 2})
		defer s.close()
		lanes := []*raw{}
		for i := range 4 {
			p := s.raw("a")
			p.hello(1, uint32(i))
			lanes = append(lanes, p)
			time.Sleep(time.Second)
		}
		require.Equal(t, 2, s.server.Stats().Lanes)
		lanes[0].gone()
		lanes[1].gone()
		require.NoError(t, lanes[3].send(1, put(1, 1)))
		require.IsType(t, &wire.Placed{}, lanes[3].next())
	})
}

// Every message that there is has its place.
func TestEveryKind(t *testing.T) {
	requests := "Points OpenDisk ReadImage ImageExtents CloseImage ReadBlob Begin StartDisk Query Put Mark Write SealDisk DropDisk " +
		"StartBlob BlobPart SealBlob Commit DropPoint Usage Images OpenSource Collect StoreOpen StorePart StoreSeal StoreDrop " +
		"StoreRead StoreStat StoreList StoreRemove StoreProbe Enrol Rotate Health"
	var asked []string
	for k := range 256 {
		kind := wire.Kind(k)
		if !strings.HasPrefix(kind.String(), "kind ") && kind.InCall() && !answers(kind) {
			asked = append(asked, kind.String())
		}
	}
	require.Equal(t, strings.Fields(requests), asked, "a new message is a request or an answer: tell answers, repeatable, expected and content")
}

// What has content, and only that, refers to the memory that it was read into; and its cost is counted.
func TestContentOfMessages(t *testing.T) {
	for _, m := range []wire.Message{&wire.Put{Content: true, Plain: 1}, &wire.Write{Plain: 1}, &wire.StorePart{}, &wire.BlobPart{}, &wire.Content{},
		&wire.BlobContent{}, &wire.Known{}, &wire.Collected{}} {
		t.Run(fmt.Sprint(m.Kind()), func(t *testing.T) {
			require.Empty(t, content(m))
			v := reflect.ValueOf(m).Elem()
			for i := range v.NumField() {
				if f := v.Field(i); f.Type() == reflect.TypeFor[[]byte]() {
					f.SetBytes([]byte{0x80})
				}
			}
			require.Equal(t, []byte{0x80}, content(m))
			_, body, err := wire.Split(nil, wire.Frame{Call: 1, Message: m})
			require.NoError(t, err)
			require.Equal(t, []byte{0x80}, body)
			require.Equal(t, int64(costOfAny+1), cost(m))
		})
	}
	require.Equal(t, int64(costOfAny+1000), cost(&wire.ReadBlob{Len: 1000}))
	require.Equal(t, int64(costOfAny+wire.MaxPart), cost(&wire.StoreRead{Len: 1<<32 - 1}))
	require.Equal(t, int64(costOfAny+64), cost(&wire.Query{IDs: make([]pipe.ID, 2)}))
}

func TestMemories(t *testing.T) {
	for _, n := range []int{1, 64<<10 + 1, 128 << 10, 128<<10 + 4096, 128<<10 + 4097, 256<<10 + 100, 5 << 20, 8<<20 + 100, 40 << 20} {
		m := borrow(n)
		require.GreaterOrEqual(t, len(m.buf), n)
		require.LessOrEqual(t, len(m.buf), max(2*n, 132<<10), "n=%d", n)
		m.free()
	}
	(*memory)(nil).free()
}
