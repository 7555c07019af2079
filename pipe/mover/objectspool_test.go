package mover

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// spoolSite is a blind target with little memory, and its peers.
type spoolSite struct {
	t  *testing.T
	hs *host
}

func newSpoolSite(t *testing.T, total, reserve int64) *spoolSite {
	hs, err := newHost(&ServerOptions{Blind: &blindShelf{newShelf(t)}}, uncared{})
	require.NoError(t, err)
	hs.spool = newSpool(total, reserve)
	t.Cleanup(func() {
		require.Zero(t, hs.spool.used)
		require.Zero(t, hs.spool.appended)
		require.Empty(t, hs.spool.by)
		require.Empty(t, hs.spool.holding)
	})
	return &spoolSite{t, hs}
}

func (s *spoolSite) peer(name string, role trust.Role) *handler {
	h, err := newHandler(s.t.Context(), s.hs, trust.Peer{Name: name, Role: role}, func(wire.Message) {})
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, h.Close()) })
	return h
}

// begin announces an object and brings its first byte.
func begin(t *testing.T, h *handler, name string, size int64) (wire.Ref, error) {
	answer, err := h.Handle(t.Context(), 1, &wire.StoreOpen{Name: name, Size: size})
	if err != nil {
		return 0, err
	}
	ref := answer.(*wire.StoreOpened).Object
	_, err = h.Handle(t.Context(), 2, &wire.StorePart{Object: ref, Data: []byte("x")})
	return ref, err
}

// The memory for objects is bounded over all sessions, and comes back when they end.
func TestBlindMemoryIsBounded(t *testing.T) {
	t.Parallel()
	s := newSpoolSite(t, 100, 0)
	one, two := s.peer("a", trust.Full), s.peer("b", trust.Full)
	_, err := begin(t, one, "data/a", 60)
	require.NoError(t, err)
	fails(t, two, 1, wire.CodeBusy, &wire.StoreOpen{Name: "data/b", Size: 60})
	require.NoError(t, one.Close())
	_, err = begin(t, two, "data/b", 60)
	require.NoError(t, err)
}

// Several sessions of one peer that was taken over announce all that they may, and bring little of it: others and the
// owner find room, however many do so.
func TestOnePeerLeavesRoomForOthers(t *testing.T) {
	t.Parallel()
	s := newSpoolSite(t, spoolBytes, spoolReserve)
	const pack = 17 << 20
	owner := s.peer("owner", trust.Full)
	for bad := range 3 {
		held, left := int64(0), spoolBytes-spoolReserve-s.hs.spool.appended
		for session := range 3 {
			h := s.peer(fmt.Sprintf("bad-%d", bad), trust.Append)
			for i := range maxObjects {
				do[*wire.StoreOpened](t, h, 1, &wire.StoreOpen{Name: fmt.Sprintf("data/%d-%d/%d", bad, session, i), Size: 1}) // costs nothing
			}
			for ref := range h.objects.each() {
				do[*wire.OK](t, h, 1, &wire.StoreDrop{Object: ref})
			}
			for i := range maxObjects {
				if _, err := begin(t, h, fmt.Sprintf("data/%d-%d/%d", bad, session, i), pack); err == nil {
					held += pack
				}
			}
		}
		require.LessOrEqual(t, held, left/2)
		require.Greater(t, held, left/2-pack)
	}
	good := s.peer("web-host", trust.Append)
	_, err := begin(t, good, "data/good/1", pack)
	require.NoError(t, err)
	for i := range spoolReserve / pack {
		_, err := begin(t, owner, fmt.Sprintf("data/owner/%d", i), pack)
		require.NoError(t, err)
	}
}

// What is announced takes no memory before something of it comes: names and sizes are cheap to send.
func TestAnnouncedObjectsTakeNoMemory(t *testing.T) {
	t.Parallel()
	s := newSpoolSite(t, spoolBytes, spoolReserve)
	bad := s.peer("web-host", trust.Append)
	for i := range 8 {
		do[*wire.StoreOpened](t, bad, 1, &wire.StoreOpen{Name: fmt.Sprintf("data/x/%d", i), Size: wire.MaxObject})
	}
	require.Zero(t, s.hs.spool.used)
	_, err := begin(t, s.peer("owner", trust.Full), "log/0000000000000001", 12288)
	require.NoError(t, err)
}

// An object whose parts do not come goes after a minute, and its peer is told to bring it again.
func TestObjectsThatWaitForPartsGo(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newSpoolSite(t, 100, 0)
		slow, next := s.peer("slow", trust.Full), s.peer("next", trust.Full)
		ref, err := begin(t, slow, "data/a", 60)
		require.NoError(t, err)
		time.Sleep(maxObjectIdle)
		do[*wire.OK](t, slow, 3, &wire.StorePart{Object: ref, Off: 1, Data: []byte("y")}) // it lives
		time.Sleep(maxObjectIdle)
		fails(t, next, 1, wire.CodeBusy, &wire.StoreOpen{Name: "data/b", Size: 60})
		time.Sleep(time.Second)
		_, err = begin(t, next, "data/b", 60)
		require.NoError(t, err)
		fails(t, slow, 4, wire.CodeBusy, &wire.StorePart{Object: ref, Off: 2, Data: []byte("z")})
		fails(t, slow, 5, wire.CodeBusy, &wire.StoreSeal{Object: ref})

		for range maxObjects { // what was only announced goes too, to make room for others of its session
			do[*wire.StoreOpened](t, slow, 6, &wire.StoreOpen{Name: "data/c", Size: 1})
		}
		fails(t, slow, 7, wire.CodeBusy, &wire.StoreOpen{Name: "data/c", Size: 1})
		time.Sleep(2 * maxObjectIdle)
		do[*wire.StoreOpened](t, slow, 8, &wire.StoreOpen{Name: "data/c", Size: 1})
	})
}
