package guest

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest/agent/wire"
)

// R192, R193, R194: what the failure of a guest's task does to the VM's backup.
func TestPolicyJudges(t *testing.T) {
	failure := &StepError{Guest: "web1", Step: "connect", Err: ErrNoWay}
	for _, p := range []Policy{"", Require} {
		warning, stop := p.Judge(failure)
		require.ErrorIs(t, stop, ErrNoWay)
		require.Empty(t, warning)
	}
	warning, stop := Try.Judge(failure)
	require.NoError(t, stop)
	require.Contains(t, warning, "web1")
	require.Contains(t, warning, "ignored")
	for _, p := range []Policy{"", Require, Try, Disable} {
		warning, stop := p.Judge(nil)
		require.NoError(t, stop)
		require.Empty(t, warning)
	}
}

func TestParsePolicy(t *testing.T) {
	for text, want := range map[string]Policy{"": Require, "require": Require, " Try ": Try, "disable": Disable} {
		got, err := ParsePolicy(text)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := ParsePolicy("perhaps")
	require.ErrorIs(t, err, fs.ErrInvalid)
}

// good is a snapshot that went well: one application, one file system.
func good() *Quiesced {
	ok := []wire.Outcome{{Kind: "postgresql", Name: "main", OK: true}}
	return &Quiesced{
		Found:   []wire.Application{{Kind: "postgresql", Name: "main"}},
		Prepare: ok,
		Freeze:  &wire.FreezeAnswer{Frozen: []wire.Frozen{{Mount: "/", Type: "ext4"}}, Applications: ok},
		Thaw:    &wire.ThawAnswer{Held: true, Applications: ok},
	}
}

func TestReached(t *testing.T) {
	bad := []wire.Outcome{{Kind: "postgresql", Name: "main", Problem: "no such role\x1b[2J"}}
	for name, c := range map[string]struct {
		change func(q *Quiesced)
		want   hikae.Consistency
		why    string
	}{
		"all well":                {func(*Quiesced) {}, hikae.Application, ""},
		"no answer to freeze":     {func(q *Quiesced) { q.Freeze = nil }, hikae.Crash, "frozen"},
		"nothing could be frozen": {func(q *Quiesced) { q.Freeze.Frozen = nil }, hikae.Crash, "frozen"},
		"no answer to thaw":       {func(q *Quiesced) { q.Thaw = nil }, hikae.Crash, "lost"},
		"the watchdog was first":  {func(q *Quiesced) { q.Thaw.Held = false }, hikae.Crash, "watchdog"},
		"no applications": {func(q *Quiesced) {
			q.Found, q.Prepare, q.Freeze.Applications, q.Thaw.Applications = nil, nil, nil, nil
		}, hikae.Filesystem, ""},
		"the only one is skipped":         {func(q *Quiesced) { q.Skip = []string{"postgresql/main"} }, hikae.Filesystem, ""},
		"not prepared":                    {func(q *Quiesced) { q.Prepare = bad }, hikae.Filesystem, "no such role�[2J"},
		"not held":                        {func(q *Quiesced) { q.Freeze.Applications = bad }, hikae.Filesystem, "hold"},
		"did not hold to the end":         {func(q *Quiesced) { q.Thaw.Applications = bad }, hikae.Filesystem, "resume"},
		"one was left out without asking": {func(q *Quiesced) { q.Prepare = nil }, hikae.Filesystem, "did not take part"},
		"a second one failed": {func(q *Quiesced) { q.Found = append(q.Found, wire.Application{Kind: "mariadb", Name: "x"}) },
			hikae.Filesystem, "mariadb/x"},
		"a second one failed and is skipped": {func(q *Quiesced) {
			q.Found, q.Skip = append(q.Found, wire.Application{Kind: "mariadb", Name: "x"}), []string{"mariadb/x"}
		}, hikae.Application, ""},
		"a volume that cannot be frozen": {func(q *Quiesced) { q.Freeze.Skipped = []wire.Volume{{Mount: "/srv", Skip: "lives on another machine"}} },
			hikae.Application, "/srv was not frozen: lives on another machine"},
		"one that could not be opened": {func(q *Quiesced) {
			q.Freeze.Skipped = []wire.Volume{{Mount: "/srv", Type: "xfs", Skip: "it could not be opened within 3s"}}
		}, hikae.Crash, "/srv was not frozen: it could not be opened"},
		"one that cannot freeze": {func(q *Quiesced) {
			q.Freeze.Skipped = []wire.Volume{{Mount: "/srv", Type: "vfat", Skip: "it does not know how to freeze"}}
		}, hikae.Crash, "/srv"},
		"one of a program's, on a disk": {func(q *Quiesced) {
			q.Freeze.Skipped = []wire.Volume{{Mount: "/srv", Type: "fuseblk", Skip: "served by a program in the guest, which would stand still"}}
		}, hikae.Crash, "/srv"},
		"one that only a container sees": {func(q *Quiesced) {
			q.Freeze.Skipped = []wire.Volume{{Mount: "/data", Type: "ext4", Skip: "mounted in another mount namespace only"}}
		}, hikae.Crash, "/data"},
		"the firmware's partition": {func(q *Quiesced) {
			q.Freeze.Skipped = []wire.Volume{{Mount: "/boot/efi", Type: "vfat", Skip: "it does not know how to freeze"}}
		}, hikae.Application, "/boot/efi was not frozen"},
		"one that was not chosen": {func(q *Quiesced) {
			q.Mounts, q.Volumes = []string{"/"}, []wire.Volume{{Mount: "/"}, {Mount: "/home"}, {Mount: "/proc", Skip: inMemory}}
		}, hikae.Filesystem, "/home was not frozen: it was not among"},
		"all were chosen": {func(q *Quiesced) { q.Mounts, q.Volumes = []string{"/"}, []wire.Volume{{Mount: "/"}} }, hikae.Application, ""},
		"its data is on another machine": {func(q *Quiesced) {
			q.Found[0].Folders = []string{"/var/lib/pg"}
			q.Freeze.Skipped = []wire.Volume{{Mount: "/var/lib", Skip: "lives on another machine"}}
		}, hikae.Filesystem, "/var/lib/pg does not lie on what was frozen"},
		"its data is on what froze": {func(q *Quiesced) {
			q.Found[0].Folders = []string{"/var/lib/pg"}
			q.Freeze.Skipped = []wire.Volume{{Mount: "/var/lib/p", Skip: "lives on another machine"}}
		}, hikae.Application, "/var/lib/p was"},
		"one that came up in between": {func(q *Quiesced) {
			q.Prepare = append([]wire.Outcome{{Kind: "mariadb", Name: "db", Problem: "no socket"}}, q.Prepare...)
		}, hikae.Filesystem, "mariadb/db: prepare: no socket"},
		"what no disk holds is not worth a word": {func(q *Quiesced) { q.Freeze.Skipped = []wire.Volume{{Mount: "/dev/shm", Skip: inMemory}} },
			hikae.Application, ""},
	} {
		q := good()
		c.change(q)
		got, why := q.Reached()
		require.Equal(t, c.want, got, name)
		if c.why == "" {
			require.Empty(t, why, name)
		} else {
			require.Contains(t, strings.Join(why, "\n"), c.why, name)
		}
	}
}

func TestKnownRivals(t *testing.T) {
	seer := KnownRivals{}
	require.Empty(t, seer.Sees("g", &wire.InspectAnswer{Applications: []wire.Application{{Name: "main", State: "ready"}}}))
	require.Equal(t, "pgbackrest", seer.Sees("g", &wire.InspectAnswer{
		Applications: []wire.Application{{Name: "main", Logs: "archive_command runs pgBackRest"}}}))
	require.Equal(t, "veeam", seer.Sees("g", &wire.InspectAnswer{Notes: []string{"service VeeamVssSupport"}}))
}

// R144: scripts are waited for where there are any and they are to run.
func TestPatience(t *testing.T) {
	t.Parallel()
	s := &Session{}
	require.Zero(t, hikae.PatienceOf(s))
	s.found.Scripts = []string{"/etc/hikae/freeze.d/10-app", "/etc/hikae/freeze.d/20-app"}
	require.Equal(t, 2*scriptLimit, hikae.PatienceOf(s))
	s.opts.Scripts = Disable
	require.Zero(t, hikae.PatienceOf(s))
}
