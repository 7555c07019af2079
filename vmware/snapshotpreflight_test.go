package vmware

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae/vmware/vmwaretest"
)

// R104: what stops a backup is found before anything is touched; what only weakens it is told once, and no more often than a
// person reads.
func TestSnapshotLooksFirst(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
	l.opts.FreePercent = 101
	_, _, err := l.try(nil)
	var stopped *PreflightError
	require.ErrorAs(t, err, &stopped)
	require.ErrorContains(t, err, "less than 101 %")
	require.False(t, l.vm().Tracked(), "nothing was touched")
	l.clean()
	l.opts.SkipPreflight = true
	require.Empty(t, l.point(nil).Warnings)
	l.opts.SkipPreflight, l.opts.FreePercent = false, 0

	l.server.Fail(vmwaretest.Fault{Method: "HasPrivilegeOnEntities", Fault: &types.SystemError{}})
	res := l.point(nil)
	require.Len(t, res.Warnings, 1)
	require.Contains(t, res.Warnings[0], "its privileges could not be looked at")

	s := &snapshot{client: l.client, provider: l.provider(), ref: l.vm().Ref()}
	s.was, err = l.client.machine(t.Context(), s.ref)
	require.NoError(t, err)
	s.vm = s.was.describe()
	begun := time.Now()
	require.NoError(t, s.preflight(t.Context()))
	took := time.Since(begun)
	t.Logf("figure: a look before a snapshot takes %v", took.Round(time.Millisecond))
	require.Less(t, took, 10*time.Second)
	require.Empty(t, s.warnings)
	findings := []Finding{{Severity: Weak, Object: "o", What: "told elsewhere", told: true}, {Severity: Note, Object: "o", What: "a note"}}
	for range 100 {
		findings = append(findings, Finding{Severity: Weak, Object: "o", What: "weak"})
	}
	s.tell(findings)
	require.Len(t, s.warnings, maxTold)
	require.Equal(t, "o: a note", s.vm.Facts["preflight"])
	require.NotContains(t, strings.Join(s.warnings, "\n"), "elsewhere")
}
