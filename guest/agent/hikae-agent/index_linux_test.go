package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/guest/index"
)

// R144: the component lists files, and what comes of it is an index, over either kind of channel.
func TestIndex(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a file"), []byte("12345"), 0o600))
	for name, ch := range map[string]guest.Channel{"streams": &launching{}, "runs": &here{}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := program(t)
			c := connect(t, ch, p, nil)
			require.True(t, c.Has(wire.Index))
			var sent bytes.Buffer
			a, err := c.Index(soon(t), wire.IndexArgs{Include: []string{dir}}, &sent)
			require.NoError(t, err)
			require.EqualValues(t, sent.Len(), a.Bytes)
			if a.Entries == 0 {
				t.Skip("the folder for temporary files is on no disk of this machine: set TMPDIR")
			}
			made := index.FromList(&sent, nil)
			defer made.Close()
			blob, err := io.ReadAll(made)
			require.NoError(t, err)
			x, err := index.Open(t.Context(), bytes.NewReader(blob), int64(len(blob)))
			require.NoError(t, err)
			found := 0
			for i := range x.Volumes() {
				for e, err := range x.Find(t.Context(), i, index.Query{Globs: []string{"a file"}}) {
					require.NoError(t, err)
					require.EqualValues(t, 5, e.Size)
					found++
				}
			}
			require.Equal(t, 1, found)
			_, err = c.Index(soon(t), wire.IndexArgs{Include: []string{"not absolute"}}, io.Discard)
			require.ErrorContains(t, err, "absolute")
			_, err = c.Remove(soon(t))
			require.NoError(t, err)
			gone(t, p)
		})
	}
}
