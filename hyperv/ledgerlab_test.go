package hyperv

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/hypervtest"
	"github.com/hikae/hikae/hyperv/vhdx"
)

// What a VM's days bring, one after the other, is no reason to read all of its disks: the ledger gives no false alarm.
func TestLedgerGivesNoFalseAlarm(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g, p := l.vm("web1", nil), l.provider(nil)
	base, _, err := l.backup(p, g, nil, newNote())
	require.NoError(t, err)
	did := func(errs ...error) {
		t.Helper()
		require.NoError(t, errors.Join(errs...))
	}
	for _, day := range []struct {
		what string
		do   func()
	}{
		{"nothing", func() {}},
		{"nothing again", func() {}},
		{"writes", func() { did(g.Write(0, 5<<20, []byte("x"))) }},
		{"a power cut", func() { did(g.Write(0, 0, []byte("z")), g.PowerCut(), g.PowerOn()) }},
		{"off and on", func() { did(g.PowerOff(), g.PowerOn(), g.Write(1, 0, []byte("y"))) }},
		{"off", func() { did(g.PowerOff()) }},
		{"off all day", func() {}},
		{"on", func() { did(g.PowerOn()) }},
		{"a backup that failed", func() {
			s, err := l.provider(nil).Snapshot(t.Context(), g.ID(), nil)
			did(err, g.Write(0, 3<<20, []byte("meanwhile")), s.Release(t.Context()))
		}},
		{"a user's checkpoint that came and went", func() {
			id, err := g.Checkpoint("before the update")
			did(err, g.Write(0, 4<<20, []byte("on top of it")), g.RemoveCheckpoint(id))
			require.True(t, l.fake.Settled(10*time.Second))
		}},
		{"a user's checkpoint", func() {
			_, err := g.Checkpoint("before the next update")
			did(err, g.Write(0, 4<<20, []byte("again on top")))
		}},
		{"it stays", func() { did(g.Write(1, 2<<20, []byte("w"))) }},
	} {
		day.do()
		next, _, err := l.backup(p, g, base, newNote())
		require.NoError(t, err, day.what)
		require.Empty(t, next.lost, day.what)
		l.same(g, next)
		base = next
	}
}

// Trap 4: an old copy of a disk's file that is put back while the VM is off has the disk's id, and the host's record of changes knows
// nothing of it. The count in its header tells, also after the guest went on with it.
func TestLedgerFindsACopyThatIsPutBack(t *testing.T) {
	t.Parallel()
	for _, writes := range []bool{false, true} {
		l := newLab(t, hypervtest.Options{})
		g, p := l.vm("web1", nil), l.provider(nil)
		require.NoError(t, g.PowerOff())
		old := l.fileOf(g.Tip(0))
		require.NoError(t, g.PowerOn())
		require.NoError(t, g.Write(0, 5<<20, []byte("not in the copy")))
		base, _, err := l.backup(p, g, nil, newNote())
		require.NoError(t, err)
		require.True(t, l.fake.Settled(10*time.Second))
		require.NoError(t, g.PowerOff())
		l.putBack(g.Tip(0), old)
		if writes {
			require.NoError(t, g.PowerOn())
			require.NoError(t, g.Write(0, 7<<20, []byte("later")))
		}
		next, _, err := l.backup(p, g, base, newNote())
		require.NoError(t, err)
		require.Len(t, next.lost, 1)
		for _, err := range next.lost {
			require.ErrorContains(t, err, "a copy was put in its place")
		}
		l.same(g, next)
	}
}

// fileOf is what a file of the host holds.
func (l *lab) fileOf(name string) []byte {
	l.t.Helper()
	img, err := l.fake.LocalFiles().Open(l.t.Context(), name)
	require.NoError(l.t, err)
	defer img.Close()
	b := make([]byte, img.Size())
	n, err := img.ReadAt(context.Background(), b, 0)
	if n < len(b) || err != io.EOF {
		require.NoError(l.t, err)
	}
	return b
}

// putBack writes a file of the host anew.
func (l *lab) putBack(name string, b []byte) {
	l.t.Helper()
	files := l.fake.LocalFiles()
	require.NoError(l.t, files.Remove(l.t.Context(), name))
	var f vhdx.File
	f, err := files.Create(l.t.Context(), name)
	require.NoError(l.t, err)
	_, err = f.WriteAt(l.t.Context(), b, 0)
	require.NoError(l.t, err)
	require.NoError(l.t, f.Close())
}
