package vmdk_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/vmware/vmdk"
)

var writeSeeds = flag.Bool("write-seeds", false, "write the seeds of the fuzzers anew")

// hooked is a folder with one file, whose operations can fail.
type hooked struct {
	b    []byte
	hook pipetest.Hook
}

func (f hooked) Open(context.Context, string) (pipe.Image, error) {
	return pipetest.HookImage(pipetest.Bytes(f.b), f.hook), nil
}

func requireKnown(t testing.TB, err error) {
	t.Helper()
	var (
		corrupt     *vmdk.CorruptError
		unsupported *vmdk.UnsupportedError
		reference   *vmdk.ReferenceError
		cid         *vmdk.CIDError
	)
	if !errors.As(err, &corrupt) && !errors.As(err, &unsupported) && !errors.As(err, &reference) && !errors.As(err, &cid) &&
		!errors.Is(err, fs.ErrPermission) {
		t.Fatalf("an error of no known type: %T %v", err, err)
	}
}

func corpus(f *testing.F, name string) {
	seeds, err := filepath.Glob("testdata/fuzz/" + name + "/*")
	if err != nil || len(seeds) < 3 {
		f.Fatalf("the corpus is missing: %d seeds, %v", len(seeds), err)
	}
}

// FuzzOpen opens any bytes as a disk and the extent that it names, and reads of it what can be read in bounded time.
// Whatever the bytes are: no panic, errors of the known types, extents without gaps, and zeros where extents say so.
func FuzzOpen(f *testing.F) {
	corpus(f, "FuzzOpen")
	f.Fuzz(func(t *testing.T, d, e []byte) {
		img, err := vmdk.OpenIn(t.Context(), memoryFolder{"d.vmdk": string(d), "e": string(e)}, "d.vmdk", nil)
		if err != nil {
			requireKnown(t, err)
			return
		}
		defer img.Close()
		readSome(t, img)
	})
}

// readSome walks a thousand extents and reads the start of fifty of them.
func readSome(t *testing.T, img *vmdk.Image) {
	at, count := int64(0), 0
	for e, err := range img.Extents(t.Context(), 0, min(img.Size(), 1<<34)) {
		if err != nil {
			requireKnown(t, err)
			break
		}
		require.Equal(t, at, e.Off)
		require.Positive(t, e.Len)
		if at = e.End(); count < 50 {
			readExtent(t, img, e)
		}
		if count++; count > 1000 {
			break
		}
	}
	require.LessOrEqual(t, at, img.Size())
}

func readExtent(t *testing.T, img *vmdk.Image, e pipe.Extent) {
	whole := make([]byte, min(e.Len, 64<<10))
	n, err := img.ReadAt(t.Context(), whole, e.Off)
	if err != nil {
		requireKnown(t, err)
		return
	}
	require.Equal(t, len(whole), n)
	if e.Kind == pipe.Zero {
		require.True(t, diskfile.IsZero(whole), "%v", e)
	}
	half := len(whole) / 2 // the same bytes by another way
	parts := make([]byte, len(whole))
	_, err = img.ReadAt(t.Context(), parts[:half], e.Off)
	require.NoError(t, err)
	_, err = img.ReadAt(t.Context(), parts[half:], e.Off+int64(half))
	require.NoError(t, err)
	require.Equal(t, whole, parts)
}

// FuzzStream reads any bytes as a stream in one pass: grains ascend and lie in the disk.
func FuzzStream(f *testing.F) {
	corpus(f, "FuzzStream")
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := vmdk.ReadStream(t.Context(), bytes.NewReader(b))
		if err != nil {
			requireKnown(t, err)
			return
		}
		at := int64(0)
		for g, err := range s.Grains(t.Context()) {
			if err != nil {
				requireKnown(t, err)
				return
			}
			require.GreaterOrEqual(t, g.Off, at)
			at = g.Off + int64(len(g.Data))
			require.LessOrEqual(t, at, s.Size())
		}
	})
}

// FuzzDescriptor: what is parsed, written, and parsed again is the same.
func FuzzDescriptor(f *testing.F) {
	corpus(f, "FuzzDescriptor")
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := vmdk.ParseDescriptor("d", b)
		if err != nil {
			require.ErrorIs(t, err, vmdk.ErrCorrupt)
			return
		}
		for k, v := range d.DDB {
			if strings.ContainsAny(k+v, "\"\r") || k != strings.TrimSpace(k) || strings.Contains(k, "=") {
				return // words that our own writer refuses
			}
		}
		if strings.ContainsAny(d.CreateType+d.ParentHint, "\"\r") {
			return
		}
		again, err := vmdk.ParseDescriptor("d", d.Append(nil))
		require.NoError(t, err, "%q", d.Append(nil))
		require.Equal(t, d, again)
	})
}

// TestSeeds holds the committed corpora against what the code here makes, so that they cannot be lost or grow stale.
func TestSeeds(t *testing.T) {
	all := map[string]string{}
	seed := func(name string, args ...string) {
		s := "go test fuzz v1\n"
		for _, a := range args {
			s += fmt.Sprintf("[]byte(%q)\n", a)
		}
		all[name] = s
	}
	for name, f := range forms() {
		seed("FuzzOpen/"+name, f["d.vmdk"], f["e"])
	}
	two := text("00000001", none, "", "RW 8 ZERO\nRDONLY 1 FLAT \"e\" 1\nNOACCESS 3 FLAT \"x\" 0\nRW 40 VMFSSPARSE \"e\"\n")
	seed("FuzzOpen/several", two, forms()["cowd"]["e"])
	seed("FuzzOpen/loop", text("00000001", "00000001", "d.vmdk", "RW 8 ZERO\n"), "")
	seed("FuzzOpen/delta", text("00000001", "00000002", "e", "RW 40 ZERO\n"), text("00000002", none, "", "RW 8 ZERO\n"))
	seed("FuzzStream/stream", forms()["stream"]["d.vmdk"])
	seed("FuzzStream/bomb", bomb(1 << 16)["d.vmdk"])
	seed("FuzzStream/front", forms()["hosted"]["d.vmdk"])
	seed("FuzzDescriptor/several", two)
	seed("FuzzDescriptor/delta", text("00000001", "00000002", "../a b/é.vmdk", "RW 8 ZERO\n"))
	seed("FuzzDescriptor/ddb", embedded+"ddb.uuid = \"60 00 C2\"\r\nddb.adapterType=\"ide\"\n# x\n\x00\x00")
	seed("FuzzDescriptor/noaccess", "# Disk DescriptorFile\nCID=\"0\"\nNOACCESS 0 FLAT \"\" 5")
	seed("FuzzStream/tables", frontTables())
	for name, want := range all {
		path := filepath.Join("testdata/fuzz", name)
		if *writeSeeds {
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
			require.NoError(t, os.WriteFile(path, []byte(want), 0o644))
		}
		got, err := os.ReadFile(path)
		require.NoError(t, err, "run: go test -run TestSeeds -write-seeds")
		if strings.Contains(name, "stream") || strings.Contains(name, "bomb") {
			continue // another version of the compressor may give other bytes
		}
		require.Equal(t, want, strings.ReplaceAll(string(got), "\r\n", "\n"), "%s: run: go test -run TestSeeds -write-seeds", name)
	}
}
