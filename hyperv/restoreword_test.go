package hyperv

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/hypervtest"
	"github.com/hikae/hikae/job"
)

// placed writes zeros over the first disk's second MiB by a restore in place, which ends well; or only begins one.
func placed(l *lab, g *hypervtest.Guest, j hikae.Journal, finish bool) {
	t, ctx := l.t, l.t.Context()
	m, err := l.machine(g)
	require.NoError(t, err)
	r, err := NewRestorer(l.site, nil)
	require.NoError(t, err)
	draft, err := r.InPlace(ctx, g.ID(), &hikae.RestoreOptions{Journal: j})
	require.NoError(t, err)
	d := m.Disks[0]
	require.NoError(t, draft.(job.Placer).Ready(ctx, []hikae.Disk{{Key: d.Key, Size: d.Size}}, nil))
	if !finish { // the session is dead: its files are closed by its end, and nothing else happens
		for _, p := range draft.(*placeDraft).disks {
			require.NoError(t, p.file.Close())
		}
		draft.(*placeDraft).free()
		return
	}
	target, err := draft.OpenDisk(ctx, d.Key)
	require.NoError(t, err)
	_, err = target.WriteAt(ctx, bytes.Repeat([]byte("restored"), 1<<17), 1<<20)
	require.NoError(t, err)
	require.NoError(t, target.Commit(ctx))
	_, err = draft.Commit(ctx)
	require.NoError(t, err)
	require.NoError(t, draft.Close())
}

// A restore in place; another one that dies before it writes; a sweep. A word stays in the notes, so that the base from before both is not
// believed: what the first wrote would be in no increment.
func TestDeadRestoreKeepsTheWordOfTheOneBefore(t *testing.T) {
	l := newLab(t, hypervtest.Options{})
	g, p := l.vm("web1", nil), l.provider(nil)
	base, _, err := l.backup(p, g, nil, newNote())
	require.NoError(t, err)
	require.NoError(t, g.PowerOff())
	placed(l, g, newNote(), true)
	j := newNote()
	placed(l, g, j, false)
	require.Len(t, j.left(), 1)
	require.NoError(t, p.Undo(t.Context(), j.left()[0], nil))
	require.NoError(t, g.PowerOn())
	require.NoError(t, g.Write(0, 6<<20, []byte("after")))
	next, _, err := l.backup(p, g, base, newNote())
	require.NoError(t, err)
	whole, _, err := l.backup(l.provider(&ProviderOptions{NoTracking: true}), g, nil, newNote()) // nobody wrote since
	require.NoError(t, err)
	sameContent(t, whole.content, next.content)
	require.NotEmpty(t, next.lost, "the base from before the restore was believed")
}
