package mover_test

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/diskvm"
	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// farSite is a mover over a repository in a folder, and a machine that is enrolled there, as an embedder sets them up.
func farSite(t *testing.T, role trust.Role) (*mover.Client, *repo.Repository) {
	t.Helper()
	st, err := dirstore.Init(filepath.Join(t.TempDir(), "repo"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	r, err := repo.Init(t.Context(), st, nil, &repo.InitOptions{BlockSize: 64 << 10, NoEncryption: true}, &repo.OpenOptions{StateDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })

	home := t.TempDir()
	id, err := trust.LoadIdentity(home)
	require.NoError(t, err)
	book, err := trust.OpenBook(home)
	require.NoError(t, err)
	server, err := mover.NewServer(&mover.ServerOptions{Identity: id, Book: book, Backend: r, StateDir: t.TempDir()})
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, server.Shutdown(ctx))
		require.NoError(t, <-served)
	})

	token, err := book.AddToken(id.Pin(), "site-a", role, time.Hour)
	require.NoError(t, err)
	opts := &mover.DialOptions{IdentityDir: t.TempDir(), CacheDir: t.TempDir()}
	enrolled, err := mover.Enrol(t.Context(), l.Addr().String(), token, opts)
	require.NoError(t, err)
	opts.ServerPin = enrolled.Server
	c, err := mover.Dial(t.Context(), l.Addr().String(), opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c, r
}

func backupFiles(t *testing.T, c *mover.Client, files []diskvm.File, opts *diskvm.Options) job.Result {
	t.Helper()
	p, err := diskvm.Open(t.Context(), "web1", files, opts)
	require.NoError(t, err)
	res, err := job.Backup(t.Context(), p, "", c, nil)
	require.NoError(t, err)
	return res
}

func restoreTo(t *testing.T, c *mover.Client, point, to string) {
	t.Helper()
	info, err := job.FindPoint(t.Context(), c, point)
	require.NoError(t, err)
	r, err := diskvm.NewRestorer(to, nil)
	require.NoError(t, err)
	_, err = job.Restore(t.Context(), c, info, r, nil)
	require.NoError(t, err)
}

// R005, R009, R014, R020, R021, R174: sessions use a far repository as if it were here: a full backup, an increment that
// reads and sends only what changed, and both restored.
func TestSessionsOverAMover(t *testing.T) {
	c, r := farSite(t, trust.Full)
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk.raw")
	content := make([]byte, 8<<20+512)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(content)
	clear(content[1<<20 : 3<<20])
	require.NoError(t, os.WriteFile(disk, content, 0o600))
	files, err := diskvm.ParseFiles([]string{"disk0=" + disk})
	require.NoError(t, err)

	full := backupFiles(t, c, files, nil)
	require.Positive(t, full.Stored)
	restoreTo(t, c, full.Point, filepath.Join(dir, "first.raw"))
	requireContent(t, filepath.Join(dir, "first.raw"), content)

	_, _ = source.Read(content[5<<20 : 5<<20+1000])
	require.NoError(t, os.WriteFile(disk, content, 0o600))
	list, err := json.Marshal([]map[string]int64{{"start": 5 << 20, "length": 1000}})
	require.NoError(t, err)
	ranges, err := diskvm.ParseRanges(strings.NewReader(string(list)))
	require.NoError(t, err)
	inc := backupFiles(t, c, files, &diskvm.Options{Changed: map[string][]diskvm.Range{"disk0": ranges}})
	require.Equal(t, job.Changed, inc.Disks[0].Method, "%v", inc.Fallbacks)
	require.Equal(t, full.Point, inc.Base)
	require.LessOrEqual(t, inc.Disks[0].Read, int64(64<<10))
	require.LessOrEqual(t, inc.Disks[0].Moved, int64(64<<10))
	restoreTo(t, c, inc.Point, filepath.Join(dir, "second.raw"))
	requireContent(t, filepath.Join(dir, "second.raw"), content)

	whole := backupFiles(t, c, files, nil) // known without a list, by asking
	require.Zero(t, whole.Disks[0].Moved, "all of it is known there")
	report, err := r.Verify(t.Context(), &repo.VerifyOptions{DataPercent: 100})
	require.NoError(t, err)
	require.True(t, report.OK)
}

func requireContent(t *testing.T, name string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(name)
	require.NoError(t, err)
	require.True(t, string(want) == string(got), "%s differs", filepath.Base(name))
}
