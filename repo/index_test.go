package repo

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hikae/hikae/pipe"
)

// The index against a map, through growth and replacement (hazard H35).
func TestIndexAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x, err := newIndex("")
		require.NoError(t, err)
		defer x.close()
		model := map[pipe.ID]location{}
		for range rapid.IntRange(1, 1200).Draw(t, "steps") {
			var id pipe.ID
			// few distinct hashes and tags, so that probes collide
			id[0], id[8], id[16] = rapid.Byte().Draw(t, "h"), rapid.Byte().Draw(t, "t")&31, rapid.Byte().Draw(t, "r")&7
			switch loc := (location{plain: rapid.Uint32().Draw(t, "plain"), codec: pipe.S2}); rapid.IntRange(0, 9).Draw(t, "op") {
			case 0:
				if old, ok := model[id]; ok { // damaged there, stored again elsewhere
					x.markBad(id, old.pack)
					loc.pack = old.pack + 1
					_, ok, err := x.reusable(id)
					require.NoError(t, err)
					require.False(t, ok)
					require.NoError(t, x.add(id, loc))
					model[id] = loc
				}
			default:
				require.NoError(t, x.add(id, loc))
				if _, ok := model[id]; !ok {
					model[id] = loc
				}
			}
		}
		for id, want := range model {
			got, ok, err := x.lookup(id)
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, want, got)
		}
		_, ok, err := x.lookup(pipe.ID{31: 1})
		require.NoError(t, err)
		require.False(t, ok)
	})
}
