package vhdx

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// Bounds of a path of Windows. Its own for the longest form is 32,767 characters of UTF-16.
const (
	maxWindowsPath  = 4096
	maxWindowsParts = 128
)

// WindowsPath is a path of Windows in the form that [Files] take: a drive (C:\VMs\web1.vhdx) or a share
// (\\server\share\web1.vhdx), without "." and "..", without the prefix of long paths, with backslashes only. What is
// relative, leads out of its drive or share, names a device or a volume by its id, or could mean another file than it
// says (streams, patterns, trailing dots) is fs.ErrInvalid.
func WindowsPath(name string) (string, error) {
	root, parts, err := parseWindows(name)
	if err != nil {
		return "", fmt.Errorf("path %.300q: %w: %s", name, fs.ErrInvalid, err)
	}
	return root + strings.Join(parts, `\`), nil
}

// whyNot says what is wrong with a path.
type whyNot string

func (w whyNot) Error() string { return string(w) }

// parseWindows takes a path apart: C:\ or \\server\share\, and what is below.
func parseWindows(name string) (root string, parts []string, err error) {
	if len(name) > maxWindowsPath {
		return "", nil, whyNot("too long")
	}
	name = strings.ReplaceAll(name, "/", `\`)
	if rest, long := cutFold(name, `\\?\UNC\`); long {
		name = `\\` + rest
	} else if rest, long := strings.CutPrefix(name, `\\?\`); long {
		name = rest
	}
	rest, share := strings.CutPrefix(name, `\\`)
	words := strings.Split(rest, `\`)
	switch {
	case share && len(words) >= 2 && validServer(words[0]) && validWindowsPart(words[1]):
		root, words = `\\`+words[0]+`\`+words[1]+`\`, words[2:]
	case share:
		return "", nil, whyNot("no server and share")
	case len(words) >= 2 && isDrive(words[0]):
		root, words = strings.ToUpper(words[0])+`\`, words[1:]
	default:
		return "", nil, whyNot("neither on a drive nor on a share")
	}
	parts, err = cleanParts(nil, words)
	return root, parts, err
}

func cutFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// cleanParts follows words from base.
func cleanParts(base, words []string) ([]string, error) {
	out := slices.Clone(base)
	for _, w := range words {
		switch {
		case w == "" || w == ".":
		case w == ".." && len(out) == 0:
			return nil, whyNot("it leads out of where it is")
		case w == "..":
			out = out[:len(out)-1]
		case !validWindowsPart(w):
			return nil, whyNot("a part that does not mean itself")
		default:
			out = append(out, w)
		}
	}
	if len(out) > maxWindowsParts {
		return nil, whyNot("too deep")
	}
	return out, nil
}

func isDrive(s string) bool {
	return len(s) == 2 && s[1] == ':' && (s[0]|0x20) >= 'a' && (s[0]|0x20) <= 'z'
}

// validServer reports whether a name is one of a machine: by name, or by an IPv4 address. Colons of an IPv6 address stand in
// no path; Windows writes those as names of ipv6-literal.net.
func validServer(s string) bool {
	if s == "" || len(s) > 255 || strings.Trim(s, ".-") != s {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_')
	})
}

// validWindowsPart reports whether a part of a path means itself: no stream, no pattern, no device, nothing that Windows
// cuts off.
func validWindowsPart(s string) bool {
	if s == "" || len(s) > 255*3 || strings.TrimRight(s, ". ") != s {
		return false
	}
	for _, r := range s {
		if r < ' ' || r == 0x7f || r == 0xfffd || strings.ContainsRune(`/\:*?"<>|`, r) {
			return false
		}
	}
	stem, _, _ := strings.Cut(strings.ToUpper(s), ".")
	switch stem = strings.TrimRight(stem, " "); stem {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$":
		return false
	}
	return !(len(stem) == 4 && (strings.HasPrefix(stem, "COM") || strings.HasPrefix(stem, "LPT")) && stem[3] >= '0' && stem[3] <= '9')
}
