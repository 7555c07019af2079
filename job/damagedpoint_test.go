package job

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/memstore"
)

// A point that cannot be read ends no backup: it is told, and the newest one that can be read is built on. No sweep goes by
// what is left, unless a write-only client committed the point, which could be none at all.
func TestPointThatCannotBeRead(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	opts := &repo.OpenOptions{StateDir: t.TempDir()}
	owner, err := repo.Init(ctx, st, nil, &repo.InitOptions{BlockSize: block, NoEncryption: true}, opts)
	require.NoError(t, err)
	defer owner.Close()
	key, err := owner.EnrolWriter(ctx, []string{"web1"})
	require.NoError(t, err)
	client, err := repo.OpenWriter(ctx, st, memstore.New(nil), key, nil)
	require.NoError(t, err)
	defer client.Close()
	spoil := func(point string) {
		for info, err := range st.List(ctx, "") {
			require.NoError(t, err)
			if strings.Contains(info.Name, "manifest/") && strings.HasSuffix(info.Name, point) {
				st.Set(info.Name, []byte("nothing"))
			}
		}
	}

	h := filled(20, 8*block)
	first := run(t, h, owner, nil)
	spoil(run(t, h, client, &BackupOptions{Full: true}).Point)
	keep, err := KeepIDs(ctx, owner)
	require.NoError(t, err)
	require.Len(t, keep, 1)

	second := run(t, h, owner, nil)
	require.Equal(t, first.Point, second.Base)
	require.Len(t, second.Warnings, 1)
	require.Contains(t, second.Warnings[0], "cannot be built on")
	requireDisk(t, owner, second.Point, "d0", h.content("d0"))
	_, err = FindPoint(ctx, owner, "web1@latest")
	require.NoError(t, err, "a damaged point before it does not hide the latest")

	spoil(second.Point)
	_, err = KeepIDs(ctx, owner)
	var corrupt *repo.ErrCorrupt
	require.ErrorAs(t, err, &corrupt)
	_, err = findPoint(ctx, owner, "web1@latest")
	require.ErrorAs(t, err, &corrupt, "an older one is not taken for the latest")
	found, err := findPoint(ctx, owner, first.Point)
	require.NoError(t, err)
	require.Equal(t, first.Point, found.ID)
	_, err = findPoint(ctx, owner, second.Point)
	require.ErrorAs(t, err, &corrupt)
}
