package dirstore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/repo/store/dirstore/vfs"
)

const packSize = 16 << 20

// unsynced is a file system that says it synced, to see what syncing costs.
type unsynced struct{ vfs.FS }

func (u unsynced) SyncDir(string) error { return nil }

func (u unsynced) Create(name string) (vfs.File, error) {
	f, err := u.FS.Create(name)
	return unsyncedFile{f}, err
}

type unsyncedFile struct{ vfs.File }

func (unsyncedFile) Sync() error { return nil }

func BenchmarkCreate(b *testing.B) {
	data := make([]byte, packSize)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(data)
	for _, sync := range []bool{true, false} {
		for _, writers := range []int{1, 2, 4, 8} {
			b.Run(fmt.Sprintf("sync=%v/writers=%d", sync, writers), func(b *testing.B) {
				fsys, err := vfs.Open(b.TempDir())
				require.NoError(b, err)
				if !sync {
					fsys = unsynced{fsys}
				}
				st := dirstore.OpenFS(fsys, nil)
				defer st.Close()
				b.SetBytes(packSize)
				benchCreate(b, st, writers, data)
			})
		}
	}
}

// benchCreate shares b.N packs among so many writers, and removes packs behind them so that the disk does not fill.
func benchCreate(b *testing.B, st *dirstore.Store, writers int, data []byte) {
	ctx := context.Background()
	var next atomic.Int64
	errs := make(chan error, writers)
	b.ResetTimer()
	for range writers {
		go func() {
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					errs <- nil
					return
				}
				err := st.Create(ctx, fmt.Sprintf("pack/%x/%d", i%16, i), data)
				if err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	for range writers {
		require.NoError(b, <-errs)
	}
}

func BenchmarkCreateSmall(b *testing.B) {
	st, err := dirstore.Init(b.TempDir())
	require.NoError(b, err)
	defer st.Close()
	for i := range b.N {
		require.NoError(b, st.Create(b.Context(), fmt.Sprintf("log/%d", i), make([]byte, 500)))
	}
}

func BenchmarkReadAt(b *testing.B) {
	st, err := dirstore.Init(b.TempDir())
	require.NoError(b, err)
	defer st.Close()
	require.NoError(b, st.Create(b.Context(), "pack/1", make([]byte, packSize)))
	for _, n := range []int{4 << 10, 256 << 10} {
		b.Run(fmt.Sprintf("%dKiB", n>>10), func(b *testing.B) {
			p := make([]byte, n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for i := range b.N {
				_, err := st.ReadAt(b.Context(), "pack/1", p, int64(i*n)%(packSize-int64(n)))
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
