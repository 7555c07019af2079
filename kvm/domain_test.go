//go:build unix

package kvm

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
)

const reviewUUID = "6dc005b0-0797-4c02-a1ab-a1263e1f5e36"

// offDomain is a libvirt that knows one domain, which is off for a reason.
func offDomain(t *testing.T, reason, saved uint32) Domain {
	t.Helper()
	dir, err := os.MkdirTemp("", "lv") // short, for the socket
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "sock"))
	require.NoError(t, err)
	words := func(v ...uint32) (b []byte) {
		for _, w := range v {
			b = binary.BigEndian.AppendUint32(b, w)
		}
		return b
	}
	name := append(words(4), "web1"...)
	name = append(name, 0x6d, 0xc0, 0x05, 0xb0, 0x07, 0x97, 0x4c, 0x02, 0xa1, 0xab, 0xa1, 0x26, 0x3e, 0x1f, 0x5e, 0x36)
	answers := map[uint32][]byte{66: words(1, 0), 1: nil, 24: append(name, words(0xffffffff)...), 212: words(5, reason), 183: words(saved)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			for {
				head := make([]byte, 28)
				if _, err := io.ReadFull(c, head); err != nil {
					break
				}
				io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head))-28)
				payload := answers[binary.BigEndian.Uint32(head[12:])]
				binary.BigEndian.PutUint32(head, uint32(28+len(payload)))
				binary.BigEndian.PutUint32(head[16:], 1)
				c.Write(append(head, payload...))
			}
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return Domain{Socket: filepath.Join(dir, "sock"), URI: "qemu:///system", UUID: reviewUUID}
}

// A domain that moved to another host, or whose memory is saved, is no machine that is off: its disks are neither read as
// such nor written over. One that crashed, or was shut down, is.
func TestOffForAReason(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.img")
	require.NoError(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
	const shutdown, crashed, migrated, saved = 1, 3, 4, 5
	for _, c := range []struct {
		reason, saved uint32
		want          error
	}{{shutdown, 0, nil}, {crashed, 0, nil}, {migrated, 0, ErrMigrated}, {saved, 1, ErrSaved}, {shutdown, 1, ErrSaved}} {
		d := offDomain(t, c.reason, c.saved)
		m := Machine{Domain: &d, Name: "web1", Disks: []DiskImage{{Key: "a", Path: path, Format: formatRaw}}}
		snap, err := New([]Machine{m}, nil).Snapshot(t.Context(), m.ID(), nil)
		require.ErrorIs(t, err, c.want, c.reason)
		if err == nil {
			require.Equal(t, hikae.Offline, snap.Consistency())
			require.NoError(t, snap.Release(t.Context()))
		}
		draft, err := NewRestorer(&RestorerOptions{Machines: []Machine{m}}).InPlace(t.Context(), m.ID(), nil)
		require.ErrorIs(t, err, c.want, c.reason)
		if err == nil {
			require.NoError(t, draft.Close())
		}
	}
}
