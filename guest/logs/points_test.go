package logs_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/logs"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/memstore"
)

var main = logs.Stream{VM: "web", Kind: "mariadb", Name: "main"}

func newRepository(t *testing.T) *repo.Repository {
	t.Helper()
	st := memstore.New(nil)
	r, err := repo.Init(t.Context(), st, nil, &repo.InitOptions{NoEncryption: true}, &repo.OpenOptions{StateDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// put stores logs in one batch.
func put(t *testing.T, st logs.Store, s logs.Stream, container string, contents map[string][]byte) {
	t.Helper()
	b, err := st.Begin(t.Context(), s, container)
	require.NoError(t, err)
	defer b.Close()
	for name, c := range contents {
		require.NoError(t, b.Put(t.Context(), logs.Log{Name: name, Timeline: "bin", Size: int64(len(c)), Time: time.Now().UTC(), Mark: true}, bytes.NewReader(c)))
	}
	require.NoError(t, b.Commit(t.Context()))
}

func list(t *testing.T, st logs.Store, s logs.Stream) (all []logs.Log) {
	t.Helper()
	for l, err := range st.Logs(t.Context(), s) {
		require.NoError(t, err)
		all = append(all, l)
	}
	return all
}

// random is content that repeats nothing, so that every byte of it counts.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// Logs are small points of a VM of their own: they appear whole, in order, and read back as they were, also for who opens
// the repository anew.
func TestPoints(t *testing.T) {
	r := newRepository(t)
	st := logs.NewPoints(r)
	require.Empty(t, list(t, st, main))
	long := random(3<<20 + 1)
	put(t, st, main, "one", map[string][]byte{"bin.000001": long})
	put(t, st, logs.Stream{VM: "web", Kind: "postgresql", Name: "main"}, "one", map[string][]byte{"000000010000000000000001": nil})
	put(t, st, main, "two", map[string][]byte{"bin.000002": {}})

	for _, st := range []*logs.Points{st, logs.NewPoints(r)} {
		got := list(t, st, main)
		require.Len(t, got, 2)
		require.Equal(t, "bin.000001", got[0].Name)
		require.Equal(t, "one", got[0].Container)
		require.Equal(t, "two", got[1].Container)
		var b bytes.Buffer
		require.NoError(t, logs.Read(t.Context(), st, main, got[0], &b))
		require.True(t, bytes.Equal(long, b.Bytes()))
		got[0].SHA256[0] ^= 1
		var e *logs.SumError
		require.ErrorAs(t, logs.Read(t.Context(), st, main, got[0], io.Discard), &e)
	}
	for info, err := range r.Points(t.Context(), logs.VM("web")) {
		require.NoError(t, err)
		require.Empty(t, info.Disks)
	}
}

// What was not committed is not there; what is refused fails the batch.
func TestPointsAbandoned(t *testing.T) {
	st := logs.NewPoints(newRepository(t))
	broken := errors.New("broken")
	for _, c := range []struct {
		l logs.Log
		r io.Reader
	}{
		{logs.Log{Name: "bin.000001", Size: 4}, bytes.NewReader([]byte("abc"))},
		{logs.Log{Name: "bin.000001", Size: 2}, bytes.NewReader([]byte("abc"))},
		{logs.Log{Name: "../x", Size: 3}, bytes.NewReader([]byte("abc"))},
		{logs.Log{Name: "bin.000001", Size: 1 << 40}, bytes.NewReader([]byte("abc"))},
		{logs.Log{Name: "bin.000001", Size: 4}, io.MultiReader(bytes.NewReader([]byte("abcd")), failing{broken})},
	} {
		b, err := st.Begin(t.Context(), main, "one")
		require.NoError(t, err)
		require.Error(t, b.Put(t.Context(), c.l, c.r))
		require.Error(t, b.Put(t.Context(), logs.Log{Name: "bin.000002"}, bytes.NewReader(nil)))
		require.Error(t, b.Commit(t.Context()))
		require.NoError(t, b.Close())
	}
	require.Empty(t, list(t, st, main))
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// A list that somebody else has written is an error, never a panic, and never another stream's log.
func TestPointsHostileList(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON":        "x",
		"two":            `{"version":1,"stream":{"vm":"web","kind":"mariadb","name":"main"},"container":"","logs":[]} {}`,
		"another stream": `{"version":1,"stream":{"vm":"web","kind":"mysql","name":"main"},"container":"","logs":[]}`,
		"later version":  `{"version":2,"stream":{"vm":"web","kind":"mariadb","name":"main"},"container":"","logs":[]}`,
		"a path":         `{"version":1,"stream":{"vm":"web","kind":"mariadb","name":"main"},"container":"","logs":[{"name":"../x","size":1}]}`,
		"a short sum":    `{"version":1,"stream":{"vm":"web","kind":"mariadb","name":"main"},"container":"","logs":[{"name":"x","size":1,"sha256":"00"}]}`,
		"a huge size":    `{"version":1,"stream":{"vm":"web","kind":"mariadb","name":"main"},"container":"","logs":[{"name":"x","size":9223372036854775807}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepository(t)
			w, err := r.Begin(t.Context(), logs.VM("web"), &pipe.PointOptions{Facts: map[string]string{"logs": "mariadb/main"}})
			require.NoError(t, err)
			require.NoError(t, w.Blob(t.Context(), "logs.json", bytes.NewReader([]byte(text))))
			_, err = w.Commit(t.Context(), nil)
			require.NoError(t, err)
			for _, err := range logs.NewPoints(r).Logs(t.Context(), main) {
				require.ErrorContains(t, err, "web: mariadb/main: batch ")
			}
		})
	}
}

func TestRetention(t *testing.T) {
	day := func(n int) time.Time { return time.Date(2026, 11, n, 12, 0, 0, 0, time.UTC) }
	stored := []logs.Log{
		{Batch: "a", Container: "one", Time: day(1)}, {Batch: "b", Container: "one", Time: day(2)},
		{Batch: "c", Container: "two", Time: day(4)}, {Batch: "c", Container: "two", Time: day(5)},
		{Batch: "d", Container: "three", Time: day(7)},
	}
	one, two, three := logs.Image{ID: "one", Time: day(1)}, logs.Image{ID: "two", Time: day(3)}, logs.Image{ID: "three", Time: day(6)}
	for _, c := range []struct {
		days   int
		images []logs.Image
		gone   []string
	}{
		{0, []logs.Image{one, two, three}, nil},
		{0, []logs.Image{two, three}, []string{"a", "b"}},
		{0, []logs.Image{one, three}, nil}, // one is played on through two's logs
		{0, []logs.Image{three}, []string{"a", "b", "c"}},
		{0, nil, []string{"a", "b", "c", "d"}},
		{4, []logs.Image{one, two, three}, []string{"a", "b"}},
		{100, []logs.Image{two, three}, []string{"a", "b"}}, // days keep nothing that images do not
	} {
		got := logs.Retention{Days: c.days}.Expired(stored, c.images, day(8))
		slices.Sort(got)
		require.Equal(t, c.gone, got, "%d days, %v", c.days, c.images)
	}
}

func TestFill(t *testing.T) {
	st := logs.NewPoints(newRepository(t))
	put(t, st, main, "one", map[string][]byte{"bin.000001": []byte("one")})
	dir := t.TempDir()
	all := list(t, st, main)
	require.NoError(t, logs.Fill(t.Context(), st, main, all, dir))
	require.NoError(t, logs.Fill(t.Context(), st, main, all, dir))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, logs.Fill(ctx, st, main, all, dir))
	all[0].SHA256[0] ^= 1
	all[0].Name = "bin.000002"
	require.Error(t, logs.Fill(t.Context(), st, main, all, dir))
	require.NoFileExists(t, dir+"/bin.000002")
}
