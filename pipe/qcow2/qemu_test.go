package qcow2_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
)

// needs skips a test that cannot run without a program.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed", p)
		}
	}
}

// tryRun runs a program to its end and returns what it printed.
func tryRun(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

func run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tryRun(args...)
	require.NoError(t, err)
	return out
}

// qemuIO runs many commands on one image in one process. A command may fail on its own (a compressed write where a
// cluster exists already does); whoever wants to know looks at what it printed.
func qemuIO(t *testing.T, path string, commands ...string) string {
	t.Helper()
	args := []string{"qemu-io", "-f", "qcow2", "-d", "unmap"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	out, _ := tryRun(append(args, path)...)
	require.NotContains(t, out, "can't open", "%v", commands)
	return out
}

// qemuContent is what QEMU reads from an image.
func qemuContent(t *testing.T, path, format string) []byte {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "content.raw")
	run(t, "qemu-img", "convert", "-f", format, "-O", "raw", path, raw)
	b, err := os.ReadFile(raw)
	require.NoError(t, err)
	require.NoError(t, os.Remove(raw))
	return b
}

// qemuExtents is what QEMU knows of an image without reading its data. Neighbours differ in kind.
func qemuExtents(t *testing.T, path, format string) []pipe.Extent {
	t.Helper()
	var list []struct {
		Start, Length int64
		Zero, Data    bool
	}
	require.NoError(t, json.Unmarshal([]byte(run(t, "qemu-img", "map", "-f", format, "--output=json", path)), &list))
	var all []pipe.Extent
	for _, e := range list {
		kind := pipe.Data
		if e.Zero || !e.Data {
			kind = pipe.Zero
		}
		all = appendExtent(all, pipe.Extent{Off: e.Start, Len: e.Length, Kind: kind})
	}
	return all
}

func appendExtent(all []pipe.Extent, e pipe.Extent) []pipe.Extent {
	if n := len(all); n > 0 && all[n-1].Kind == e.Kind && all[n-1].End() == e.Off {
		all[n-1].Len += e.Len
		return all
	}
	return append(all, e)
}

// extents asks an image for a range, checks the promises of [pipe.ExtentImage], and merges neighbours.
func extents(t *testing.T, img pipe.Image, off, n int64) []pipe.Extent {
	t.Helper()
	var all []pipe.Extent
	at := off
	for e, err := range pipe.Extents(t.Context(), img, off, n) {
		require.NoError(t, err)
		require.Equal(t, at, e.Off, "gap or overlap")
		require.Positive(t, e.Len)
		all = appendExtent(all, e)
		at = e.End()
	}
	require.Equal(t, off+n, at, "the end is missing")
	return all
}

// readAll reads an image in pieces of the given size.
func readAll(t *testing.T, img pipe.Image, piece int) []byte {
	t.Helper()
	out := make([]byte, img.Size())
	for off := 0; off < len(out); off += piece {
		p := out[off:min(off+piece, len(out))]
		n, err := img.ReadAt(t.Context(), p, int64(off))
		require.NoError(t, err, "at %d", off)
		require.Equal(t, len(p), n)
	}
	n, err := img.ReadAt(t.Context(), make([]byte, 1), img.Size())
	require.Equal(t, io.EOF, err)
	require.Zero(t, n)
	return out
}
