package smbchannel

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cloudsoda/go-smb2"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/smbchannel/smbtest"
)

// R126, R139: a run-time component is brought into a Windows guest, spoken to and taken away, over one port and with
// nothing installed before.
func TestLaunch(t *testing.T) {
	g := smbtest.StartGuest(t, smbtest.Settings{}, echo)
	c := open(t, g.Samba)
	require.Equal(t, guest.System{OS: "windows", Arch: "amd64", Name: smbtest.Name, User: g.User, Admin: true, Temp: []string{smbtest.Root}}, c.System())
	p := program()
	bring(t, c, p)
	start := time.Now()
	stream, err := c.Launch(t.Context(), p)
	require.NoError(t, err)
	t.Logf("launched in %v", time.Since(start).Round(time.Millisecond))
	folder := folderOf(p.Path)
	require.Equal(t, map[string]string{p.Name: `"` + p.Path + `" pipe --name ` + p.Name + ` --dir ` + folder + ` --service`}, g.Machine.Services())

	// Both ways at once, while a read waits: frames are asked and answered like that.
	sent := make([]byte, 3<<20)
	_, _ = rand.Read(sent)
	wrote := make(chan error, 1)
	go func() {
		time.Sleep(50 * time.Millisecond)
		_, err := stream.Write(sent)
		wrote <- err
	}()
	got := make([]byte, len(sent))
	_, err = io.ReadFull(stream, got)
	require.NoError(t, err)
	require.NoError(t, <-wrote)
	require.True(t, bytes.Equal(sent, got))

	start = time.Now()
	require.NoError(t, stream.Close())
	t.Logf("closed in %v", time.Since(start).Round(time.Millisecond))
	require.Empty(t, g.Machine.Names())
	left, err := c.Clean(t.Context(), p)
	require.NoError(t, err)
	require.Empty(t, left)
	require.Empty(t, g.Left())
}

func TestFiles(t *testing.T) {
	g := smbtest.StartGuest(t, smbtest.Settings{}, echo)
	c := open(t, g.Samba)
	dir := smbtest.Root + `\hikae-files`
	require.NoError(t, c.MakeDir(t.Context(), dir))
	require.ErrorIs(t, c.MakeDir(t.Context(), dir), fs.ErrExist, "somebody else's folder is not ours")
	content := make([]byte, 2*piece+17)
	_, _ = rand.Read(content)
	require.NoError(t, c.Upload(t.Context(), dir+`\a.bin`, content, 0o700))
	require.ErrorIs(t, c.Upload(t.Context(), dir+`\a.bin`, nil, 0o700), fs.ErrExist, "nothing is overwritten")
	back, err := c.Download(t.Context(), dir+`\a.bin`, int64(len(content)))
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, back))
	_, err = c.Download(t.Context(), dir+`\a.bin`, int64(len(content))-1)
	require.ErrorContains(t, err, "longer than")
	_, err = c.Download(t.Context(), dir+`\b.bin`, 1)
	require.ErrorIs(t, err, fs.ErrNotExist)

	// Nobody but SYSTEM and Administrators: the folder, and what was put into it.
	for _, rel := range []string{"hikae-files", `hikae-files\a.bin`} {
		sd, err := c.link.admin.SecurityInfo(rel, smb2.DACLSecurityInformation)
		require.NoError(t, err)
		for _, other := range []string{";WD)", ";BU)", ";AU)", ";S-1-22"} {
			require.NotContains(t, sd.String(), other, rel)
		}
		require.Contains(t, sd.String(), ";;;SY)", rel)
	}

	// What a component leaves goes with the folder.
	local, err := g.Path(dir)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(local, "b", "c"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(local, "b", "c", "log"), nil, 0o400))
	require.NoError(t, c.Remove(t.Context(), dir))
	require.NoError(t, c.Remove(t.Context(), dir), "what is not there is no error")
	require.Empty(t, g.Left())

	for _, path := range []string{
		smbtest.Root, smbtest.Root + `\System32`, smbtest.Root + `\Temp\hikae-a`, smbtest.Root + `\hikae-`, `D:\hikae-a`, `\hikae-a`, "hikae-a",
		smbtest.Root + `\hikae-a\..\System32`, smbtest.Root + `\hikae-a\x:y`, smbtest.Root + `\hikae-a/b`, smbtest.Root + `\hikae-a\con.txt`,
	} {
		var bad *PathError
		require.ErrorAs(t, c.MakeDir(t.Context(), path), &bad, path)
		require.ErrorIs(t, c.Remove(t.Context(), path), fs.ErrInvalid, path)
		require.Error(t, c.Upload(t.Context(), path, nil, 0o700), path)
	}
}

// A link in our folder is not followed. Samba shows a link to elsewhere in no way that lets it be removed: the folder is
// left, and said to be.
func TestRemoveLink(t *testing.T) {
	g := smbtest.StartGuest(t, smbtest.Settings{}, echo)
	c := open(t, g.Samba)
	p := program()
	bring(t, c, p)
	keep := filepath.Join(t.TempDir(), "keep")
	require.NoError(t, os.WriteFile(keep, []byte("x"), 0o600))
	local, err := g.Path(folderOf(p.Path))
	require.NoError(t, err)
	require.NoError(t, os.Symlink(filepath.Dir(keep), filepath.Join(local, "link")))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	left, err := c.Clean(ctx, p)
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Contains(t, left[0], "folder "+folderOf(p.Path))
	require.FileExists(t, keep)
}

// What we quote, Windows' rules take apart again to the same words.
func TestQuoting(t *testing.T) {
	words := []string{`C:\Windows\hikae-a\x.exe`, "pipe", "two words", `"`, `a\"b`, `ends\`, `ends with space\ `, `\\server\x y\\`, ""}
	got, err := smbtest.SplitCommand(commandLine(words[0], words[1:]))
	require.NoError(t, err)
	require.Equal(t, words, got)
}

func BenchmarkUpload(b *testing.B) {
	g := smbtest.StartGuest(b, smbtest.Settings{}, echo)
	c := open(b, g.Samba)
	require.NoError(b, c.MakeDir(b.Context(), smbtest.Root+`\hikae-bench`))
	content := make([]byte, 8<<20)
	b.SetBytes(int64(len(content)))
	for i := 0; b.Loop(); i++ {
		require.NoError(b, c.Upload(b.Context(), fmt.Sprintf(`%s\hikae-bench\%d`, smbtest.Root, i), content, 0o700))
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	g := smbtest.StartGuest(b, smbtest.Settings{}, echo)
	c := open(b, g.Samba)
	p := program()
	require.NoError(b, c.MakeDir(b.Context(), folderOf(p.Path)))
	require.NoError(b, c.Upload(b.Context(), p.Path, nil, 0o700))
	stream, err := c.Launch(b.Context(), p)
	require.NoError(b, err)
	frame := make([]byte, 100)
	for b.Loop() {
		_, err := stream.Write(frame)
		require.NoError(b, err)
		_, err = io.ReadFull(stream, frame)
		require.NoError(b, err)
	}
	require.NoError(b, stream.Close())
}
