package ntfs

import (
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// Namespaces of a file name. A file with a long name may have a second, short one for DOS, which is not shown.
const spaceDOS = 2

// fileName is the value of a file name attribute, which is also the key in the index of a directory.
type fileName struct {
	parent  ref
	size    int64
	flags   uint32
	reparse uint32
	space   byte
	name    string
}

// Flags of a file.
const (
	flagReadOnly = 0x00000001
	flagSystem   = 0x00000004
	flagReparse  = 0x00000400
	flagOffline  = 0x00001000
	flagRecall   = 0x00400000 | 0x00040000 // when it is read, when it is opened
	flagDir      = 0x10000000              // only in file names: it has an index of names
)

func parseName(p []byte) (fileName, error) {
	if len(p) < 0x42 {
		return fileName{}, fmt.Errorf("a file name of %d bytes", len(p))
	}
	n := fileName{parent: ref(le.Uint64(p)), size: int64(le.Uint64(p[0x30:])), flags: le.Uint32(p[0x38:]),
		reparse: le.Uint32(p[0x3C:]), space: p[0x41]}
	end := 0x42 + 2*int(p[0x40])
	if end > len(p) || end == 0x42 {
		return fileName{}, fmt.Errorf("a name of %d characters in %d bytes", p[0x40], len(p))
	}
	n.name = decodeUTF16(p[0x42:end])
	if strings.ContainsAny(n.name, "/\x00") {
		return fileName{}, fmt.Errorf("the name %q", n.name)
	}
	return n, nil
}

// decodeUTF16 turns UTF-16 into UTF-8. Half of a surrogate pair alone, which NTFS allows in names, becomes the three
// bytes that UTF-8 would have for it if it could: no longer valid UTF-8, and still told apart and turned back.
func decodeUTF16(p []byte) string {
	b := make([]byte, 0, len(p))
	for ; len(p) >= 2; p = p[2:] {
		r := rune(le.Uint16(p))
		if utf16.IsSurrogate(r) {
			if len(p) >= 4 {
				if pair := utf16.DecodeRune(r, rune(le.Uint16(p[2:]))); pair != utf8.RuneError {
					b, p = utf8.AppendRune(b, pair), p[2:]
					continue
				}
			}
			b = append(b, 0xE0|byte(r>>12), 0x80|byte(r>>6)&0x3F|0x80, 0x80|byte(r)&0x3F)
			continue
		}
		b = utf8.AppendRune(b, r)
	}
	return string(b)
}

// maxNameUnits is how long a name can be in UTF-16; three bytes of UTF-8 for each must fit.
const maxNameUnits = 255

var _ [fsys.MaxName - 3*maxNameUnits]struct{}
