package vmdk

import "encoding/binary"

// marker stands in a stream before whatever else there is: a sector, but for grains, whose data begins within it.
type marker struct {
	value uint64 // first sector of a grain; otherwise the length of what follows, in sectors
	size  uint32 // bytes of a compressed grain; 0 for all others
	kind  uint32 // of all others
}

func parseMarker(b []byte) marker {
	m := marker{value: binary.LittleEndian.Uint64(b), size: binary.LittleEndian.Uint32(b[8:])}
	if m.size == 0 {
		m.kind = binary.LittleEndian.Uint32(b[12:])
	}
	return m
}

// append is the marker as a sector.
func (m marker) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, m.value)
	b = binary.LittleEndian.AppendUint32(b, m.size)
	b = binary.LittleEndian.AppendUint32(b, m.kind)
	return append(b, make([]byte, sector-16)...)
}
