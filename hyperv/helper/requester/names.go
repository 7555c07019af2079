package requester

import (
	"fmt"
	"io/fs"
	"strings"
	"unicode"
)

// maxName is the longest path that Windows has, in characters.
const maxName = 32_767

// cleanName holds a name to an absolute path of Windows that means what it says: C:\VMs\web1.vhdx, \\server\share\web1.vhdx,
// \\?\Volume{…}\web1.vhdx. A folder may end in a backslash.
func cleanName(name string) (string, error) {
	bad := func(why string) (string, error) {
		return "", fmt.Errorf("name %.200q: %s: %w", name, why, fs.ErrInvalid)
	}
	root, rest, ok := splitRoot(name)
	switch {
	case !ok:
		return bad("not an absolute path of Windows")
	case len(name) > maxName:
		return bad("too long")
	}
	rest = strings.TrimSuffix(rest, `\`)
	if rest == "" {
		return root, nil
	}
	for part := range strings.SplitSeq(rest, `\`) {
		if why := badPart(part); why != "" {
			return bad(why)
		}
	}
	return root + rest, nil
}

// splitRoot parts C:\, \\server\share\ or \\?\Volume{…}\ from what is below it.
func splitRoot(name string) (root, rest string, ok bool) {
	if len(name) >= 3 && name[1] == ':' && name[2] == '\\' {
		drive := name[0] | 0x20
		return name[:3], name[3:], drive >= 'a' && drive <= 'z'
	}
	after, unc := strings.CutPrefix(name, `\\`)
	if !unc {
		return "", "", false
	}
	server, below, found := strings.Cut(after, `\`)
	share, rest, more := strings.Cut(below, `\`)
	if server == "?" {
		guid, isVolume := strings.CutPrefix(share, "Volume")
		if !isVolume || !idRule.MatchString(strings.ToUpper(guid)) {
			return "", "", false
		}
	} else if badPart(server) != "" {
		return "", "", false
	}
	if !found || server != "?" && badPart(share) != "" {
		return "", "", false
	}
	root = name[:len(name)-len(rest)]
	if !more {
		root += `\`
	}
	return root, rest, true
}

// badPart says why a part of a path is none; empty where it is one.
func badPart(part string) string {
	switch {
	case part == "":
		return "an empty part"
	case part == "." || part == "..":
		return "a part that means another folder"
	case strings.TrimRight(part, ". ") != part:
		return "a part that ends in a dot or a blank"
	}
	for _, r := range part {
		if unicode.IsControl(r) || strings.ContainsRune(`/:*?"<>|`, r) {
			return fmt.Sprintf("a part with %q", r)
		}
	}
	return ""
}

// below is what is left of a name in a folder, and whether it is in it at all. Capital and small letters are the same, as on NTFS.
func below(name, folder string) (string, bool) {
	folder = strings.TrimSuffix(folder, `\`)
	if len(name) < len(folder) || !strings.EqualFold(name[:len(folder)], folder) {
		return "", false
	}
	rest := name[len(folder):]
	if rest != "" && rest[0] != '\\' {
		return "", false
	}
	return strings.TrimPrefix(rest, `\`), true
}

// matches reports whether a name fits a pattern with * and ?; *.* is everything.
func matches(pattern, name string) bool {
	if pattern == "*.*" {
		return true
	}
	return fits([]rune(strings.ToLower(pattern)), []rune(strings.ToLower(name)))
}

func fits(pattern, name []rune) bool {
	star, mark := -1, 0
	p, n := 0, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			p++
			n++
		case star >= 0:
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// isPattern reports whether a file description means more than one name.
func isPattern(spec string) bool { return spec == "" || strings.ContainsAny(spec, "*?") }

// vmID is a component's name as VMs are called elsewhere: in small letters, without braces.
func vmID(name string) string { return strings.ToLower(strings.Trim(name, "{}")) }
