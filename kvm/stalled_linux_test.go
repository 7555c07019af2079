package kvm

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/qmp"
)

// A program that reads the snapshot and was stopped in the middle holds its exports. Whoever releases the snapshot, or
// sweeps it, is told so; the VM goes on and its monitor answers, until the program ends and everything can go.
func TestStalledReader(t *testing.T) {
	t.Run("filters", func(t *testing.T) { stalledReader(t, Options{}) })
	t.Run("backup jobs", func(t *testing.T) {
		if !long() {
			t.Skip("needs HIKAE_TEST_TIER=long")
		}
		var old qmp.Version
		old.QEMU.Major = 6
		stalledReader(t, Options{pretend: &old})
	})
}

func stalledReader(t *testing.T, opts Options) {
	l := newLab(t)
	l.fx("fill", "/dev/vdb", "0", "16777216", "1")
	journal := l.effects()
	p := l.provider(opts)
	snap, err := p.Snapshot(t.Context(), l.machine.QMP, &hikae.SnapshotOptions{Journal: journal})
	require.NoError(t, err)
	s := snap.(*snapshot)
	reader := stall(t, s.socket(), s.exportID(1))

	var busy *hikae.BusyError
	require.ErrorAs(t, snap.Release(within(t, 8*time.Second)), &busy)
	require.Contains(t, busy.Owner, s.socket())
	l.lives()
	require.NoError(t, journal.Close())
	journal = l.effects()
	_, err = journal.Sweep(within(t, 8*time.Second), map[string]hikae.Sweeper{"kvm.": p}, nil)
	require.ErrorAs(t, err, &busy)
	l.lives()

	require.NoError(t, reader.Close())
	require.NoError(t, journal.Close())
	require.NotZero(t, l.sweep())
	l.clean()
}

// lives checks that the monitor answers and that the guest writes.
func (l *lab) lives() {
	l.t.Helper()
	mon, err := qmp.Dial(within(l.t, 10*time.Second), l.guest.QMP())
	require.NoError(l.t, err)
	defer mon.Close()
	require.NoError(l.t, mon.Execute(within(l.t, 10*time.Second), "query-status", nil, nil))
	l.fx("fill", "/dev/vdb", "0", "65536", "2")
	l.fx("sync")
}

// stall connects to an export and asks for all that is in flight at once, and takes no answer.
func stall(t *testing.T, socket, export string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", socket)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = io.CopyN(io.Discard, c, 18)
	require.NoError(t, err)
	var b bytes.Buffer
	send := func(fields ...any) {
		for _, f := range fields {
			require.NoError(t, binary.Write(&b, binary.BigEndian, f))
		}
		_, err := b.WriteTo(c)
		require.NoError(t, err)
	}
	send(uint32(3), []byte("IHAVEOPT"), uint32(1), uint32(len(export)), []byte(export)) // fixed newstyle, no zeroes: by name
	_, err = io.CopyN(io.Discard, c, 10)
	require.NoError(t, err)
	for i := range uint64(12) {
		send(uint32(0x25609513), uint16(0), uint16(0), i, i*mib, uint32(mib)) // read
	}
	time.Sleep(500 * time.Millisecond) // QEMU has begun to answer
	return c
}
