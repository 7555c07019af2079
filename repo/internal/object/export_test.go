package object

// AppendTable and SealTable let tests make tables that no Builder makes.
func AppendTable(dst []byte, entries []Entry) []byte {
	for _, e := range entries {
		dst = appendEntry(dst, e)
	}
	return dst
}

func SealTable(c *Cipher, table []byte, off int) []byte {
	return c.seal(nil, table, tableRef(off, len(table)))
}

// FixedHeader is how many bytes of a stream no table reaches into.
const FixedHeader = fixedHeader

// CheckEntry holds an entry against the bounds; space is how many bytes of frames can still be there.
func CheckEntry(e *Entry, space int) error { return e.check(space) }
