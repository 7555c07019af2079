package vss

import "fmt"

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
