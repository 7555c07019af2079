package replica

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
)

const benchSize = 256 << 20

func benchContent() []byte {
	p := make([]byte, benchSize)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(p)
	return p
}

func benchPoint(b *testing.B, s *Site, base string, img pipe.Image) string {
	w, err := s.Begin(b.Context(), "vm", &pipe.PointOptions{Base: base})
	require.NoError(b, err)
	defer w.Close()
	target, err := w.Disk(b.Context(), "disk", img.Size())
	require.NoError(b, err)
	_, err = pipe.Copy(b.Context(), target, img, nil)
	require.NoError(b, err)
	require.NoError(b, target.Commit(b.Context()))
	id, err := w.Commit(b.Context(), nil)
	require.NoError(b, err)
	return id
}

// BenchmarkWrite writes whole points of 256 MiB, durably.
func BenchmarkWrite(b *testing.B) {
	s, img := newSite(b), pipetest.Bytes(benchContent())
	b.SetBytes(benchSize)
	for b.Loop() {
		benchPoint(b, s, "", img)
		b.StopTimer()
		_, err := s.Keep(b.Context(), "vm", 1)
		require.NoError(b, err)
		b.StartTimer()
	}
}

// BenchmarkRead reads a point of 256 MiB, comparing sums, alone and behind 30 increments.
func BenchmarkRead(b *testing.B) {
	for _, depth := range []int{1, 31} {
		b.Run(fmt.Sprint(depth), func(b *testing.B) {
			s, content := newSite(b), benchContent()
			id := benchPoint(b, s, "", pipetest.Bytes(content))
			for i := range depth - 1 {
				id = benchPoint(b, s, id, benchChange(content, int64(i)))
			}
			img, err := s.Open(b.Context(), id, "disk")
			require.NoError(b, err)
			defer img.Close()
			p := make([]byte, 1<<20)
			b.SetBytes(benchSize)
			for b.Loop() {
				for off := int64(0); off < benchSize; off += int64(len(p)) {
					_, err := img.ReadAt(b.Context(), p, off)
					require.NoError(b, err)
				}
			}
		})
	}
}

// benchChange is a content of which 64 KiB in each 8 MiB are told to have changed.
func benchChange(content []byte, i int64) pipe.Image {
	var told []pipe.Extent
	for off := int64(0); off < benchSize; off += 8 << 20 {
		at := off + i*clusterSize
		told = append(told, pipe.Extent{Off: off, Len: at - off, Kind: pipe.Unchanged}, pipe.Extent{Off: at, Len: clusterSize, Kind: pipe.Data},
			pipe.Extent{Off: at + clusterSize, Len: off + 8<<20 - at - clusterSize, Kind: pipe.Unchanged})
		content[at]++
	}
	return pipetest.WithExtents(pipetest.Bytes(content), nonEmpty(told)...)
}

func nonEmpty(list []pipe.Extent) (out []pipe.Extent) {
	for _, e := range list {
		if e.Len > 0 {
			out = append(out, e)
		}
	}
	return out
}

// BenchmarkIncrement makes an increment of 2 MiB on a disk of 256 MiB and merges the oldest of 4 points, both durably.
func BenchmarkIncrement(b *testing.B) {
	s, content := newSite(b), benchContent()
	id := benchPoint(b, s, "", pipetest.Bytes(content))
	for i := int64(0); b.Loop(); i = (i + 1) % 100 {
		id = benchPoint(b, s, id, benchChange(content, i))
		_, err := s.Keep(b.Context(), "vm", 4)
		require.NoError(b, err)
	}
}
