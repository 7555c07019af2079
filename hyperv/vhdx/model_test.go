package vhdx_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
)

// model is what a disk must hold: zeros but for a few windows.
type model struct {
	size    int64
	windows []int64 // where each begins
	content [][]byte
}

const window = 3 << 19 // one and a half of the smallest block

// newModel puts windows at the disk's ends and at the borders of what one bitmap covers.
func newModel(r *rand.Rand, blockSize, sector int64) *model {
	m := &model{size: (1 + r.Int64N(5<<20)) &^ (sector - 1)}
	covers := (1 << 23) * sector
	if r.IntN(3) == 0 {
		m.size = covers + (1+r.Int64N(8<<20))&^(sector-1)
	}
	m.size = max(m.size, sector)
	at := int64(0)
	for _, want := range []int64{0, covers - window/2, m.size - window} {
		want = max(want, at)
		if want >= m.size {
			break
		}
		m.windows = append(m.windows, want)
		n := min(window, m.size-want)
		m.content = append(m.content, make([]byte, n))
		at = want + n
	}
	return m
}

func (m *model) clone() *model {
	c := &model{size: m.size, windows: m.windows}
	for _, b := range m.content {
		c.content = append(c.content, bytes.Clone(b))
	}
	return c
}

// step changes target and model in the same way. base is what the target stands on, for Unchanged.
func (m *model) step(t testing.TB, r *rand.Rand, target pipe.ExtentTarget, base *model, sector int64) {
	t.Helper()
	i := r.IntN(len(m.windows))
	w := m.content[i]
	off := r.Int64N(int64(len(w)))
	n := 1 + r.Int64N(min(int64(len(w))-off, []int64{700, 20_000, 1 << 20, window}[r.IntN(4)]))
	if r.IntN(2) == 0 { // whole sectors
		off = off &^ (sector - 1)
		n = max(n&^(sector-1), min(sector, int64(len(w))-off))
	}
	if r.IntN(12) == 0 { // all of it
		off, n = 0, int64(len(w))
	}
	at := m.windows[i] + off
	switch k := r.IntN(8); {
	case k < 5:
		p := noise(r, int(n))
		if r.IntN(6) == 0 {
			clear(p)
		}
		put(t, target, p, at)
		copy(w[off:], p)
	case k == 5 && base != nil:
		require.NoError(t, target.Mark(t.Context(), pipe.Extent{Off: at, Len: n, Kind: pipe.Unchanged}))
		copy(w[off:off+n], base.content[i][off:])
	default:
		require.NoError(t, target.Mark(t.Context(), pipe.Extent{Off: at, Len: n, Kind: []pipe.Kind{pipe.Zero, pipe.Free, pipe.Swap}[k%3]}))
		clear(w[off : off+n])
	}
}

// compare is the first difference.
func (m *model) compare(t testing.TB, img pipe.Image) error {
	t.Helper()
	if img.Size() != m.size {
		return fmt.Errorf("size %d, want %d", img.Size(), m.size)
	}
	buf := make([]byte, window)
	for i, at := range m.windows {
		p := buf[:len(m.content[i])]
		if _, err := img.ReadAt(t.Context(), p, at); err != nil {
			return err
		}
		if !bytes.Equal(p, m.content[i]) {
			for j := range p {
				if p[j] != m.content[i][j] {
					return fmt.Errorf("byte %d is %#x, want %#x", at+int64(j), p[j], m.content[i][j])
				}
			}
		}
	}
	return m.compareExtents(t, img)
}

func (m *model) compareExtents(t testing.TB, img pipe.Image) error {
	at := int64(0)
	for e, err := range pipe.Extents(t.Context(), img, 0, img.Size()) {
		switch {
		case err != nil:
			return err
		case e.Off != at || e.Len <= 0:
			return fmt.Errorf("extent %v after %d", e, at)
		}
		at = e.End()
		for i, from := range m.windows {
			lo, hi := max(e.Off, from), min(e.End(), from+int64(len(m.content[i])))
			if lo < hi && e.Kind == pipe.Zero && len(bytes.TrimLeft(m.content[i][lo-from:hi-from], "\x00")) > 0 {
				return fmt.Errorf("%v is not zero", e)
			}
		}
	}
	if at != m.size {
		return fmt.Errorf("extents end at %d", at)
	}
	return nil
}

