package psdirect

import (
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/hikae/hikae/guest/winrmchannel/pwsh"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the scripts to testdata")

// The scripts as they go to a host lie in testdata, where a person can read what changes.
func TestScriptsAreGolden(t *testing.T) {
	for name, text := range map[string]string{"run": runScript, "upload": uploadScript, "download": downloadScript} {
		got := pwsh.Script(text, vm, "mark", "1", "2", "3") + "\n"
		file := "testdata/" + name + ".ps1"
		if *update {
			require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
		}
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, strings.ReplaceAll(string(want), "\r\n", "\n"), got, "go test ./hyperv/psdirect -update")
	}
}

// Brackets and quotes of the scripts are in pairs: the least that PowerShell asks of them.
func TestScriptsAreBalanced(t *testing.T) {
	for _, text := range []string{runScript, uploadScript, downloadScript, pwsh.Script("", "a'b")} {
		var open []rune
		var quote rune
		for i, r := range text {
			switch {
			case quote != 0:
				if r == quote {
					quote = 0
				}
			case r == '\'' || r == '"':
				quote = r
			case strings.ContainsRune("([{", r):
				open = append(open, r)
			case strings.ContainsRune(")]}", r):
				require.NotEmpty(t, open, text[:i])
				require.Equal(t, map[rune]rune{')': '(', ']': '[', '}': '{'}[r], open[len(open)-1], text[:i])
				open = open[:len(open)-1]
			}
		}
		require.Empty(t, open)
		require.Zero(t, quote)
	}
}

var literal = regexp.MustCompile(`'[^'‘’‚‛]*'`)

// PowerShell ends a literal at any of five quotes. Whatever words are, the script around the literals is the same, and the
// literals hold base64.
func FuzzInjection(f *testing.F) {
	for _, s := range []string{"", "'", "’; calc; ‘", "$(calc)", "\"", "`", "\x00", "\n", "a'),('b", "‚‛"} {
		f.Add(s, s+"x")
	}
	plain := literal.ReplaceAllString(pwsh.Script(runScript, vm, "mark", "1", "2"), "''")
	f.Fuzz(func(t *testing.T, a, b string) {
		script := pwsh.Script(runScript, vm, "mark", a, b)
		require.Equal(t, plain, literal.ReplaceAllString(script, "''"))
		head, _, _ := strings.Cut(script, ");"+runScript)
		for _, l := range literal.FindAllString(head, -1)[2:] {
			require.Regexp(t, `^'[A-Za-z0-9+/=]*'$`, l)
		}
	})
}
