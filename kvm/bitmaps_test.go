package kvm

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
)

// A sweep keeps what points name: a session that committed lets go what it was built on; one that left an unfinished point lets go
// only what that replaced.
func TestDropOf(t *testing.T) {
	const mark = "hikae-aaaaaaaaaaaaaaaa"
	const next, base, before = mark + "-b0", "hikae-bbbbbbbbbbbbbbbb-b0", "hikae-cccccccccccccccc-b0"
	keep := func(ids ...hikae.ChangeID) []hikae.ChangeID { return ids }
	unfinished := hikae.OnlyUnfinished(next)
	for what, tt := range map[string]struct {
		base string
		old  []string
		keep []hikae.ChangeID
		want []string
	}{
		"neither":                             {base, []string{base}, keep(base), []string{next}},
		"committed":                           {base, []string{base}, keep(base, next), []string{base}},
		"committed on an unfinished point":    {base, []string{base, before}, keep(before, next), []string{base, before}},
		"left unfinished":                     {base, []string{base}, keep(base, next, unfinished), nil},
		"left unfinished, another one before": {base, []string{base, before}, keep(before, next, unfinished), []string{base}},
		"the base's was lost":                 {"", []string{base, before}, keep(before, next, unfinished), []string{base, ""}},
		"noted by an earlier version":         {base, nil, keep(base, next), []string{base}},
	} {
		require.ElementsMatch(t, tt.want, dropOf(mark, tt.keep)(tt.base, next, tt.old), what)
	}
}

func TestOlderBitmaps(t *testing.T) {
	const t0, t1 = "hikae-bbbbbbbbbbbbbbbb-b0", "hikae-cccccccccccccccc-b0"
	of := func(id hikae.ChangeID) map[string]hikae.ChangeID { return map[string]hikae.ChangeID{"d": id} }
	o := &hikae.SnapshotOptions{Since: of(t1), Past: of(t0), Unfinished: of(t1)}
	require.ElementsMatch(t, []string{t0, t1}, olderIDs(o, "d"))
	require.Equal(t, []string{t1}, replaced(o, "d"))
	require.Empty(t, olderIDs(o, "another"))
	require.Empty(t, replaced(&hikae.SnapshotOptions{Past: of(t0), Unfinished: of(t0)}, "d"))
	require.Empty(t, olderIDs(&hikae.SnapshotOptions{Since: of("vmware2:x"), Unfinished: of("")}, "d"))
}
