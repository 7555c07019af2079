package files

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// ShownName is how a name in a guest's directory is shown: as it is where it is valid UTF-8. A byte that is not part
// of valid UTF-8, a slash, a NUL, and the dots of the names "." and ".." are written as \xHH; so is a backslash that
// stands before an x, so that two names are never shown alike.
func ShownName(raw string) string {
	if raw == "." || raw == ".." {
		return strings.Repeat(`\x2e`, len(raw))
	}
	if utf8.ValidString(raw) && !strings.ContainsAny(raw, "/\x00") && !strings.Contains(raw, `\x`) {
		return raw
	}
	var b strings.Builder
	for i := 0; i < len(raw); {
		r, n := utf8.DecodeRuneInString(raw[i:])
		switch {
		case r == utf8.RuneError && n == 1, r == '/', r == 0, r == '\\' && strings.HasPrefix(raw[i:], `\x`):
			fmt.Fprintf(&b, `\x%02x`, raw[i])
			i++
		default:
			b.WriteString(raw[i : i+n])
			i += n
		}
	}
	return b.String()
}
