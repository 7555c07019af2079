package xfs

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// intentItem is an intent of a kind, or a done, without anything in it.
func intentItem(kind uint16) *item {
	h := make([]byte, 32)
	le.PutUint16(h, kind)
	le.PutUint64(h[8:], 77)
	return &item{total: 1, regions: [][]byte{h}}
}

// R018: a clone that was under way when the moment was taken is finished by the next mount: blocks that the tree of
// counts gives to one file alone are two files' then. A rule that fits the first must not take them from the second.
func TestCloneUnderWayKeepsItsSource(t *testing.T) {
	source, other := &inode{no: 100, flags2: flagReflink}, &inode{no: 101}
	for _, kind := range []uint16{itemRefIntent, itemMapIntent, itemSwapIntent, itemOwnerIntent} {
		f := &FS{sb: &super{}, between: map[uint64]struct{}{}}
		p := &replayer{f: f, budget: &budget{left: 1 << 20}, intents: map[intentKey]*intent{}}
		require.NoError(t, p.intend(kind, intentItem(kind)))
		require.NoError(t, p.finish())
		require.Equal(t, kind != itemOwnerIntent, f.kept(source) != "", "%#x", kind)
		require.Empty(t, f.kept(other))

		f.sharing = false
		require.NoError(t, p.done(kind+1, intentItem(kind+1)))
		require.NoError(t, p.finish())
		require.Empty(t, f.kept(source), "%#x is done", kind)
	}
}
