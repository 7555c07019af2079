package job

import (
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

func newRepository(t *testing.T) *repo.Repository {
	t.Helper()
	st, err := dirstore.Init(filepath.Join(t.TempDir(), "repo"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	r, err := repo.Init(t.Context(), st, nil, &repo.InitOptions{BlockSize: block, NoEncryption: true}, &repo.OpenOptions{StateDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// R005, R174, R182: the same story with a real repository at the other end.
func TestBackupIntoARepository(t *testing.T) {
	r := newRepository(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	h := filled(20, 24*block+512, 9*block)
	points := map[string][2][]byte{}
	var last Result
	for i := range 4 {
		last = run(t, h, r, &BackupOptions{Full: i == 2})
		points[last.Point] = [2][]byte{h.content("d0"), h.content("d1")}
		if i > 0 && i != 2 {
			require.Equal(t, Changed, last.Disks[0].Method, last.Fallbacks)
		}
		require.GreaterOrEqual(t, last.Stored, last.Disks[0].Stored+last.Disks[1].Stored)
		require.Equal(t, last.Parity > 0, last.Stored > 0)
		scribble(h, rnd, "d0", 3)
		scribble(h, rnd, "d1", 1)
	}
	for point, disks := range points {
		requireDisk(t, r, point, "d0", disks[0])
		requireDisk(t, r, point, "d1", disks[1])
	}
	info, err := FindPoint(t.Context(), r, "web1@latest")
	require.NoError(t, err)
	require.Equal(t, last.Point, info.ID)
	require.NotEmpty(t, info.Tracking)
	keep, err := KeepIDs(t.Context(), r)
	require.NoError(t, err)
	require.Len(t, keep, 4)
	report, err := r.Verify(t.Context(), &repo.VerifyOptions{DataPercent: 100})
	require.NoError(t, err)
	require.True(t, report.OK)
}

// A session that fails in the middle leaves the repository good and its last point the newest; the next is right.
func TestFailedBackupIntoARepository(t *testing.T) {
	r := newRepository(t)
	h := filled(21, 12*block)
	first := run(t, h, r, nil)
	h.write("d0", []byte("news"), 3*block)
	for _, op := range []string{"missing", "putblock", "mark", "commit", "blob", "commitpoint"} {
		fault := pipetest.FailNth(1, true, op)
		_, err := Backup(t.Context(), h, "", pipetest.HookBackend(r, fault.Hook), &BackupOptions{Full: op == "putblock"})
		require.True(t, fault.Fired(), op)
		require.ErrorIs(t, err, pipetest.ErrFault, op)
		require.Zero(t, h.snapshots)
		require.Equal(t, []string{first.Point}, pointsOf(t, r), op)
	}
	next := run(t, h, r, nil)
	require.Equal(t, Changed, next.Disks[0].Method)
	requirePoint(t, r, next.Point, h)
	report, err := r.Verify(t.Context(), &repo.VerifyOptions{DataPercent: 100})
	require.NoError(t, err)
	require.True(t, report.OK)
}

func TestFindPoint(t *testing.T) {
	h := filled(22, block)
	b := pipetest.NewBackend(block)
	var ids []string
	for range 3 {
		ids = append(ids, run(t, h, b, nil).Point)
	}
	for spec, want := range map[string]string{ids[0]: ids[0], ids[1][:8]: ids[1], "web1@latest": ids[2], "web1@latest~0": ids[2], "web1@latest~2": ids[0]} {
		p, err := FindPoint(t.Context(), b, spec)
		require.NoError(t, err, spec)
		require.Equal(t, want, p.ID, spec)
	}
	for _, spec := range []string{"", ids[0][:3], "nope", "web1@latest~3", "web1@latest~-1", "web1@latest~x", "web1@latestx", "db1@latest", "@latest"} {
		_, err := FindPoint(t.Context(), b, spec)
		require.Error(t, err, spec)
	}
}

func TestPlanCanBePrinted(t *testing.T) {
	h := filled(23, block, 2*block, block, block)
	b := pipetest.NewBackend(block)
	first := run(t, h, b, &BackupOptions{Disks: []string{"d0", "d1", "d3"}})
	h.disks["d1"].data = append(h.disks["d1"].data, 1)
	h.skip = map[string]string{"d3": "independent"}
	p, err := PlanBackup(t.Context(), h, "web1", b, nil)
	require.NoError(t, err)
	require.Equal(t, "web1, onto base "+first.Point+`
  d0: 65536 bytes, what changed
  d1: 131073 bytes, all data: the disk was resized from 131072 to 131073 bytes
  d2: 65536 bytes, all data: the disk is new: the base point does not have it
  d3: skipped: independent
`, p.String())
	p, err = PlanBackup(t.Context(), h, "web1", b, &BackupOptions{Full: true, Name: "x"})
	require.NoError(t, err)
	require.Contains(t, p.String(), "x, onto no base\n  d0: 65536 bytes, all data\n")
	require.Zero(t, h.snapshots)
}

// A provider is told what the newest point rests on, which nothing is built on afterwards, also where the backup is not an increment on it.
func TestPlanTellsThePast(t *testing.T) {
	h := filled(23, block)
	b := pipetest.NewBackend(block)
	first := run(t, h, b, nil)
	newest := run(t, h, b, nil)
	of := func(o *BackupOptions) (since, past map[string]hikae.ChangeID) {
		p, err := PlanBackup(t.Context(), h, "web1", b, o)
		require.NoError(t, err)
		return p.since(), p.past()
	}
	usual, past := of(nil)
	require.NotEmpty(t, usual)
	require.Equal(t, usual, past)
	since, past := of(&BackupOptions{Full: true})
	require.Nil(t, since)
	require.Equal(t, usual, past)
	since, past = of(&BackupOptions{Base: first.Point})
	require.NotEqual(t, usual, since)
	require.Equal(t, usual, past, "of %s", newest.Point)
	_, past = of(&BackupOptions{Full: true, Name: "another"})
	require.Empty(t, past)
}

func TestShareOutParity(t *testing.T) {
	disks := []DiskResult{{Stored: 300}, {Stored: 0}, {Stored: 100, Parity: 5}}
	share(disks, 400, 41)
	require.Equal(t, int64(41+5), disks[0].Parity+disks[1].Parity+disks[2].Parity)
	require.Zero(t, disks[1].Parity)
	share(disks, 0, 10)
	require.Equal(t, int64(46), disks[0].Parity+disks[1].Parity+disks[2].Parity)
}

// Totals weigh each disk by its time, and stages that only some disks had count by name.
func TestTotals(t *testing.T) {
	var sum totals
	sum.add(pipe.Stats{Duration: 3e9, Stages: []pipe.StageStat{{Name: "read", Side: "source", Busy: 1}, {Name: "write", Side: "target", Busy: 0.2}}})
	sum.add(pipe.Stats{Duration: 1e9, Stages: []pipe.StageStat{{Name: "read", Side: "source", Busy: 0}, {Name: "compress", Side: "pipe", Busy: 1}, {Name: "write", Side: "target", Busy: 0.6}}})
	require.Equal(t, map[string]float64{"read": 0.75, "compress": 0.25, "write": 0.3}, sum.shares())
	require.Equal(t, "source", sum.bottleneck())
	require.Empty(t, (&totals{}).bottleneck())
}
