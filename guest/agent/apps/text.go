//go:build linux

package apps

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"
)

// clean makes foreign text fit to be shown: one line of printable characters, of at most max bytes.
func clean(s string, max int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError:
			return '?'
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > max {
		cut := max
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	return s
}

// literal quotes a string for either server. Only what can be quoted by doubling alone is let through, since the
// meaning of a backslash depends on settings.
func literal(s string) (string, error) {
	if len(s) > 1024 || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r == '\\' || unicode.IsControl(r) }) {
		return "", fmt.Errorf("%q cannot be put into a statement", clean(s, 64))
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'", nil
}

// label is what a backup is called in a server's own records: some letters, whatever came.
func label(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune(" ._:+-", r)) {
			return r
		}
		return '_'
	}, s)
	if s = strings.TrimSpace(s); s == "" {
		return "hikae"
	}
	return s[:min(len(s), 200)]
}

// usual are folders under which packages keep data: what is left of a path below them names an instance.
var usual = []string{"/var/lib/postgresql/", "/var/lib/pgsql/", "/var/lib/postgres/", "/var/lib/"}

// nameOf names an instance after its data folder: the same at every start, and in every copy of the guest. What had to
// be altered gets a sum, so that two folders never share a name.
func nameOf(folder string) string {
	short := strings.TrimPrefix(folder, "/")
	for _, u := range usual {
		if rest, ok := strings.CutPrefix(folder, u); ok && rest != "" {
			short = rest
			break
		}
	}
	altered := len(short) > 48 || strings.Contains(short, "-")
	name := strings.Map(func(r rune) rune {
		switch {
		case r == filepath.Separator:
			return '-'
		case r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r) || r == '.' || r == '_' || r == '-'):
			return r
		}
		altered = true
		return '_'
	}, short)
	if altered {
		sum := sha256.Sum256([]byte(folder))
		name = fmt.Sprintf("%s-%x", name[:min(len(name), 40)], sum[:4])
	}
	return name
}
