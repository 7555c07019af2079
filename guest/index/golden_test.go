package index

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/index/list"
)

var update = flag.Bool("update", false, "write testdata/v1.txt anew")

// golden is what testdata/v1.txt holds.
var golden = [][]Entry{
	{
		{Type: list.Dir, ModUnix: 1_700_000_000, CreatedUnix: 1_600_000_000, Mode: 0o755, Owner: "0", Group: "0"},
		{Path: "etc", Type: list.Dir, ModUnix: 1_700_000_100, Mode: 0o755, Owner: "0", Group: "0"},
		{Path: "etc/hosts", Size: 220, ModUnix: 1_650_000_000, Mode: 0o644, Owner: "0", Group: "0"},
		{Path: "etc/localtime", Type: list.Link, ModUnix: 1_650_000_000, Mode: 0o777, Owner: "0", Group: "0", Target: "/usr/share/zoneinfo/UTC"},
		{Path: "proc", Type: list.Dir, Mode: 0o555, Owner: "0", Group: "0", Note: "another file system is mounted here"},
		{Path: "tmp/\xff\n", Size: 1 << 40, ModUnix: -1, Mode: 0o4755, Owner: "1000", Group: "1000"},
	},
	{{Path: "Users/Eve", Type: list.Dir, ModUnix: 1_700_000_000, CreatedUnix: 1_700_000_000, Mode: 16, Owner: "S-1-5-18"}},
}

// An index of version 1 opens for ever: testdata/v1.txt is one, as bytes in hexadecimal with what they mean.
func TestGolden(t *testing.T) {
	const file = "testdata/v1.txt"
	if *update {
		var out bytes.Buffer
		w, err := NewWriter(&out, nil)
		require.NoError(t, err)
		require.NoError(t, w.Volume(Volume{Mount: "/", Device: "/dev/sda1", Kind: "ext4", ID: "0a1b", Label: "root", System: list.POSIX}))
		for _, e := range golden[0] {
			require.NoError(t, w.Add(e))
		}
		require.NoError(t, w.Volume(Volume{Mount: "C:", Kind: "NTFS", System: list.Windows}))
		require.NoError(t, w.Add(golden[1][0]))
		w.Cut("the list was cut")
		require.NoError(t, w.Close())
		require.NoError(t, os.WriteFile(file, []byte(dump(t, out.Bytes())), 0o600))
	}
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	p := undump(t, string(text))
	x := open(t, p)
	require.Equal(t, "the list was cut", x.Volumes()[1].Cut)
	for i := range golden {
		require.Equal(t, golden[i], all(t, x.Walk(t.Context(), i, "")))
	}
	require.Equal(t, string(text), dump(t, p), "what is said of the bytes is so")
}

// dump writes an index out: lines of the file's bytes, and between them, after "#", what those mean once unpacked.
func dump(t *testing.T, p []byte) string {
	var out strings.Builder
	lines := func(prefix string, p []byte) {
		for i := 0; i < len(p); i += 32 {
			fmt.Fprintf(&out, "%s%x\n", prefix, p[i:min(i+32, len(p))])
		}
	}
	x := open(t, p)
	dec, err := newDecoder()
	require.NoError(t, err)
	defer dec.Close()
	out.WriteString("# head: magic, version\n")
	lines("", p[:headBytes])
	end := int64(headBytes)
	for i, v := range x.dir.volumes {
		for _, b := range v.blocks {
			fmt.Fprintf(&out, "# block at byte %d of volume %d, %s: %d entries, first %q\n", b.off, i, v.Mount, b.count, b.first)
			lines("", p[b.off:b.off+int64(b.packed)])
			plain, err := x.block(t.Context(), dec, &b)
			require.NoError(t, err)
			fmt.Fprintf(&out, "# unpacked, %d bytes:\n", b.plain)
			lines("#   ", plain)
			end = b.off + int64(b.packed)
		}
		for e, err := range x.Walk(t.Context(), i, "") {
			require.NoError(t, err)
			fmt.Fprintf(&out, "#   %q %v size=%d modified=%d created=%d mode=%o owner=%q group=%q target=%q note=%q\n",
				e.Path, e.Type, e.Size, e.ModUnix, e.CreatedUnix, e.Mode, e.Owner, e.Group, e.Target, e.Note)
		}
	}
	fmt.Fprintf(&out, "# directory at byte %d\n", end)
	lines("", p[end:len(p)-tailBytes])
	out.WriteString("# unpacked:\n")
	lines("#   ", x.dir.encode(nil))
	tail := p[len(p)-tailBytes:]
	out.WriteString("# tail: the directory's byte, its length packed and plain, its SHA-256, magic\n")
	for _, n := range []int{8, 4, 4, 32, 8} {
		lines("", tail[:n])
		tail = tail[n:]
	}
	return out.String()
}

func undump(t *testing.T, text string) []byte {
	var out []byte
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		p, err := hex.DecodeString(strings.TrimSpace(line))
		require.NoError(t, err)
		out = append(out, p...)
	}
	return out
}
