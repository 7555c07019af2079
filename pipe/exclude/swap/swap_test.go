package swap_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/swap"
)

// made is what mkswap makes of size bytes.
func made(t *testing.T, size int64, args ...string) []byte {
	t.Helper()
	tool, err := exec.LookPath("mkswap")
	if err != nil {
		if tool = "/usr/sbin/mkswap"; exec.Command(tool, "--version").Run() != nil {
			t.Skip("needs mkswap")
		}
	}
	path := filepath.Join(t.TempDir(), "swap")
	require.NoError(t, os.WriteFile(path, make([]byte, size), 0o600))
	out, err := exec.Command(tool, append(args, path)...).CombinedOutput()
	require.NoError(t, err, string(out))
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return data
}

func image(data []byte) pipe.Image { return pipe.FromReaderAt(bytes.NewReader(data), int64(len(data))) }

// R017: every page size that mkswap makes, in both byte orders; the first page stays.
func TestAreasByMkswap(t *testing.T) {
	const uuid = "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9fa"
	for _, page := range []int64{4096, 8192, 16384, 32768, 65536} {
		for _, order := range []string{"little", "big"} {
			data := made(t, 4<<20+512, "-q", "-p", strconv.FormatInt(page, 10), "-U", uuid, "-L", "auslagern")
			if order == "big" {
				for at := 1024; at < 1036; at += 4 {
					slices.Reverse(data[at : at+4])
				}
			}
			a, err := swap.Open(t.Context(), image(data))
			require.NoError(t, err)
			require.Empty(t, a.Doubt)
			require.Equal(t, page, a.Page)
			require.Equal(t, uuid, a.UUID)
			require.Equal(t, "auslagern", a.Label)
			require.Equal(t, int64(4<<20), a.Used, "what is behind the last page is not the area's")
			require.Equal(t, fsys.Range{Off: page, Len: 4<<20 - page}, a.Droppable())

			a, err = swap.Open(t.Context(), image(data[:4<<20-page]))
			require.NoError(t, err)
			require.Contains(t, a.Doubt, "longer")
			require.Zero(t, a.Droppable())
		}
	}
}

// A sleeping system's memory is in the area: nothing of it goes.
func TestHibernated(t *testing.T) {
	for _, mark := range []string{"S1SUSPEND\x00", "S2SUSPEND\x00", "ULSUSPEND\x00", "LINHIB0001", "\xED\xC3\x02\xE9\x98\x56\xE5\x0C22"} {
		data := made(t, 1<<20, "-q")
		copy(data[4096-10:], mark)
		a, err := swap.Open(t.Context(), image(data))
		require.NoError(t, err)
		require.True(t, a.Hibernated, "%q", mark)
		require.Zero(t, a.Droppable())
	}
}

func TestDoubtful(t *testing.T) {
	for name, spoil := range map[string]func(p []byte){
		"old kind":  func(p []byte) { copy(p[4086:], "SWAP-SPACE") },
		"version":   func(p []byte) { p[1024] = 2 },
		"empty":     func(p []byte) { copy(p[1028:], []byte{0, 0, 0, 0}) },
		"bad pages": func(p []byte) { copy(p[1032:], []byte{0xFF, 0xFF, 0, 0}) },
		"two marks": func(p []byte) { copy(p[8182:], "SWAPSPACE2") },
	} {
		data := made(t, 1<<20, "-q")
		spoil(data)
		a, err := swap.Open(t.Context(), image(data))
		require.NoError(t, err, name)
		require.NotEmpty(t, a.Doubt, name)
		require.Zero(t, a.Droppable(), name)
	}
	_, err := swap.Open(t.Context(), image(make([]byte, 1<<20)))
	require.ErrorIs(t, err, fsys.ErrOther)
	_, err = swap.Open(t.Context(), image(make([]byte, 100)))
	require.ErrorIs(t, err, fsys.ErrOther)
}

// FuzzParse: whatever the header says, what may go lies inside the area and behind its first page.
func FuzzParse(f *testing.F) {
	seed := make([]byte, 4096)
	copy(seed[4086:], "SWAPSPACE2")
	copy(seed[1024:], []byte{1, 0, 0, 0, 255, 0, 0, 0})
	f.Add(seed, int64(1<<20))
	f.Fuzz(func(t *testing.T, head []byte, size int64) {
		if len(head) > swap.MaxPage {
			head = head[:swap.MaxPage]
		}
		size = max(size, int64(len(head)))
		a, err := swap.Parse(head, size)
		if err != nil {
			return
		}
		if d := a.Droppable(); d.Len != 0 && (d.Off < swap.MinPage || d.Len < 0 || d.End() > size) {
			t.Fatalf("%+v of %d bytes", d, size)
		}
	})
}
