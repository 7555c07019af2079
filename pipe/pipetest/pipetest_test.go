package pipetest

import (
	"os"
	"testing"

	"github.com/hikae/hikae/pipe"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOwnBackend(t *testing.T) {
	sizes := []int{64 << 10}
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier == "long" || tier == "release" {
		sizes = []int{4 << 10, 64 << 10, 256 << 10, 4 << 20}
	}
	for _, bs := range sizes {
		TestBackend(t, func(testing.TB) pipe.Backend { return NewBackend(bs) })
	}
}

func TestOwnTarget(t *testing.T) {
	TestTarget(t, func(t testing.TB, size int64) (pipe.Target, func() pipe.Image) {
		w, err := NewBackend(0).Begin(t.Context(), "vm", nil)
		require.NoError(t, err)
		target, err := w.Disk(t.Context(), "disk", size)
		require.NoError(t, err)
		return target, func() pipe.Image {
			id, err := w.Commit(t.Context(), nil)
			require.NoError(t, err)
			img, err := w.(*pointWriter).b.Open(t.Context(), id, "disk")
			require.NoError(t, err)
			return img
		}
	})
}

func TestMemory(t *testing.T) {
	TestTarget(t, func(t testing.TB, size int64) (pipe.Target, func() pipe.Image) {
		m := pipe.NewMemory(size)
		return m, func() pipe.Image { return m }
	})
}

func TestPattern(t *testing.T) {
	p := NewPattern(1, 3<<20+7, RandomLayout(1, 3<<20+7, pipe.Data, pipe.Zero, pipe.Free)...)
	TestImage(t, p, NewPattern(1, 3<<20+7, p.Layout()...))
	TestImage(t, p.Blank(), p.Blank())
}
