package cell

import "sort"

// StreamIn is about how many bytes of stream a file of that size holds, if it was written with that parity: exact up
// to the zero bytes that fill the last data cell.
func StreamIn(fileSize int64, permille int) int64 {
	cells := int(fileSize / Size)
	n := sort.Search(cells, func(n int) bool { return n+1+parityCells(n+1, permille) > cells })
	return int64(n) * Payload
}
