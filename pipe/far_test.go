package pipe_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
)

// farImage counts how many reads are under way, and lets them go on when as many are as it wants, or no more come.
type farImage struct {
	pipe.Image
	flight pipe.Flight
	want   int

	mu   sync.Mutex
	here int
	most int
	full chan struct{}
}

func (f *farImage) Flight() pipe.Flight { return f.flight }

func (f *farImage) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	f.mu.Lock()
	f.here++
	if f.most = max(f.most, f.here); f.most == f.want {
		close(f.full)
		f.want = 0
	}
	f.mu.Unlock()
	select {
	case <-f.full:
	case <-time.After(2 * time.Second):
	}
	defer func() {
		f.mu.Lock()
		f.here--
		f.mu.Unlock()
	}()
	return f.Image.ReadAt(ctx, p, off)
}

// From an image behind a line as many reads are under way as it says, and the buffers have room for them, whatever is
// wrapped around it.
func TestFarImage(t *testing.T) {
	content := make([]byte, 20<<20)
	for i := range content {
		content[i] = byte(i >> 12)
	}
	for name, wrap := range map[string]func(pipe.Image) pipe.Image{
		"alone":   func(i pipe.Image) pipe.Image { return i },
		"retried": func(i pipe.Image) pipe.Image { return pipe.Retry(i, nil) },
		"limited": func(i pipe.Image) pipe.Image { return pipe.Limit(i, pipe.NewLimiter(0)) },
		"cached":  func(i pipe.Image) pipe.Image { return pipe.Cache(i, nil) },
		"a part": func(i pipe.Image) pipe.Image {
			s, err := pipe.Section(i, 0, i.Size())
			require.NoError(t, err)
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img := &farImage{Image: pipetest.Bytes(content), flight: pipe.Flight{Reads: 16, Bytes: 64 << 20}, want: 16, full: make(chan struct{})}
			target := pipe.NewMemory(int64(len(content)))
			_, err := pipe.Copy(t.Context(), target, wrap(img), nil)
			require.NoError(t, err)
			require.Equal(t, 16, img.most)
			require.NoError(t, target.Commit(t.Context()))
			require.NoError(t, pipetest.CheckImage(t.Context(), target, pipetest.Bytes(content)))
		})
	}
	t.Run("near", func(t *testing.T) {
		t.Parallel()
		img := &farImage{Image: pipetest.Bytes(content[:6<<20]), want: 4, full: make(chan struct{})}
		target := pipe.NewMemory(6 << 20)
		_, err := pipe.Copy(t.Context(), target, img, nil)
		require.NoError(t, err)
		require.Equal(t, 4, img.most)
	})
}
