package pwsh

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"
)

// Path is where every Windows since 7 has PowerShell. A name alone would be looked up in folders that others may write.
const Path = `C:\Windows\System32\WindowsPowerShell\v1.0\powershell.exe`

// maxCommand bounds the characters of a whole command line. Windows takes 32767 where no cmd comes in between.
const maxCommand = 32_000

// prelude comes before every script. Without the second setting progress bars are printed to the standard error as XML.
const prelude = "$ErrorActionPreference='Stop';$ProgressPreference='SilentlyContinue';"

// Script is the whole of what PowerShell reads: the script's text with the words before it, as $w[0], $w[1] …
func Script(text string, words ...string) string {
	var b strings.Builder
	b.WriteString(prelude + "$w=@(")
	for i, word := range words {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "[Text.Encoding]::UTF8.GetString([Convert]::FromBase64String('%s'))", base64.StdEncoding.EncodeToString([]byte(word)))
	}
	b.WriteString(");" + text)
	return b.String()
}

// Args are PowerShell's arguments that run a script with words. Nothing in them needs quoting.
func Args(text string, words ...string) ([]string, error) {
	units := utf16.Encode([]rune(Script(text, words...)))
	coded := make([]byte, 0, 2*len(units))
	for _, u := range units {
		coded = binary.LittleEndian.AppendUint16(coded, u)
	}
	args := []string{"-NoProfile", "-NonInteractive", "-EncodedCommand", base64.StdEncoding.EncodeToString(coded)}
	if n := len(Path) + len(strings.Join(args, " ")) + 1; n > maxCommand {
		return nil, fmt.Errorf("a command of %d characters, at most %d fit", n, maxCommand)
	}
	return args, nil
}

// Quote writes one argument so that programs read it back as it was: those built with Microsoft's or Go's runtime split
// their command line by these rules. It is no quoting for cmd.
//
// https://learn.microsoft.com/cpp/c-language/parsing-c-command-line-arguments
func Quote(arg string) string {
	if arg != "" && !strings.ContainsAny(arg, " \t\n\v\"") {
		return arg
	}
	var b strings.Builder
	b.WriteByte('"')
	slashes := 0
	for i := 0; i < len(arg); i++ {
		switch arg[i] {
		case '\\':
			slashes++
			continue
		case '"':
			b.WriteString(strings.Repeat(`\`, 2*slashes+1))
		default:
			b.WriteString(strings.Repeat(`\`, slashes))
		}
		slashes = 0
		b.WriteByte(arg[i])
	}
	b.WriteString(strings.Repeat(`\`, 2*slashes))
	b.WriteByte('"')
	return b.String()
}

// Line is the part of a command line that comes after the program.
func Line(args []string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = Quote(a)
	}
	return strings.Join(quoted, " ")
}
