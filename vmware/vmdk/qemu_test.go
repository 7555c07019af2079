package vmdk_test

import (
	"bytes"
	"context"
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
	"github.com/hikae/hikae/pipe/diskfile"
)

// needs skips a test that cannot run without a program.
func needs(t testing.TB, programs ...string) {
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

func run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := tryRun(args...)
	require.NoError(t, err)
	return out
}

// qemuContent is what QEMU reads from a disk.
func qemuContent(t testing.TB, path string) []byte {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "content.raw")
	run(t, "qemu-img", "convert", "-f", "vmdk", "-O", "raw", path, raw)
	b, err := os.ReadFile(raw)
	require.NoError(t, err)
	require.NoError(t, os.Remove(raw))
	return b
}

// readAll reads an image in pieces of the given size.
func readAll(t testing.TB, img pipe.Image, piece int) []byte {
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

func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// requireExtents checks the promises of extents, and that what is called zero is.
func requireExtents(t testing.TB, img pipe.Image, content []byte, story string) {
	t.Helper()
	at := int64(0)
	for e, err := range pipe.Extents(t.Context(), img, 0, img.Size()) {
		require.NoError(t, err, "%s", story)
		require.Equal(t, at, e.Off, "gap or overlap\n%s", story)
		require.Positive(t, e.Len)
		at = e.End()
		if e.Kind == pipe.Zero {
			require.True(t, diskfile.IsZero(content[e.Off:e.End()]), "%v is not\n%s", e, story)
		}
	}
	require.Equal(t, img.Size(), at, "the end is missing\n%s", story)
}
