package pipe

import "bytes"

// zeroCell is the grain in which zeros are looked for on targets without blocks, and the unit of comparison: it stays
// in the first-level cache.
const zeroCell = 4 << 10

var zeros [zeroCell]byte

// isZero reports whether all of p is zero. Data mostly fails in the first cell.
func isZero(p []byte) bool {
	for len(p) > zeroCell {
		if !bytes.Equal(p[:zeroCell], zeros[:]) {
			return false
		}
		p = p[zeroCell:]
	}
	return bytes.Equal(p, zeros[:len(p)])
}
