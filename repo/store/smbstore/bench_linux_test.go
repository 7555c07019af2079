package smbstore_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// The share's server and its client are on this machine; beside it the same on the disk that the server has.
func BenchmarkCreateAndRead(b *testing.B) {
	server := startSamba(b)
	local, err := dirstore.Init(b.TempDir())
	require.NoError(b, err)
	defer local.Close()
	for name, st := range map[string]store.Store{"share": server.open(b, "repo", nil), "disk": local} {
		for _, size := range []int{200, 16 << 20} {
			data := content(1, size)
			n := 0
			b.Run(fmt.Sprintf("%s/create/%d", name, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				for b.Loop() {
					n++
					require.NoError(b, st.Create(b.Context(), fmt.Sprintf("pack/%d/%d", size, n), data))
				}
			})
			b.Run(fmt.Sprintf("%s/read/%d", name, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				p := make([]byte, size)
				for b.Loop() {
					_, err := st.ReadAt(b.Context(), fmt.Sprintf("pack/%d/1", size), p, 0)
					require.NoError(b, err)
				}
			})
		}
	}
}
