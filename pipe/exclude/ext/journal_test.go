package ext_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/exclude/ext"
	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
)

// logged makes a volume whose log was written by debugfs, in one of the formats that it knows.
func logged(t testing.TB, mkfs, openLog string, writes ...string) string {
	t.Helper()
	img := shape{size: 16, args: mkfs}.make(t, "")
	dir := filepath.Dir(img)
	require.NoError(t, os.WriteFile(dir+"/a", bytes.Repeat([]byte("a"), 8<<10), 0o600))
	require.NoError(t, os.WriteFile(dir+"/b", bytes.Repeat([]byte("b"), 8<<10), 0o600))
	require.NoError(t, os.WriteFile(dir+"/escaped", append([]byte("\xc0\x3b\x39\x98"), bytes.Repeat([]byte("e"), 8<<10-4)...), 0o600))
	script := openLog + "\n" + strings.Join(writes, "\n") + "\njc\n"
	require.NoError(t, os.WriteFile(dir+"/script", []byte(strings.ReplaceAll(script, "DIR", dir)), 0o600))
	out := fsystest.Tool(t, nil, "debugfs", "-w", "-f", dir+"/script", img)
	require.NotContains(t, out, "Usage")
	return img
}

// Every format of the log, and what can be in it, replays to what e2fsck makes of it.
func TestLogFormats(t *testing.T) {
	t.Parallel()
	const block = 9000 // of a 16 MiB volume of 1 KiB blocks, free
	for name, mkfs := range map[string]string{
		"32 bits": "-t ext3 -b 1024", "64 bits": "-t ext4 -b 1024", "64 bits without sums": "-t ext4 -b 1024 -O ^metadata_csum",
	} {
		for _, openLog := range []string{"jo", "jo -c -v 1", "jo -c -v 2", "jo -c -v 3"} {
			if strings.Contains(openLog, "-c") && !strings.Contains(mkfs, "ext4 -b 1024") {
				continue
			}
			for what, writes := range map[string][]string{
				"one":                 {fmt.Sprintf("jw -b %d-%d DIR/a", block, block+3)},
				"the later wins":      {fmt.Sprintf("jw -b %d DIR/a", block), fmt.Sprintf("jw -b %d DIR/b", block)},
				"revoked":             {fmt.Sprintf("jw -b %d DIR/a", block), fmt.Sprintf("jw -r %d", block)},
				"revoked, then again": {fmt.Sprintf("jw -b %d DIR/a", block), fmt.Sprintf("jw -r %d", block), fmt.Sprintf("jw -b %d DIR/b", block)},
				"not committed":       {fmt.Sprintf("jw -b %d DIR/a", block), fmt.Sprintf("jw -b %d -c DIR/b", block)},
				"escaped":             {fmt.Sprintf("jw -b %d DIR/escaped", block)},
			} {
				t.Run(name+"/"+openLog+"/"+what, func(t *testing.T) {
					t.Parallel()
					img := logged(t, mkfs, openLog, writes...)
					f := open(t, img)
					if strings.HasPrefix(what, "revoked") && strings.Contains(openLog, "-c") && strings.HasPrefix(name, "64 bits without") {
						// debugfs takes revocations into the first kind of checksums; nobody who reads them does.
						require.Contains(t, f.Info().Doubt, "wrong checksum")
						require.Contains(t, fsystest.Tool(t, []int{0, 1}, "e2fsck", "-y", "-E", "journal_only", img), "was corrupt")
						return
					}
					require.Empty(t, f.Info().Doubt)
					got := ext.Replayed(t.Context(), f, block, 4)
					fsystest.Tool(t, []int{0, 1}, "e2fsck", "-y", "-E", "journal_only", img)
					require.Equal(t, ext.Replayed(t.Context(), open(t, img), block, 4), got)
					require.Equal(t, what != "revoked", bytes.ContainsAny(got, "abe"), "the test itself")
				})
			}
		}
	}
}

// A damaged log is a doubt, whatever the kernel would make of it; one that merely ends early is not.
func TestDamagedLog(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"log", "logsums"} {
		whole := golden(t, name)
		f, err := ext.Open(t.Context(), inMemory(whole))
		require.NoError(t, err)
		for what, at := range ext.LogPlaces(t.Context(), inMemory(whole)) {
			p := bytes.Clone(whole)
			p[at] ^= 0x10
			g, err := ext.Open(t.Context(), inMemory(p))
			require.NoError(t, err)
			switch {
			case what == "superblock" || name == "logsums" && what != "magic of the last commit":
				require.Contains(t, g.Info().Doubt, "log", what)
				require.Empty(t, freeOf(t, g))
			case what == "magic of the last commit":
				require.Empty(t, g.Info().Doubt)
				require.Less(t, g.Info().Replayed, f.Info().Replayed+1)
			}
		}
	}
}