// history makes one chain by a seed and compares every file of it with its model, after the last one was made.
func history(t testing.TB, dir string, seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 7))
	sector := []int64{512, 4096}[r.IntN(2)]
	block := int64(1) << (20 + r.IntN(3))
	m := newModel(r, block, sector)
	var models []*model
	var paths []string
	for depth := range 1 + r.IntN(4) {
		path := filepath.Join(dir, fmt.Sprintf("%d-%d.vhdx", seed, depth))
		opts := &vhdx.CreateOptions{BlockSize: block, SectorSize: sector}
		opts.Type = vhdx.Type(r.IntN(5) / 4 * int(vhdx.Fixed))
		var base *model
		if depth > 0 {
			opts.Parent, base = paths[depth-1], models[depth-1]
			opts.BlockSize = int64(1) << (20 + r.IntN(3))
		}
		if m.size > 1<<30 {
			opts.Type = vhdx.Dynamic
		}
		target, err := vhdx.Create(t.Context(), path, m.size, opts)
		if err != nil {
			return err
		}
		for range r.IntN(12) {
			m.step(t, r, target, base, sector)
		}
		if err := target.Commit(t.Context()); err != nil {
			return err
		}
		if r.IntN(2) == 0 {
			if err := inPlace(t, r, path, m, sector); err != nil {
				return err
			}
		}
		models, paths = append(models, m.clone()), append(paths, path)
	}
	for i := range paths {
		img, err := vhdx.Open(t.Context(), paths[i], nil)
		if err != nil {
			return err
		}
		if err := models[i].compare(t, img); err != nil {
			return fmt.Errorf("file %d of %d: %w", i, len(paths), err)
		}
		if err := img.Close(); err != nil {
			return err
		}
	}
	last := len(paths) - 1
	if err := elsewhereHistory(t, r, dir, paths[last], models[last], sector); err != nil {
		return err
	}
	for _, p := range paths {
		if err := os.Remove(p); err != nil {
			return err
		}
	}
	return nil
}

// inPlace goes on writing into a file, and half of the time leaves it as a killed writer would after a Flush.
func inPlace(t testing.TB, r *rand.Rand, path string, m *model, sector int64) error {
	d, err := vhdx.OpenDisk(t.Context(), path, nil)
	if err != nil {
		return err
	}
	for range r.IntN(8) {
		m.step(t, r, d, nil, sector)
		if r.IntN(3) == 0 {
			if err := d.Flush(t.Context()); err != nil {
				return err
			}
		}
	}
	if r.IntN(2) == 0 {
		return d.Commit(t.Context())
	}
	if err := d.Flush(t.Context()); err != nil {
		return err
	}
	return d.Close()
}

// Layouts and chains of all kinds, against a model: 5,000 in the long tier, a sample in the fast one. R092.
func TestGeneratedChains(t *testing.T) {
	count := uint64(15)
	if longTier() {
		count = 5000
	}
	dir := t.TempDir()
	for seed := range count {
		if err := history(t, dir, seed); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if seed%1000 == 999 {
			t.Logf("%d chains so far", seed+1)
		}
	}
	t.Logf("%d chains, no difference", count)
}

// A block that is zero in a child is zero, whatever its parent has there, and takes no space in the child.
func TestZeroBlockInChild(t *testing.T) {
	dir := t.TempDir()
	parent, child := filepath.Join(dir, "p.vhdx"), filepath.Join(dir, "c.avhdx")
	want := noise(rand.New(rand.NewPCG(1, 8)), 4<<20)
	create(t, parent, 4<<20, &vhdx.CreateOptions{BlockSize: 1 << 20}, func(w pipe.ExtentTarget) { put(t, w, want, 0) })
	create(t, child, 0, &vhdx.CreateOptions{Parent: parent, BlockSize: 1 << 20}, func(w pipe.ExtentTarget) {
		require.NoError(t, w.Mark(t.Context(), pipe.Extent{Off: 1 << 20, Len: 1 << 20, Kind: pipe.Zero}))
		put(t, w, make([]byte, 1<<20), 3<<20)
	})
	clear(want[1<<20 : 2<<20])
	clear(want[3<<20:])
	requireContent(t, open(t, child, nil), want)
	fi, err := os.Stat(child)
	require.NoError(t, err)
	require.Equal(t, int64(4<<20), fi.Size(), "tables alone")
}
