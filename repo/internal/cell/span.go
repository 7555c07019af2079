package cell

// StreamSpan says which bytes of the file hold the n bytes of the stream from off on: whole cells.
func StreamSpan(off, n int) (fileOff, fileLen int) {
	first := off / Payload
	if n <= 0 {
		return first * Size, 0
	}
	last := (off + n - 1) / Payload
	return first * Size, (last - first + 1) * Size
}

// Strip copies n bytes of the stream from streamOff on into dst. cells is what StreamSpan(streamOff, n) asked for. No
// tag is looked at: what lies in the stream is sealed, and a seal that breaks is the sign to ask CheckSpan. dst may be
// cells itself, which is then overwritten.
func Strip(dst, cells []byte, streamOff, n int) {
	in := streamOff % Payload
	for n > 0 {
		c := copy(dst[:n], cells[in:min(Payload, in+n)])
		dst, n, in = dst[c:], n-c, 0
		cells = cells[min(Size, len(cells)):]
	}
}

// CheckSpan lists the bad ones among cells, the first of which should have the ordinal firstOrdinal: those that do not
// verify, stand in another's place, or belong to another object than most. A part of a cell at the end is bad.
func CheckSpan(cells []byte, firstOrdinal int) (bad []int) {
	s := survey(cells)
	for i, c := range s.cells {
		if c.geometry != s.most || c.ordinal != firstOrdinal+i {
			bad = append(bad, firstOrdinal+i)
		}
	}
	if len(cells)%Size != 0 {
		bad = append(bad, firstOrdinal+len(s.cells))
	}
	return bad
}
