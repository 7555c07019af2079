package vhdx

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// GUID is an identity as it lies in a VHDX file: the first three groups little-endian.
type GUID [16]byte

// String is the usual form in braces.
func (g GUID) String() string {
	le := binary.LittleEndian
	return fmt.Sprintf("{%08x-%04x-%04x-%x-%x}", le.Uint32(g[:]), le.Uint16(g[4:]), le.Uint16(g[6:]), g[8:10], g[10:])
}

// ParseGUID reads the usual form, with or without braces, in any case.
func ParseGUID(s string) (GUID, error) {
	plain := strings.TrimSuffix(strings.TrimPrefix(s, "{"), "}")
	parts := strings.Split(plain, "-")
	b, err := hex.DecodeString(strings.Join(parts, ""))
	if err != nil || len(b) != 16 || len(parts) != 5 || len(parts[0]) != 8 || len(parts[1]) != 4 || len(parts[2]) != 4 || len(parts[3]) != 4 {
		return GUID{}, fmt.Errorf("%q is no GUID", s)
	}
	g := GUID(b)
	g[0], g[1], g[2], g[3] = g[3], g[2], g[1], g[0]
	g[4], g[5] = g[5], g[4]
	g[6], g[7] = g[7], g[6]
	return g, nil
}

// NewGUID is a random one, of version 4.
func NewGUID() (g GUID) {
	rand.Read(g[:]) // it never fails
	g[7] = g[7]&0x0f | 0x40
	g[8] = g[8]&0x3f | 0x80
	return g
}

// mustGUID is for those that the format names.
func mustGUID(s string) GUID {
	g, err := ParseGUID(s)
	if err != nil {
		panic("vhdx: " + err.Error())
	}
	return g
}
