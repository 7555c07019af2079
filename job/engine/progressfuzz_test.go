package engine

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A progress file that says anything is opened with what is whole of it, or refused for what it is. What is added then is there the next time, with
// what was there before.
func FuzzProgress(f *testing.F) {
	const head = `{"run":"abc"}` + "\n"
	f.Add([]byte(head + `{"task":{"id":"1","vm":"1","kind":"backup","state":"done","attempts":1,"seconds":0,"point":"p"}}` + "\n" + `{"task":{"id":"2","st`))
	f.Add([]byte(head + "\n" + head))
	f.Add([]byte(`{"task":{"id":"1"}}` + "\n"))
	f.Add([]byte(head + `{"task":` + strings.Repeat("[", 20000) + "\n"))
	f.Add([]byte(head + "null\n{}\n"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "progress")
		require.NoError(t, os.WriteFile(path, b, 0o600))
		p, err := OpenProgress(path)
		if err != nil {
			require.ErrorIs(t, err, fs.ErrInvalid)
			left, err := os.ReadDir(filepath.Dir(path))
			require.NoError(t, err)
			require.Len(t, left, 1, "no lock is left")
			return
		}
		run, had := p.Run(), len(p.done)
		require.NotEmpty(t, run)
		_, there := p.earlier("new")
		require.NoError(t, p.add(TaskResult{ID: "new", State: Done, Outcome: Outcome{Point: "p"}}))
		require.NoError(t, p.Close())
		p, err = OpenProgress(path)
		require.NoError(t, err)
		require.Equal(t, run, p.Run())
		if !there {
			had++
		}
		require.Len(t, p.done, had)
		added, _ := p.earlier("new")
		require.Equal(t, "p", added.Point)
		require.NoError(t, p.Remove())
	})
}

// A file that is too long, or has a line that is, is refused and not read into memory; a line that is too long is not written.
func TestProgressOfHostileSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "progress")
	require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte("x"), maxLine+1), 0o600))
	_, err := OpenProgress(path)
	require.ErrorIs(t, err, fs.ErrInvalid)
	require.NoError(t, os.Truncate(path, maxProgress+1))
	_, err = OpenProgress(path)
	require.ErrorIs(t, err, fs.ErrInvalid)
	require.NoError(t, os.Remove(path))
	p, err := OpenProgress(path)
	require.NoError(t, err)
	require.ErrorIs(t, p.add(TaskResult{ID: "1", State: Done, Outcome: Outcome{Warnings: []string{strings.Repeat("w", maxLine)}}}), fs.ErrInvalid)
	require.NoError(t, p.add(TaskResult{ID: "2", State: Done}))
	require.NoError(t, p.Close())
	p, err = OpenProgress(path)
	require.NoError(t, err)
	require.Len(t, p.done, 1)
	require.NoError(t, p.Remove())
}
