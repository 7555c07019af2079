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
