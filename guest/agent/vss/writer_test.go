package vss

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Every component is either added or comes along with exactly one that is; none both.
func TestExplicit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var all []Component
		paths := []string{""}
		for i := range rapid.IntRange(0, 12).Draw(t, "components") {
			c := Component{Path: rapid.SampledFrom(paths).Draw(t, "path"), Name: fmt.Sprintf("c%d", i), Selectable: rapid.Bool().Draw(t, "selectable")}
			all = append(all, c)
			paths = append(paths, c.full(), strings.ToUpper(c.full()))
		}
		added := map[string]bool{}
		for _, c := range explicit(all) {
			added[c.full()] = true
		}
		for _, c := range all {
			above := 0
			for _, p := range all {
				if p.Selectable && strings.HasPrefix(strings.ToLower(c.full())+`\`, strings.ToLower(p.full())+`\`) && p.full() != c.full() {
					above++
				}
			}
			require.Equal(t, above == 0, added[c.full()], "%q below %d selectable ones", c.full(), above)
		}
	})
}

func TestNames(t *testing.T) {
	t.Parallel()
	out := named([]Writer{{Name: "B"}, {Name: "A"}, {Name: "B"}, {Name: "evil\x1b[2J\r\n\u202eB"}, {Class: GUID{A: 0xAB}}, {Name: strings.Repeat("x", 1<<20)}})
	seen := map[string]bool{}
	for _, w := range out {
		require.NotEmpty(t, w.Name)
		require.False(t, seen[w.Name], w.Name)
		require.NotContains(t, w.Name, "\x1b")
		require.NotContains(t, w.Name, "\u202e")
		require.LessOrEqual(t, len(w.Name), maxText+8)
		seen[w.Name] = true
	}
	require.True(t, seen["B #2"])
	require.True(t, seen["{000000AB-0000-0000-0000-000000000000}"])
}

func TestStatus(t *testing.T) {
	t.Parallel()
	require.NoError(t, Status{State: Stable}.Err())
	require.NoError(t, Status{State: WaitingForFreeze}.Err())
	require.ErrorContains(t, Status{Name: "W", State: FailedAtFreeze}.Err(), "failed to freeze")
	require.ErrorContains(t, Status{Name: "W", State: Stable, Code: WriterTimeout}.Err(), "too slow")
	require.Error(t, Status{}.Err(), "unknown is not well")
	require.Equal(t, "state 99", State(99).String())
}

func TestHResult(t *testing.T) {
	t.Parallel()
	for code, m := range meanings {
		require.True(t, code.Failed(), m.name)
		require.Contains(t, code.String(), fmt.Sprintf("0x%08X", uint32(code)))
		require.Equal(t, m.name, code.Name())
	}
	require.Equal(t, "VSS_E_WRITERERROR_TIMEOUT", HResult(0x800423F2).Name())
	require.Equal(t, "code 0x8123ABCD", HResult(0x8123ABCD).String())
	require.True(t, WriterRetryable.Retryable())
	require.True(t, SnapshotSetInProgress.Retryable())
	require.False(t, WriterNonRetryable.Retryable())
	require.Contains(t, eAccessDenied.String(), "8194")
	e := &Error{Op: "AddToSnapshotSet", Object: `C:\`, Code: InsufficientStorage}
	require.Contains(t, e.Error(), `AddToSnapshotSet C:\: there is not enough room`)
	require.Contains(t, problem(e), "vssadmin resize shadowstorage")
}
