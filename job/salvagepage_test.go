package job

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/memstore"
)

// Where a page of a disk's tree is lost nobody knows what stood below it: a salvage goes on, and lists all of it as one hole.
func TestSalvageOfLostPages(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r, err := repo.Init(ctx, st, nil, &repo.InitOptions{BlockSize: block, NoEncryption: true}, nil)
	require.NoError(t, err)
	defer r.Close()
	res := run(t, filled(21, 8*block), r, nil)
	for info, err := range st.List(ctx, "meta/") {
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(info.Name, "meta/"))
		require.NoError(t, st.Remove(ctx, info.Name))
	}
	damaged, err := repo.Open(ctx, st, nil, nil)
	require.NoError(t, err)
	defer damaged.Close()
	point, err := findPoint(ctx, damaged, res.Point)
	require.NoError(t, err)
	_, err = Restore(ctx, damaged, point, &memoryRestorer{}, nil)
	var corrupt *repo.ErrCorrupt
	require.ErrorAs(t, err, &corrupt)
	out, err := Restore(ctx, damaged, point, &memoryRestorer{}, &RestoreOptions{Salvage: true})
	require.NoError(t, err)
	require.Equal(t, []Hole{{Disk: "d0", Offset: 0, Length: 8 * block}}, out.Holes)
}
