package vss

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// GUID is an identifier as Windows lays it out.
type GUID struct {
	A    uint32
	B, C uint16
	D    [8]byte
}

// String is the form in braces.
func (g GUID) String() string {
	return fmt.Sprintf("{%08X-%04X-%04X-%X-%X}", g.A, g.B, g.C, g.D[:2], g.D[2:])
}

// ParseGUID is the reverse of String. Small letters are as good.
func ParseGUID(s string) (g GUID, err error) {
	const form = "{XXXXXXXX-XXXX-XXXX-XXXX-XXXXXXXXXXXX}"
	if len(s) != len(form) || s[0] != '{' || s[9] != '-' || s[14] != '-' || s[19] != '-' || s[24] != '-' || s[37] != '}' {
		return g, fmt.Errorf("identifier %.60q: not %s", s, form)
	}
	b, err := hex.DecodeString(strings.ReplaceAll(s[1:37], "-", ""))
	if err != nil || len(b) != 16 {
		return g, errors.Join(fmt.Errorf("identifier %.60q: not %s", s, form), err)
	}
	g.A, g.B, g.C = binary.BigEndian.Uint32(b), binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
	copy(g.D[:], b[8:])
	return g, nil
}
