package sshchannel

import (
	"bytes"
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// evil words are those that shells take for something else.
var evil = []string{
	"", "a", "a b", "'", `"`, `\`, `\\`, `\'`, "`id`", "$(id)", "$HOME", "!", "!!", "a!b", "\n", "a\nb", "\n\n", "\t", "*", "?", "~", "~root",
	"#", "; touch x", "&", "|", ">", "<", "(", ")", "{a,b}", "[a]", "%s", `%b`, `\0101`, "-n", "--", "-e", "=", "a=b", "ä", "日本", "\x01", "\x7f", "\xff\xfe",
	"'; touch x; '", `'\''`, `"'"`, "$'\\n'", "\r", "^a^b", "@", "%", "%self", ":", "trailing\n", " ", "  two  blanks ", "\\\n", `'"'"'`,
}

// shellRun runs a line the way sshd does: the login shell's -c.
func shellRun(t testing.TB, shell, line string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, shell, "-c", line)
	cmd.Dir = t.TempDir()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s: %s: %s", shell, line, stderr.String())
	return out
}

// lineOf is the line that Run sends for a program that prints its words, each ended by a zero byte.
func lineOf(t testing.TB, words []string) string {
	t.Helper()
	line, err := (&link{}).line("MARK", append([]string{"printf", `%s\0`}, words...))
	require.NoError(t, err)
	return line
}

func checkWords(t testing.TB, shell string, words []string) {
	t.Helper()
	out, _, found := afterMark(shellRun(t, shell, lineOf(t, words)), []byte("MARK "))
	require.True(t, found, "%s", out)
	require.Equal(t, strings.Join(words, "\x00")+"\x00", string(out), shell)
}

// Every login shell that is here hands over the same words, whatever is in them.
func TestEveryShell(t *testing.T) {
	t.Parallel()
	here := 0
	for _, shell := range []string{"sh", "bash", "dash", "zsh", "ksh", "mksh", "tcsh", "csh", "fish", "busybox"} {
		path, err := exec.LookPath(shell)
		if err != nil || shell == "busybox" {
			continue
		}
		here++
		t.Run(shell, func(t *testing.T) {
			checkWords(t, path, evil)
			checkWords(t, path, []string{"trailing\n\n"})
		})
	}
	require.NotZero(t, here)
}

func TestLineRefuses(t *testing.T) {
	t.Parallel()
	l := &link{}
	for _, program := range []string{"a b", "-x", "./x", "../x", "$(id)", "x;y", ".x"} {
		_, err := l.line("M", []string{program})
		require.ErrorIs(t, err, errProgram, program)
	}
	_, err := l.line("M", []string{"/bin/echo", "a\x00b"})
	require.ErrorIs(t, err, errNUL)
	_, err = l.line("M", []string{"/bin/a\x00b"})
	require.ErrorIs(t, err, errNUL)
	_, err = l.line("M", []string{"/bin/echo", strings.Repeat("x", maxLine)})
	require.ErrorIs(t, err, errLong)
	line, err := l.line("M", []string{"/bin/echo", "-n", "plain"})
	require.NoError(t, err)
	require.Equal(t, "exec /bin/sh -c 'echo M $$; echo M 0 >&2; exec /bin/echo -n plain'", line)

	w := &link{windows: true}
	for _, word := range []string{"a b", "%PATH%", "$env:x", "a&b", "a|b", "'", `"`, "a\nb", "^", "", "@x", "ä", "(", "`", ";"} {
		_, err := w.line("M", []string{`C:\x.exe`, word})
		require.Error(t, err, word)
	}
	line, err = w.line("M", []string{`C:\Windows\Temp\hikae-1\hikae-agent.exe`, "serve", "--dir", `C:\Windows\Temp\hikae-1`})
	require.NoError(t, err)
	require.Equal(t, `C:\Windows\Temp\hikae-1\hikae-agent.exe serve --dir C:\Windows\Temp\hikae-1`, line)
}

func FuzzQuote(f *testing.F) {
	for _, w := range evil {
		f.Add(w, "second")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if strings.ContainsRune(a+b, 0) || len(a)+len(b) > 8<<10 {
			return
		}
		checkWords(t, "/bin/sh", []string{a, b})
	})
}
