package repo

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"github.com/zeebo/blake3"
)

// A recovery sheet is a key file on paper: 32 random bytes in eight lines, each with two digits that show a typing mistake.

// NewKey makes the key of a key file or of a recovery sheet.
func NewKey() [32]byte { return newSecret() }

const sheetLine = 4 // bytes

// RecoverySheet writes a key as people print it, put it into a safe, and type it again years later: [ParseKeyFile] reads it. Only
// digits and the letters a to f stand in it.
func RecoverySheet(key [32]byte) string {
	var b strings.Builder
	for i := 0; i < len(key); i += sheetLine {
		n := i/sheetLine + 1
		d := hex.EncodeToString(key[i : i+sheetLine])
		fmt.Fprintf(&b, "  %d   %s %s   %s\n", n, d[:4], d[4:], sheetCheck(n, d))
	}
	return b.String()
}

// sheetCheck finds a mistyped or swapped digit in 255 of 256 cases, and a swapped line.
func sheetCheck(line int, digits string) string {
	sum := blake3.Sum256(fmt.Appendf(nil, "hikae/1/sheet/%d/%s", line, digits))
	return hex.EncodeToString(sum[:1])
}

var sheetPattern = regexp.MustCompile(`(?im)^[ \t]*([1-8])[ \t]+([0-9a-f]{4})[ \t]+([0-9a-f]{4})[ \t]+([0-9a-f]{2})[ \t]*\r?$`)

// parseSheet finds the eight lines of a recovery sheet in a text. ok is false where there are none.
func parseSheet(b []byte) (key [32]byte, ok bool, err error) {
	seen := map[int]bool{}
	for _, m := range sheetPattern.FindAllSubmatch(b, 64) {
		n, digits := int(m[1][0]-'0'), strings.ToLower(string(m[2])+string(m[3]))
		if sheetCheck(n, digits) != strings.ToLower(string(m[4])) {
			return key, true, fmt.Errorf("line %d of the recovery sheet has a typing mistake", n)
		}
		part := key[(n-1)*sheetLine : n*sheetLine]
		was := hex.EncodeToString(part)
		if _, err := hex.Decode(part, []byte(digits)); err != nil {
			return key, true, err
		}
		if seen[n] && was != digits {
			return key, true, fmt.Errorf("line %d stands twice in the recovery sheet, with different digits", n)
		}
		seen[n] = true
	}
	if len(seen) == 0 {
		return key, false, nil
	}
	for n := range len(key) / sheetLine {
		if !seen[n+1] {
			return key, true, fmt.Errorf("line %d of the recovery sheet is missing or cannot be read", n+1)
		}
	}
	return key, true, nil
}
