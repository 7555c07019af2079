package index

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/index/list"
)

// What the other end says of volumes once its list has ended stands in the index.
func TestIncomplete(t *testing.T) {
	var in, out bytes.Buffer
	w := list.NewWriter(&in)
	for _, mount := range []string{"/", "/var"} {
		require.NoError(t, w.Volume(Volume{Mount: mount, System: list.POSIX}))
		require.NoError(t, w.Add(Entry{Type: list.Dir}))
	}
	require.NoError(t, w.Close())
	why := func(mount string) string {
		if mount == "/var" {
			return strings.Repeat("x", 2*list.MaxText)
		}
		return ""
	}
	require.NoError(t, Build(&in, &out, &Options{Incomplete: why}))
	v := open(t, out.Bytes()).Volumes()
	require.Empty(t, v[0].Cut)
	require.Len(t, v[1].Cut, list.MaxText)
}

// A search ends with its context within a block, too, and no path takes long.
func TestFindBounds(t *testing.T) {
	x := open(t, write(t, nil, tree(2000)))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	keep := func(*Entry) bool { cancel(); return false }
	n := 0
	for _, err := range x.Find(ctx, 0, Query{Keep: keep}) {
		require.ErrorIs(t, err, context.Canceled)
		n++
	}
	require.Equal(t, 1, n)

	q := Query{Globs: []string{"a/**/b/c"}}
	p, err := q.patterns()
	require.NoError(t, err)
	require.True(t, p[0].fits("a/b/c"))
	require.True(t, p[0].fits("a/x/y/b/c"))
	require.False(t, p[0].fits("b/c"))
	require.False(t, p[0].fits("c"))
	deep := "a/" + strings.Repeat("x/", maxParts) + "b/"
	require.False(t, p[0].fits(deep+"c"))
}
