package repo

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

// openGolden reads a golden repository into memory.
func openGolden(t testing.TB, name string) (goldenFile, *memstore.Store) {
	t.Helper()
	base := filepath.Join("testdata", "golden", name)
	text, err := os.ReadFile(base + ".json")
	require.NoError(t, err)
	var g goldenFile
	require.NoError(t, json.Unmarshal(text, &g))
	packed, err := os.ReadFile(base + ".tar.gz")
	require.NoError(t, err)
	z, err := gzip.NewReader(bytes.NewReader(packed))
	require.NoError(t, err)
	st := memstore.New(nil)
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return g, st
		}
		require.NoError(t, err)
		content, err := io.ReadAll(r)
		require.NoError(t, err)
		st.Set(h.Name, content)
	}
}

func openGoldenClient(t testing.TB, g goldenFile, st store.Store, opts *OpenOptions) *Repository {
	t.Helper()
	r := newClosed(st, opts)
	r.every = g.CheckpointEvery
	require.NoError(t, r.unlock(t.Context(), g.Secret.opens(t)))
	r, err := r.start(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// filesOf is all that a store holds.
func filesOf(t testing.TB, st store.Store) map[string]string {
	t.Helper()
	files := map[string]string{}
	for info, err := range st.List(t.Context(), "") {
		require.NoError(t, err)
		b, err := store.ReadAll(t.Context(), st, info.Name, 64<<20)
		require.NoError(t, err)
		files[info.Name] = string(b)
	}
	return files
}

// What was ever written keeps opening: every state of the format that a repository can be in is read by today's code to the last
// byte, and a client that may only read changes nothing.
func TestGoldensKeepOpening(t *testing.T) {
	for _, made := range goldens {
		t.Run(made.name, func(t *testing.T) {
			g, st := openGolden(t, made.name)
			require.Equal(t, made.what, g.What)
			before := filesOf(t, st)
			r := openGoldenClient(t, g, st, &OpenOptions{ReadOnly: true, CacheDir: t.TempDir()})
			requireGolden(t, g, r)
			rep, err := r.Verify(t.Context(), &VerifyOptions{DataPercent: 100})
			require.NoError(t, err)
			require.True(t, rep.OK, "%+v", rep.Damaged)
			require.Equal(t, before, filesOf(t, st))
		})
	}
}

// A repository of any state goes on: points are added, dead sessions ended, what nobody needs is removed, and what was there before
// is as it was.
func TestGoldensGoOn(t *testing.T) {
	for _, made := range goldens {
		t.Run(made.name, func(t *testing.T) {
			g, st := openGolden(t, made.name)
			r := openGoldenClient(t, g, st, &OpenOptions{CacheDir: t.TempDir()})
			content := lines("new", 3*minBlockSize+1)
			id, _ := backupBytes(t, r, "new", content)
			mustPrune(t, r, nil)
			fresh := openGoldenClient(t, g, st, &OpenOptions{CacheDir: t.TempDir()})
			requireRestored(t, fresh, id, content)
			g.Points = append(g.Points, goldenPoint{ID: id, VM: "new", Disks: []goldenDisk{describe("disk0", content)}})
			requireGolden(t, g, fresh)
			rep, err := fresh.Verify(t.Context(), &VerifyOptions{DataPercent: 100})
			require.NoError(t, err)
			require.True(t, rep.OK, "%+v", rep.Damaged)
		})
	}
}

// requireGolden holds a repository against what its description says.
func requireGolden(t testing.TB, g goldenFile, r *Repository) {
	t.Helper()
	i := 0
	for p, err := range r.Points(t.Context(), "") {
		require.NoError(t, err)
		require.Less(t, i, len(g.Points))
		want := g.Points[i]
		i++
		require.Equal(t, []any{want.ID, want.VM, want.Held}, []any{p.ID, p.VM, p.Held != ""})
		require.Len(t, p.Disks, len(want.Disks))
		for _, d := range want.Disks {
			img, err := r.Open(t.Context(), p.ID, d.Key)
			require.NoError(t, err)
			content := make([]byte, img.Size())
			if _, err := img.ReadAt(t.Context(), content, 0); !errors.Is(err, io.EOF) {
				require.NoError(t, err)
			}
			require.NoError(t, img.Close())
			got := describe(d.Key, content)
			got.Bad = r.BadOf(t, p.ID, d.Key)
			require.Equal(t, d, got)
		}
	}
	require.Equal(t, len(g.Points), i)
}

// Goldens are told by their states: one that lost what it is there for would hold nothing.
func TestGoldensAreWhatTheySay(t *testing.T) {
	for name, words := range map[string][]string{
		"recipes": {"recipe"}, "bad": {": bad ", "no good cell"}, "held": {"held: point", "unhold", "forget"}, "tombstones": {"is to go", "open: lease"},
		"pruned": {": sweep", ": swept", "forget"}, "checkpoints": {"stands for them", "checkpoint/5, 3 times"}, "writeonly": {" as append", "for the repository's recipient"},
		"age": {"by age"}, "passphrase": {"by passphrase"}, "clear": {"S2"}, "degraded": {"2 bad"}, "masters": {"in force"}, "keyfile": {"plain, 5000 bytes"},
		"unfinished": {"stands for them", "unfinished: point", ": unfinished lease"},
	} {
		text, err := os.ReadFile(filepath.Join("testdata", "golden", name+".txt"))
		require.NoError(t, err)
		for _, w := range words {
			require.True(t, strings.Contains(string(text), w), "%s: %q", name, w)
		}
	}
}
