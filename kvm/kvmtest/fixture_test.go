//go:build linux

package kvmtest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A kernel that is cut short, or whose header points outside of it, is an error.
func TestPayload(t *testing.T) {
	image := make([]byte, 8192)
	binary.LittleEndian.PutUint32(image[0x248:], 100)
	binary.LittleEndian.PutUint32(image[0x24c:], 50)
	copy(image[5*512+100:], "payload")
	got, err := payloadOf(image)
	require.NoError(t, err)
	require.Len(t, got, 50)
	require.Equal(t, "payload", string(got[:7]))
	binary.LittleEndian.PutUint32(image[0x24c:], 1<<31)
	for _, bad := range [][]byte{nil, image, image[:0x24f]} {
		_, err := payloadOf(bad)
		require.Error(t, err)
	}
}

// The kernel's unpacker wants folders before what is in them, and everything on four bytes.
func TestCpio(t *testing.T) {
	var b bytes.Buffer
	w := &cpio{w: bufio.NewWriter(&b), dirs: map[string]bool{}}
	w.add("/a/b/file", 0o100644, []byte("12345"))
	w.add("TRAILER!!!", 0, nil)
	require.NoError(t, errors.Join(w.err, w.w.Flush()))
	var names []string
	for p := b.Bytes(); len(p) > 0; {
		field := func(i int) int {
			n, err := strconv.ParseInt(string(p[6+8*i:14+8*i]), 16, 32)
			require.NoError(t, err)
			return int(n)
		}
		require.Equal(t, "070701", string(p[:6]))
		size, name := field(6), field(11)
		names = append(names, string(p[110:110+name-1]))
		at := (110 + name + 3) &^ 3
		if size > 0 {
			require.Equal(t, "12345", string(p[at:at+size]))
		}
		p = p[(at+size+3)&^3:]
	}
	require.Equal(t, []string{"a", "a/b", "a/b/file", "TRAILER!!!"}, names)
}

// Boot says that the fixture works at all, so that a failure elsewhere is not searched for here.
func TestBoot(t *testing.T) {
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier != "long" && tier != "release" {
		t.Skip("the tests of package kvm boot it; alone it needs HIKAE_TEST_TIER=long")
	}
	f, err := Build(t.Context())
	var missing *UnavailableError
	if errors.As(err, &missing) {
		t.Skip(err)
	}
	require.NoError(t, err)
	dir := t.TempDir()
	disk := filepath.Join(dir, "a.raw")
	require.NoError(t, MakeExt4(t.Context(), disk, 64<<20))
	begun := time.Now()
	g, err := f.Start(t.Context(), dir, []GuestDisk{{Path: disk, Format: "raw", ID: "vd0"}})
	require.NoError(t, err)
	t.Logf("ready after %v", time.Since(begun))
	defer g.Kill()
	require.Contains(t, g.Console(), "FX-READY")
	require.NotContains(t, g.Console(), "FX mount", g.Console())
	require.NotContains(t, g.Console(), "FX module", g.Console())
	require.NotContains(t, g.Console(), "FX start", g.Console())
}
