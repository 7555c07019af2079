package hyperv

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/hypervtest"
	"github.com/hikae/hikae/job"
)

// Two disks of one VirtualDiskId, as a disk and its copy: each is read by its place, and whole, as the host's changes go by
// that id; never the one for the other.
func TestTwinDisks(t *testing.T) {
	t.Parallel()
	const id = "7D3F0B44-52A0-4C4E-9C1D-0A6E2B1F0C55"
	l := newLab(t, hypervtest.Options{})
	g := l.vm("web1", func(v *hypervtest.VM) { v.Disks[0].ID, v.Disks[1].ID = id, id })
	p := l.provider(nil)
	var last *point
	for n := range 3 {
		require.NoError(t, g.Write(n%2, 2<<20, []byte{byte(n), 'x'}))
		now, _, err := l.backup(p, g, last, nil)
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"scsi0-0", "scsi0-1"}, keysOf(now))
		require.EqualValues(t, labDisk+labDisk/2, now.read, "all")
		l.same(g, now)
		last = now
	}
	l.clean(g, refs(last)...)
}

func keysOf(p *point) (keys []string) {
	for k := range p.content {
		keys = append(keys, k)
	}
	return keys
}

// A copy that was attached beside the disk that a point has: a restore in place does not choose between them, and writes to neither.
func TestRestoreInPlaceTwins(t *testing.T) {
	t.Parallel()
	d := newDepot(t, hypervtest.Options{})
	g := d.vm("web1", nil)
	res, first := d.keep(g)
	m, err := d.machine(g)
	require.NoError(t, err)
	require.Equal(t, res.Disks[0].Key, m.Disks[0].Key)
	require.NoError(t, g.Replace(1, hypervtest.Disk{Size: labDisk, BlockSize: 1 << 20, ID: strings.ToUpper(m.Disks[0].Key), Path: m.Disks[0].Path + "-copy.vhdx"}))
	require.NoError(t, g.Write(0, 5<<20, []byte("of the disk")))
	require.NoError(t, g.Write(1, 5<<20, []byte("of the copy")))
	before := holding(t, g)

	_, err = job.Restore(t.Context(), d.repo, first, d.restorer(&RestorerOptions{PowerOff: true}), &job.RestoreOptions{InPlace: g.ID(), Journal: newNote()})
	var twins *TwinError
	require.True(t, errors.As(err, &twins), "%v", err)
	require.Len(t, twins.Disks, 2)
	require.Equal(t, m.Disks[0].Key, twins.ID)
	require.True(t, slices.Equal(before, holding(t, g)), "a disk was written to")
}

func holding(t *testing.T, g *hypervtest.Guest) (disks []string) {
	t.Helper()
	for n := range g.Disks() {
		b, err := g.Read(n, 0, int(g.Size(n)))
		require.NoError(t, err)
		disks = append(disks, string(b))
	}
	return disks
}
