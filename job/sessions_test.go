package job

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/pipetest"
)

func openSessions(t *testing.T) *Sessions {
	t.Helper()
	s, err := OpenSessions(filepath.Join(t.TempDir(), "sessions"))
	require.NoError(t, err)
	return s
}

func record(id, vm string) Record {
	return Record{Kind: KindBackup, Backup: &Result{Session: id, VM: vm, Point: "p" + id, Seconds: 1.5}}
}

func TestSessionsAreKeptAndFound(t *testing.T) {
	s := openSessions(t)
	h := filled(1, block)
	b := pipetest.NewBackend(block)
	first := run(t, h, b, &BackupOptions{Sessions: s})
	_, err := Backup(t.Context(), h, "nope", b, &BackupOptions{Sessions: s})
	require.ErrorIs(t, err, fs.ErrNotExist)
	third := run(t, h, b, &BackupOptions{Sessions: s})

	for _, spec := range []string{first.Session, "1", first.Session[:4], "latest~2"} {
		r, err := s.Load(spec)
		require.NoError(t, err, spec)
		require.Equal(t, first.Session, r.Session(), spec)
		require.Equal(t, first.Point, r.Backup.Point)
		require.Equal(t, first.Disks, r.Backup.Disks)
		require.True(t, first.Started.Equal(r.Backup.Started))
	}
	r, err := s.Load("latest")
	require.NoError(t, err)
	require.Equal(t, third.Session, r.Session())
	failed, err := s.Load("2")
	require.NoError(t, err)
	require.NotEmpty(t, failed.Error)
	require.Empty(t, failed.Backup.Point)

	for _, spec := range []string{"", "9", "latest~3", "latest~", "latest~-1", "latestx", "../1", "zzz"} {
		_, err := s.Load(spec)
		require.ErrorIs(t, err, fs.ErrNotExist, spec)
	}
	list, err := s.List(0, func(r *Record) bool { return r.Error == "" })
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, third.Session, list[0].Session(), "newest first")
	list, err = s.List(1, nil)
	require.NoError(t, err)
	require.Len(t, list, 1)
}

func TestSessionsAmbiguous(t *testing.T) {
	s := openSessions(t)
	for _, id := range []string{"11-abcdefgh", "12-abcdefgh", "1-zzzzzzzz", "12-abcdzzzz"} {
		require.NoError(t, s.Save(record(id, "v")))
	}
	for spec, want := range map[string]string{"1": "1-zzzzzzzz", "11": "11-abcdefgh", "12-abcde": "12-abcdefgh", "latest": "12-abcdzzzz"} {
		r, err := s.Load(spec)
		require.NoError(t, err, spec)
		require.Equal(t, want, r.Session())
	}
	for _, spec := range []string{"12", "12-abcd"} {
		_, err := s.Load(spec)
		require.ErrorIs(t, err, ErrAmbiguous, spec)
	}
	require.ErrorIs(t, s.Save(record("../../x", "v")), fs.ErrInvalid)
	require.ErrorIs(t, s.Save(Record{}), fs.ErrInvalid)
}

// Only the newest are kept, by number: clocks are not asked. Foreign files stay.
func TestSessionsAreBounded(t *testing.T) {
	s := openSessions(t)
	foreign := filepath.Join(s.dir, "notes.txt")
	require.NoError(t, os.WriteFile(foreign, nil, 0o600))
	for i := range maxSessions + 5 {
		name := filepath.Join(s.dir, fmt.Sprintf("%d-aaaaaaaa.json", i+1))
		require.NoError(t, os.WriteFile(name, []byte("{}"), 0o600))
	}
	require.NoError(t, s.Save(record(s.NewID(), "v")))
	ids, err := s.ids()
	require.NoError(t, err)
	require.Len(t, ids, maxSessions)
	require.Equal(t, int64(maxSessions+6), number(ids[0]))
	require.FileExists(t, foreign)
}

func TestSessionsDamaged(t *testing.T) {
	s := openSessions(t)
	require.NoError(t, s.Save(record("1-aaaaaaaa", "v")))
	require.NoError(t, s.Save(record("2-aaaaaaaa", "v")))
	path := filepath.Join(s.dir, "2-aaaaaaaa.json")
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, bad := range [][]byte{nil, []byte("null"), data[:len(data)/2], []byte("[]"), []byte(`{"backup":{"session":"1-aaaaaaaa"}}`)} {
		require.NoError(t, os.WriteFile(path, bad, 0o600))
		_, err := s.Load("latest")
		require.ErrorContains(t, err, "2-aaaaaaaa")
		list, err := s.List(0, nil)
		require.Error(t, err)
		require.Len(t, list, 1, "the others are listed")
	}
	entries, err := os.ReadDir(s.dir)
	require.NoError(t, err)
	require.Len(t, entries, 2, "no temporary file stays")
}

func TestSessionsOfManyAtOnce(t *testing.T) {
	s := openSessions(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				if err := s.Save(record(s.NewID(), "v")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	list, err := s.List(0, nil)
	require.NoError(t, err)
	require.Len(t, list, 40)
}

func TestNoSessions(t *testing.T) {
	var s *Sessions
	require.NoError(t, s.Save(record("x", "v")))
	require.NotEmpty(t, s.NewID())
	_, err := s.Load("latest")
	require.ErrorIs(t, err, fs.ErrNotExist)
}
