package layout

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"unicode/utf16"
)

// Bounds of a GPT: tables have 128 entries of 128 bytes nearly always.
const (
	maxEntries   = 1024
	maxEntrySize = 4096
)

const gptSignature = "EFI PART"

// gpt is a GUID partition table. Its header stands in the disk's second sector and a copy in the last; both name where
// the entries are and carry checksums of them and of themselves.
type gpt struct {
	sector    int64
	first     int64 // the first and the last sector that partitions may use
	last      int64
	alternate int64
	entrySize int
	entries   []byte
	note      string
	doubt     string
}

// readGPT finds a table by its first header, or by the copy at the end; nil where there is neither.
func readGPT(ctx context.Context, d *Disk) (*gpt, error) {
	var found []*gpt
	for _, sector := range []int64{512, 4096} {
		g, err := readHeader(ctx, d, sector, 1)
		if err != nil {
			return nil, err
		}
		last := d.Image.Size()/sector - 1
		if g == nil {
			if g, err = readHeader(ctx, d, sector, last); err != nil {
				return nil, err
			}
			if g != nil {
				g.note = "the first header of its GPT is damaged; the copy at the end was used"
			}
		} else if err := g.compare(ctx, d); err != nil {
			return nil, err
		}
		if g != nil {
			found = append(found, g)
		}
	}
	if len(found) == 0 {
		return nil, nil
	}
	if len(found) > 1 {
		found[0].doubt = "it has two GPTs, for sectors of 512 and of 4096 bytes"
	}
	return found[0], nil
}

// compare looks at the copy that a first header names. A system uses the first; a copy that says something else is what
// a tool left that was interrupted, or that knew only one of them.
func (g *gpt) compare(ctx context.Context, d *Disk) error {
	copied, err := readHeader(ctx, d, g.sector, g.alternate)
	if err != nil {
		return err
	}
	switch {
	case copied == nil:
		g.note = "the backup of its GPT is damaged"
	case copied.entrySize != g.entrySize || !bytes.Equal(copied.entries, g.entries):
		g.doubt = "its two GPTs name different partitions"
	}
	return nil
}

// readHeader reads a header and its entries; nil where there is none that is whole.
func readHeader(ctx context.Context, d *Disk, sector, lba int64) (*gpt, error) {
	size := d.Image.Size()
	if lba < 1 || lba > size/sector-1 {
		return nil, nil
	}
	h := make([]byte, sector)
	if n, err := readAt(ctx, d.Image, h, lba*sector); err != nil || n < len(h) {
		return nil, err
	}
	le := binary.LittleEndian
	headerSize := int64(le.Uint32(h[12:]))
	if string(h[:8]) != gptSignature || headerSize < 92 || headerSize > sector || int64(le.Uint64(h[24:])) != lba {
		return nil, nil
	}
	sum := le.Uint32(h[16:])
	clear(h[16:20])
	if crc32.ChecksumIEEE(h[:headerSize]) != sum {
		return nil, nil
	}
	g := &gpt{
		sector: sector, alternate: int64(le.Uint64(h[32:])), first: int64(le.Uint64(h[40:])), last: int64(le.Uint64(h[48:])),
		entrySize: int(le.Uint32(h[84:])),
	}
	count, at := int(le.Uint32(h[80:])), int64(le.Uint64(h[72:]))
	if g.entrySize < 128 || g.entrySize > maxEntrySize || g.entrySize&(g.entrySize-1) != 0 || count < 0 || count > maxEntries ||
		at < 1 || at > size/sector {
		return nil, nil
	}
	g.entries = make([]byte, count*g.entrySize)
	if n, err := readAt(ctx, d.Image, g.entries, at*sector); err != nil || n < len(g.entries) {
		return nil, err
	}
	if crc32.ChecksumIEEE(g.entries) != le.Uint32(h[88:]) {
		return nil, nil
	}
	return g, nil
}

// notFollowed are types of partitions whose content is part of something larger.
var notFollowed = map[string]string{
	"5808c8aa-7e8f-42e0-85d2-e1e90434cfb3": "it belongs to a Windows dynamic disk",
	"af9b60a0-1431-4f62-bc68-3311714a69ad": "it belongs to a Windows dynamic disk",
	"e75caf8f-f680-4cee-afa3-b001e56efc2d": "it belongs to Windows Storage Spaces",
}

// regions are the partitions. What the MBR names beside the GPT, and differently, makes both doubtful by overlapping.
func (g *gpt) regions(d *Disk, m mbr) (out []region) {
	for i := 0; i*g.entrySize < len(g.entries); i++ {
		e := g.entries[i*g.entrySize:][:g.entrySize]
		first, last := binary.LittleEndian.Uint64(e[32:]), binary.LittleEndian.Uint64(e[40:])
		if [16]byte(e[:16]) == [16]byte{} {
			continue
		}
		p := region{name: fmt.Sprintf("%s:%d", d.Key, i+1), label: label(e[56:128]), typ: guid(e)}
		p.whole = notFollowed[p.typ]
		if limit := uint64(maxDisk / g.sector); first > last || last >= limit || int64(first) < g.first || int64(last) > g.last {
			p.whole = "it lies outside of what its table allows"
			first, last = min(first, limit-1), min(last, limit-1)
		}
		p.off, p.n = int64(first)*g.sector, max(int64(last)-int64(first)+1, 0)*g.sector
		p.within(d)
		out = append(out, p)
	}
	return append(out, m.beside(d, g.sector, out)...)
}

// beside are the entries of a hybrid MBR that are not those of the GPT.
func (m *mbr) beside(d *Disk, sector int64, known []region) (out []region) {
	for i := range m.entries {
		e := &m.entries[i]
		g := region{name: fmt.Sprintf("%s:mbr%d", d.Key, i+1), typ: fmt.Sprintf("0x%02x", e.typ), off: e.start * sector, n: e.n * sector}
		same := !e.used() || e.typ == typeProtective
		for _, k := range known {
			same = same || k.off == g.off && k.n == g.n
		}
		if !same {
			g.whole = "only the MBR of the disk names it, and not its GPT"
			g.within(d)
			out = append(out, g)
		}
	}
	return out
}

// label decodes a partition's name.
func label(p []byte) string {
	var u []uint16
	for i := 0; i+1 < len(p); i += 2 {
		c := binary.LittleEndian.Uint16(p[i:])
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}

// guid writes a GUID as people do: its first three fields are little-endian.
func guid(p []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(p), le.Uint16(p[4:]), le.Uint16(p[6:]), p[8:10], p[10:16])
}
