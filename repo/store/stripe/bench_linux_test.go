package stripe_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/repo/store/stripe"
)

const packSize = 16 << 20

// inMemory is a folder on tmpfs.
func inMemory(b testing.TB) string {
	if _, err := os.Stat("/dev/shm"); err != nil {
		b.Skip("there is no /dev/shm: a folder in memory")
	}
	dir, err := os.MkdirTemp("/dev/shm", "hikae-stripe-")
	require.NoError(b, err)
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// written is how fast packs are created, in bytes a second, by so many writers at once.
func written(b testing.TB, st store.Store, data []byte, writers int) float64 {
	begin := time.Now()
	var wg sync.WaitGroup
	packs := len(data) / packSize
	for w := range writers {
		wg.Go(func() {
			for i := w; i < packs; i += writers {
				if err := st.Create(b.Context(), fmt.Sprintf("data/%02d", i), data[i*packSize:(i+1)*packSize]); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	return float64(len(data)) / time.Since(begin).Seconds()
}

// spent is the processor time of f, in seconds: unlike its duration it hardly depends on who else uses the machine.
func spent(b testing.TB, f func()) float64 {
	at := func() float64 {
		var u syscall.Rusage
		require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
		return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
	}
	begin := at()
	f()
	return at() - begin
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

// BenchmarkInMemory measures, in turn, a single folder on tmpfs and 4+2 of them, and a rebuild of one of those. Reported
// are medians of the rounds: MB/s of objects, the share, and MB/s of shards made anew. Every pack has content of its own,
// as in a backup: one that is written again and again would come out of the processor's cache.
func BenchmarkInMemory(b *testing.B) {
	const packs, rounds = 24, 7
	data := content(1, packs*packSize)
	for _, writers := range []int{1, 2} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			var single, striped, share, rebuilt, cpu []float64
			for range b.N {
				for range rounds {
					one, six, again, used := measure(b, data, writers)
					single, striped = append(single, one), append(striped, six)
					share, rebuilt, cpu = append(share, 100*six/one), append(rebuilt, again), append(cpu, used)
				}
			}
			b.ReportMetric(median(single), "single-MB/s")
			b.ReportMetric(median(striped), "striped-MB/s")
			b.ReportMetric(median(share), "%-of-single")
			b.ReportMetric(median(cpu), "cpu-%-of-single")
			b.ReportMetric(median(rebuilt), "rebuilt-MB/s")
		})
	}
}

func measure(b testing.TB, data []byte, writers int) (single, striped, rebuilt, cpu float64) {
	root := inMemory(b)
	one, err := dirstore.Init(filepath.Join(root, "one"))
	require.NoError(b, err)
	oneCPU := spent(b, func() { single = written(b, one, data, writers) / 1e6 })
	require.NoError(b, one.Close())
	require.NoError(b, os.RemoveAll(filepath.Join(root, "one")))

	st, err := stripe.Init(b.Context(), dirs(b, root, 6), stripe.InitOptions{Data: 4, Parity: 2, Labels: labels(6)}, nil)
	require.NoError(b, err)
	sixCPU := spent(b, func() { striped = written(b, st, data, writers) / 1e6 })
	require.NoError(b, st.Close())
	require.NoError(b, os.RemoveAll(filepath.Join(root, "3")))
	rebuilt = rebuildRate(b, root)
	require.NoError(b, os.RemoveAll(root))
	return single, striped, rebuilt, 100 * oneCPU / sixCPU
}

func rebuildRate(b testing.TB, root string) float64 {
	var list []store.Store
	for i := range 6 {
		if i == 3 {
			list = append(list, nil)
			continue
		}
		st, err := dirstore.Open(filepath.Join(root, fmt.Sprint(i)))
		require.NoError(b, err)
		list = append(list, st)
	}
	st, err := stripe.Open(b.Context(), list, nil)
	require.NoError(b, err)
	fresh, err := dirstore.Init(filepath.Join(root, "new"))
	require.NoError(b, err)
	begin := time.Now()
	done, err := st.Rebuild(b.Context(), "d", &stripe.RebuildOptions{Store: fresh, Alone: true})
	require.NoError(b, err)
	rate := float64(done.Bytes) / time.Since(begin).Seconds() / 1e6
	require.NoError(b, st.Close())
	return rate
}
