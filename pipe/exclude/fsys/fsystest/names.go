package fsystest

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxName is what most file systems allow: 255 bytes, of NTFS 255 UTF-16 units.
const maxName = 255

// awkward are parts of names that programs trip over. None is refused by ext, XFS or the POSIX namespace of NTFS.
var awkward = []string{
	"line\nbreak", "tab\there", " leading", "trailing ", "-rf", "--", "...", "..x", ".hidden", `quo"te'`, `back\slash`,
	"*?[a]", "$(x)`y`", "日本語の控え", "żółw", "Ümläut", "e\u0301", "😀🗄", "\u202egnp.txt", "\x01\x7f", "CON", "a:b", "NUL.txt",
	"%00%2f", "~", "#", "lost+found",
}

// name makes a name of its own for a number.
func (a *ager) name(number int) string {
	id := fmt.Sprintf("%d", number)
	switch n := a.rng.IntN(20); {
	case n < 10:
		return "f" + id
	case n < 15:
		return awkward[a.rng.IntN(len(awkward))] + id
	case n < 17:
		return cut(id+strings.Repeat("x", a.rng.IntN(maxName)), maxName)
	case n < 18:
		return cut(id+strings.Repeat("控", maxName), maxName)
	case n < 19 && a.opts.RawNames:
		return id + "\xff\xfe\x80" + string([]byte{byte(1 + a.rng.IntN(46)), byte(128 + a.rng.IntN(128))})
	}
	return id + awkward[a.rng.IntN(len(awkward))] + "e"
}

// numberOf is the number that a name was made for; 0 where none can be made out. It stands at the beginning or at the end,
// where none of the awkward parts has a digit.
func numberOf(name string) int {
	const digits = "0123456789"
	head := name[:len(name)-len(strings.TrimLeft(name, digits))]
	tail := name[len(strings.TrimRight(name, digits)):]
	n := 0
	for _, part := range []string{head, tail} {
		if k, err := strconv.ParseInt(part, 10, 32); err == nil { // a longer one is nobody's of ours
			n = max(n, int(k))
		}
	}
	return n
}

// cut shortens a name without cutting through a character.
func cut(name string, n int) string {
	if len(name) <= n {
		return name
	}
	for n > 0 && !utf8.RuneStart(name[n]) {
		n--
	}
	return name[:n]
}
