package vhdx_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
)

// slow is files that take their time, and count how often each page of their tables was read.
type slow struct {
	*elsewhere
	mu    sync.Mutex
	pages map[string]map[int64]int
	fail  int // of the reads of pages, this many more fail
}

func (s *slow) Open(ctx context.Context, name string) (pipe.Image, error) {
	img, err := s.elsewhere.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	return slowImage{img, s, name}, nil
}

type slowImage struct {
	pipe.Image
	s    *slow
	name string
}

func (i slowImage) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	const page = 64 << 10
	if len(p) == page && off%page == 0 && off >= 3<<20 {
		time.Sleep(2 * time.Millisecond)
		i.s.mu.Lock()
		defer i.s.mu.Unlock()
		if i.s.fail > 0 {
			i.s.fail--
			return 0, errUnlucky
		}
		if i.s.pages[i.name] == nil {
			i.s.pages[i.name] = map[int64]int{}
		}
		i.s.pages[i.name][off]++
	}
	return i.Image.ReadAt(ctx, p, off)
}

var errUnlucky = errors.New("unlucky")

// Many read one chain at once: a page of its tables is read once, nobody else waits for it, and one that could not be read is
// asked for again.
func TestReadTogether(t *testing.T) {
	dir := t.TempDir()
	parent, child := filepath.Join(dir, "p.vhdx"), filepath.Join(dir, "c.avhdx")
	want := pair(t, parent, child, vhdx.CreateOptions{BlockSize: 1 << 20})
	s := &slow{elsewhere: &elsewhere{dir: dir}, pages: map[string]map[int64]int{}}
	img, err := vhdx.OpenIn(t.Context(), s, `C:\c.avhdx`, nil)
	require.NoError(t, err)
	s.fail = 1
	_, err = img.ReadAt(t.Context(), make([]byte, 10), 0)
	require.ErrorIs(t, err, errUnlucky)
	var all sync.WaitGroup
	for i := range 12 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for range 20 {
				p := make([]byte, 700+r.IntN(9000))
				off := r.IntN(len(want) - len(p))
				_, err := img.ReadAt(t.Context(), p, int64(off))
				if err != nil || !bytes.Equal(want[off:off+len(p)], p) {
					t.Errorf("at %d: %v", off, err)
				}
			}
		})
	}
	all.Wait()
	require.Len(t, s.pages, 2)
	for name, pages := range s.pages {
		for off, n := range pages {
			require.Equal(t, 1, n, "%s at %d", name, off)
		}
	}
	require.NoError(t, img.Close())
}
