package vhdx

import (
	"encoding/binary"
	"slices"
	"strings"
	"unicode/utf16"
)

// The keys of a parent locator.
const (
	keyLinkage  = "parent_linkage"
	keyLinkage2 = "parent_linkage2"
	keyRelative = "relative_path"
	keyVolume   = "volume_path"
	keyAbsolute = "absolute_win32_path"
)

func utf16Bytes(s string, order binary.AppendByteOrder) (b []byte) {
	for _, c := range utf16.Encode([]rune(s)) {
		b = order.AppendUint16(b, c)
	}
	return b
}

// utf16String ends at the first zero, which some writers count in and others not.
func utf16String(b []byte, order binary.ByteOrder) string {
	var c []uint16
	for i := 0; i+1 < len(b); i += 2 {
		v := order.Uint16(b[i:])
		if v == 0 {
			break
		}
		c = append(c, v)
	}
	return string(utf16.Decode(c))
}

// locator reads the keys and values of a parent locator.
func (p *parser) locator(at int64, b []byte) (map[string]string, error) {
	if len(b) < 20 {
		return nil, p.corrupt(at, "a parent locator of %d bytes", len(b))
	}
	if id := GUID(b[:16]); id != locatorVHDX {
		return nil, &UnsupportedError{p.path, "a parent locator of type " + id.String()}
	}
	count := int(le.Uint16(b[18:]))
	if count > 64 || len(b) < 20+12*count {
		return nil, p.corrupt(at, "a parent locator of %d bytes with %d entries", len(b), count)
	}
	out := map[string]string{}
	for i := range count {
		e := b[20+12*i:]
		keyOff, valOff := int64(le.Uint32(e)), int64(le.Uint32(e[4:]))
		keyLen, valLen := int64(le.Uint16(e[8:])), int64(le.Uint16(e[10:]))
		if keyOff+keyLen > int64(len(b)) || valOff+valLen > int64(len(b)) {
			return nil, p.corrupt(at, "entry %d of the parent locator leaves it", i)
		}
		key := utf16String(b[keyOff:keyOff+keyLen], le)
		if _, twice := out[key]; twice {
			return nil, p.corrupt(at, "the parent locator has %q twice", key)
		}
		out[key] = utf16String(b[valOff:valOff+valLen], le)
	}
	return out, nil
}

// encodeLocator is the reverse, in the order of keys.
func encodeLocator(values map[string]string) []byte {
	var keys []string
	for k := range values {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	b := make([]byte, 20+12*len(keys))
	copy(b, locatorVHDX[:])
	le.PutUint16(b[18:], uint16(len(keys)))
	for i, k := range keys {
		e := 20 + 12*i
		for j, s := range []string{k, values[k]} {
			text := utf16Bytes(s, le)
			le.PutUint32(b[e+4*j:], uint32(len(b)))
			le.PutUint16(b[e+8+2*j:], uint16(len(text)))
			b = append(b, text...)
		}
	}
	return b
}

// maxCandidates bounds how many places are looked at for one parent.
const maxCandidates = 64

// candidates are the places below a folder where a parent may be, slash-separated, most likely first. dir is where the
// child lies in that folder. Of a path of another machine every tail is tried, the longest first, and at last the bare
// name beside the child: which is the right one, its identity says.
func candidates(dir string, relative, absolute []string) (out []string) {
	add := func(parts []string) {
		path := strings.Join(parts, "/")
		if len(parts) > 0 && len(path) < 4096 && len(out) < maxCandidates && !slices.Contains(out, path) {
			out = append(out, path)
		}
	}
	var base []string
	if dir != "." && dir != "" {
		base = strings.Split(dir, "/")
	}
	for _, r := range relative {
		if parts, ok := climb(base, split(r)); ok {
			add(parts)
		}
	}
	for _, a := range absolute {
		parts := split(a)
		parts = parts[max(0, len(parts)-16):]
		if _, ok := climb(nil, parts); !ok || slices.Contains(parts, "..") {
			continue
		}
		for i := range parts {
			add(parts[i:])
		}
	}
	for _, name := range slices.Concat(relative, absolute) {
		if parts := split(name); len(parts) > 0 && parts[len(parts)-1] != ".." {
			add(slices.Concat(base, parts[len(parts)-1:]))
		}
	}
	return out
}

// split takes a path of Windows apart; drives, volumes and servers go. "?" and ":" stand in no name.
func split(path string) (parts []string) {
	for _, s := range strings.FieldsFunc(path, func(r rune) bool { return r == '\\' || r == '/' }) {
		if s != "." && !strings.ContainsAny(s, ":?\x00") {
			parts = append(parts, s)
		}
	}
	return parts
}

// climb follows parts from base, and answers false where they lead out of the folder.
func climb(base, parts []string) ([]string, bool) {
	out := slices.Clone(base)
	for _, s := range parts {
		if s != ".." {
			out = append(out, s)
			continue
		}
		if len(out) == 0 {
			return nil, false
		}
		out = out[:len(out)-1]
	}
	return out, true
}
