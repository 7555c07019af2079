package guest

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/hikae/hikae"
	"github.com/stretchr/testify/require"
)

// answering plays a guest: it answers runs as it is told, and keeps them.
type answering struct {
	answer func(path string, args []string) (hikae.RunResult, error)
	runs   [][]string
}

func (a *answering) Run(_ context.Context, path string, args []string, _ []byte) (hikae.RunResult, error) {
	a.runs = append(a.runs, append([]string{path}, args...))
	return a.answer(path, args)
}
func (a *answering) Upload(context.Context, string, []byte, uint32) error { return nil }
func (a *answering) Download(context.Context, string, int64) ([]byte, error) {
	return nil, errors.ErrUnsupported
}
func (a *answering) Close() error { return nil }

// scriptOf decodes what PowerShell would.
func scriptOf(t testing.TB, args []string) string {
	t.Helper()
	coded, err := base64.StdEncoding.DecodeString(args[len(args)-1])
	require.NoError(t, err)
	units := make([]uint16, len(coded)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(coded[2*i:])
	}
	return string(utf16.Decode(units))
}

// wordsOf are the words that a script was given.
func wordsOf(t testing.TB, script string) (words []string) {
	t.Helper()
	for i, part := range strings.Split(script, "FromBase64String('") {
		if i == 0 {
			continue
		}
		word, err := base64.StdEncoding.DecodeString(part[:strings.IndexByte(part, '\'')])
		require.NoError(t, err)
		words = append(words, string(word))
	}
	return words
}

// windows plays a Windows guest as far as its probe goes.
func windows(t testing.TB) *answering {
	return &answering{answer: func(path string, args []string) (hikae.RunResult, error) {
		if path == shell {
			return hikae.RunResult{}, errors.New("no such file")
		}
		require.Equal(t, powershellPath, path)
		script := scriptOf(t, args)
		if !strings.Contains(script, "PROCESSOR_ARCHITECTURE") {
			return hikae.RunResult{}, nil
		}
		mark := wordsOf(t, script)[0]
		return hikae.RunResult{Stdout: []byte("\r\nnoise\n" + mark + " begin\nos=windows\narch=AMD64\nhost=WEB1\nuser=WEB1\\Administrator\n" +
			"admin=True\ntemp=C:\\Windows\\Temp\n" + mark + " end\n")}, nil
	}}
}

// Windows is found by asking its own shell. No word that we send is ever part of a script.
func TestOverWindows(t *testing.T) {
	t.Parallel()
	w := windows(t)
	c, err := Over(t.Context(), PSDirect, w, nil)
	require.NoError(t, err)
	s := c.System()
	require.Equal(t, System{OS: "windows", Arch: "amd64", Name: "WEB1", User: `WEB1\Administrator`, Admin: true, Temp: []string{`C:\Windows\Temp`}}, s)
	for _, name := range []string{`C:\Temp\a'b`, `C:\Temp\$(calc)`, "C:\\Temp\\a‘;calc;’", "C:\\Temp\\`\"x\"", `C:\Temp\%PATH%`} {
		require.NoError(t, c.MakeDir(t.Context(), name))
		require.NoError(t, c.Remove(t.Context(), name))
		last := w.runs[len(w.runs)-1]
		script := scriptOf(t, last)
		require.Equal(t, []string{name}, wordsOf(t, script))
		require.NotContains(t, script, "calc")
	}
	for _, bad := range []string{``, `C:`, `C:\`, `C:\..\x`, `\x`, `x`, `C:x`, `C:\a\`, "C:\\a\nb", `\\server\share`} {
		require.Error(t, c.Remove(t.Context(), bad), bad)
		require.Error(t, c.MakeDir(t.Context(), bad), bad)
		require.Error(t, c.Upload(t.Context(), bad, nil, 0), bad)
	}
}

// shellAnswering plays a guest whose probe prints what it is told.
func shellAnswering(text func(mark string) string) *answering {
	return &answering{answer: func(path string, args []string) (hikae.RunResult, error) {
		if path != shell {
			return hikae.RunResult{}, errors.New("no such file")
		}
		return hikae.RunResult{Stdout: []byte(text(args[3]))}, nil
	}}
}

// A guest that lies about itself can only harm itself: what it says is bounded and cleaned.
func TestHostileProbe(t *testing.T) {
	t.Parallel()
	c, err := Over(t.Context(), QGA, shellAnswering(func(mark string) string {
		return "junk\n" + mark + " begin\nos=Linux\nos2\narch=x86_64\nhost=\x1b[31mred\nuser=" + strings.Repeat("u", 10000) + "\nuid=0\n" +
			"temp=/tmp\x1b[2J\ntemp=/" + strings.Repeat("t", 1000) + "\ntemp=/a\ntemp=/b\ntemp=/c\ntemp=/d\n" + mark + " end\n"
	}), nil)
	require.NoError(t, err)
	s := c.System()
	require.Equal(t, []string{"/a", "/b", "/c"}, s.Temp)
	require.NotContains(t, s.Name, "\x1b")
	require.LessOrEqual(t, len(s.User), maxWord+3)

	for name, text := range map[string]string{"nothing": "", "no end": "\nMARK begin\nos=Linux\n", "no begin": "\nMARK end", "no folder": "\nMARK begin\nos=Linux\nno=/tmp is full\n\nMARK end"} {
		_, err := Over(t.Context(), QGA, shellAnswering(func(mark string) string { return strings.ReplaceAll(text, "MARK", mark) }), nil)
		var way *WayError
		require.ErrorAs(t, err, &way, name)
		require.Equal(t, QGA, way.Kind)
		if name == "no folder" {
			require.ErrorIs(t, err, ErrNoTemp)
			require.Contains(t, way.Problem, "/tmp is full")
		}
	}
}

func FuzzProbe(f *testing.F) {
	f.Add("os=Linux\narch=x86_64\nuid=0\ntemp=/tmp\n")
	f.Add("os=windows\nadmin=True\ntemp=C:\\Windows\\Temp")
	f.Add("=\n==\ntemp=\ntemp=/\x00\nno=")
	f.Fuzz(func(t *testing.T, text string) {
		o := &over{kind: QGA}
		if o.learn("M", hikae.RunResult{Stdout: []byte("\nM begin\n" + text + "\nM end\n")}) != nil {
			return
		}
		s := o.system
		require.LessOrEqual(t, len(s.Temp), maxFolders)
		for _, shown := range append(s.Temp, s.OS, s.Arch, s.Name, s.User) {
			require.NotContains(t, shown, "\x1b")
			require.NotContains(t, shown, "\n")
			require.LessOrEqual(t, len(shown), 4*maxWord)
		}
	})
}

// A guest that does not answer costs no more than the context allows, and is not asked twice.
func TestOverSilent(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	a := &answering{answer: func(string, []string) (hikae.RunResult, error) {
		<-ctx.Done()
		return hikae.RunResult{}, ctx.Err()
	}}
	_, err := Over(ctx, QGA, a, nil)
	var way *WayError
	require.ErrorAs(t, err, &way)
	require.Equal(t, "link", way.Step)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Len(t, a.runs, 1)
}
