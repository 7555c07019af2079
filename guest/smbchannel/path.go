package smbchannel

import (
	"fmt"
	"io/fs"
	"strings"
)

// maxPath is how long a path in a guest may be, in bytes. Windows' own bound for most programs is 260 characters.
const maxPath = 240

// PathError says that a path is none that is reached through ADMIN$.
type PathError struct {
	Path string
	Why  string
}

func (e *PathError) Error() string { return fmt.Sprintf("path %.300q: %s", e.Path, e.Why) }

// Is lets errors.Is find fs.ErrInvalid.
func (e *PathError) Is(target error) bool { return target == fs.ErrInvalid }

// inShare turns a path of the guest into one of ADMIN$, which is what the guest has at root. A path below it is taken;
// root itself is not.
func inShare(root, path string) (string, error) {
	wrong := func(why string) (string, error) { return "", &PathError{Path: path, Why: why} }
	if len(path) > maxPath {
		return wrong("too long")
	}
	root = strings.TrimRight(root, `\`)
	if len(path) <= len(root)+1 || !strings.EqualFold(path[:len(root)], root) || path[len(root)] != '\\' {
		return wrong("not below " + root)
	}
	rest := path[len(root)+1:]
	for _, part := range strings.Split(rest, `\`) {
		if !validPart(part) {
			return wrong("a part that does not mean itself")
		}
	}
	return rest, nil
}

// validPart reports whether a part of a path means itself: no step up, no stream, no pattern, no device.
func validPart(s string) bool {
	if s == "" || strings.Trim(s, ". ") != s {
		return false
	}
	for _, r := range s {
		if r < ' ' || r == 0x7f || strings.ContainsRune(`/:*?"<>|%`, r) {
			return false
		}
	}
	stem, _, _ := strings.Cut(strings.ToUpper(s), ".")
	switch stem {
	case "CON", "PRN", "AUX", "NUL":
		return false
	}
	numbered := len(stem) == 4 && (strings.HasPrefix(stem, "COM") || strings.HasPrefix(stem, "LPT"))
	return !numbered
}

// ours reports whether a path in ADMIN$ is a folder hikae-… or below one: nothing else is ever made or removed.
func ours(rel string) bool {
	first, _, _ := strings.Cut(rel, `\`)
	return strings.HasPrefix(strings.ToLower(first), "hikae-") && len(first) > len("hikae-")
}

func folderOf(path string) string {
	if i := strings.LastIndexByte(path, '\\'); i > 0 {
		return path[:i]
	}
	return ""
}

// commandLine quotes a program and its arguments as Windows takes them apart again: a quote or a run of backslashes
// before one is escaped by backslashes, and what has a space is quoted.
func commandLine(program string, args []string) string {
	line := []string{`"` + program + `"`} // a path has no quotes
	for _, a := range args {
		line = append(line, quote(a))
	}
	return strings.Join(line, " ")
}

func quote(arg string) string {
	if arg != "" && !strings.ContainsAny(arg, " \t\"") {
		return arg
	}
	var b strings.Builder
	b.WriteByte('"')
	slashes := 0
	for _, r := range arg {
		switch r {
		case '\\':
			slashes++
			continue
		case '"':
			b.WriteString(strings.Repeat(`\`, 2*slashes+1))
		default:
			b.WriteString(strings.Repeat(`\`, slashes))
		}
		slashes = 0
		b.WriteRune(r)
	}
	b.WriteString(strings.Repeat(`\`, 2*slashes))
	b.WriteByte('"')
	return b.String()
}
