package pwsh

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// split reads a command line as Microsoft's runtime does: the other side of Quote, from its published rules.
func split(line string) (args []string) {
	for i := 0; i < len(line); {
		for i < len(line) && (line[i] == ' ' || line[i] == '\t') {
			i++
		}
		if i == len(line) {
			break
		}
		var b strings.Builder
		quoted := false
		for ; i < len(line) && (quoted || line[i] != ' ' && line[i] != '\t'); i++ {
			n := 0
			for i < len(line) && line[i] == '\\' {
				n, i = n+1, i+1
			}
			if i == len(line) || line[i] != '"' {
				b.WriteString(strings.Repeat(`\`, n))
				if i == len(line) || !quoted && (line[i] == ' ' || line[i] == '\t') {
					break
				}
				b.WriteByte(line[i])
				continue
			}
			b.WriteString(strings.Repeat(`\`, n/2))
			if n%2 == 1 {
				b.WriteByte('"')
			} else {
				quoted = !quoted
			}
		}
		args = append(args, b.String())
	}
	return args
}

func FuzzQuote(f *testing.F) {
	for _, s := range []string{"", "a", "a b", `"`, `\`, `\\`, `a\`, `a b\`, `\"`, `\\" x`, "\t", "ü", `a\\b"c`} {
		f.Add(s, s+" ")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		require.Equal(t, []string{a, b, "x"}, split(Line([]string{a, b, "x"})))
	})
}

func TestArgs(t *testing.T) {
	args, err := Args("exit 0", "a'b", "")
	require.NoError(t, err)
	require.Len(t, args, 4)
	require.Equal(t, Script("exit 0", "a'b", ""), "$ErrorActionPreference='Stop';$ProgressPreference='SilentlyContinue';"+
		"$w=@([Text.Encoding]::UTF8.GetString([Convert]::FromBase64String('YSdi')),[Text.Encoding]::UTF8.GetString([Convert]::FromBase64String('')));exit 0")
	_, err = Args(strings.Repeat("x", maxCommand))
	require.Error(t, err)
}
