package layout

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/hikae/hikae/pipe"
)

const defaultSector = 512

// table finds what a disk is divided into. A disk without a partition table is one region.
func (r *reader) table(ctx context.Context, d *Disk) ([]region, error) {
	whole := region{name: d.Key, n: d.Image.Size()}
	found, err := Identify(ctx, d.Image)
	if err != nil {
		return nil, err
	}
	m, err := readMBR(ctx, d.Image)
	if err != nil {
		return nil, err
	}
	g, err := readGPT(ctx, d)
	if err != nil {
		return nil, err
	}
	switch {
	case m.used() && len(found) > 0:
		// Either may be what is left of an earlier use of the disk: an md member's superblock at the disk's end, a
		// file system that was made over a table.
		whole.whole = fmt.Sprintf("the disk carries both a partition table and the signature of %s", found[0].Kind)
	case m.protective() && g == nil:
		whole.whole = "its GPT is damaged, both copies of it"
	case m.protective() && g.doubt != "":
		whole.whole = g.doubt
	case m.protective():
		if g.note != "" {
			r.note("%s: %s", d.Key, g.note)
		}
		return g.regions(d, m), nil
	case m.used():
		return m.regions(ctx, d)
	case g != nil:
		whole.whole = "it has a GPT that no protective MBR announces"
	}
	return []region{whole}, nil
}

// within checks that a partition lies on its disk.
func (g *region) within(d *Disk) {
	if g.off < 0 || g.n < 0 || g.off > d.Image.Size() || g.n > d.Image.Size()-g.off {
		g.whole = "it reaches beyond the end of the disk"
		g.off = min(max(g.off, 0), d.Image.Size())
		g.n = min(max(g.n, 0), d.Image.Size()-g.off)
	}
}

// entry is one of the four entries of an MBR or of an extended boot record.
type entry struct {
	active byte
	typ    byte
	start  int64 // sectors
	n      int64 // sectors
}

// mbr is a master boot record: nothing where the sector is none.
type mbr struct {
	entries [4]entry
	valid   bool
}

const (
	bootSignature  = 0xAA55
	typeProtective = 0xEE
	typeDynamic    = 0x42
)

func (e *entry) extended() bool { return e.typ == 0x05 || e.typ == 0x0F || e.typ == 0x85 }
func (e *entry) used() bool     { return e.typ != 0 && e.n > 0 }

func readMBR(ctx context.Context, img pipe.Image) (m mbr, err error) {
	var p [defaultSector]byte
	if n, err := readAt(ctx, img, p[:], 0); n < len(p) || err != nil {
		return m, err
	}
	m.decode(&p)
	return m, nil
}

// decode: what looks like a table but has other flags than a table may have is code or text of a boot sector.
func (m *mbr) decode(p *[defaultSector]byte) {
	m.valid = binary.LittleEndian.Uint16(p[510:]) == bootSignature
	for i := range m.entries {
		q := p[446+16*i:]
		m.entries[i] = entry{q[0], q[4], int64(binary.LittleEndian.Uint32(q[8:])), int64(binary.LittleEndian.Uint32(q[12:]))}
		m.valid = m.valid && q[0]&0x7F == 0
	}
}

// used reports whether there is a table with anything in it.
func (m *mbr) used() bool {
	for i := range m.entries {
		if m.valid && m.entries[i].used() {
			return true
		}
	}
	return false
}

// protective reports whether the table points to a GPT.
func (m *mbr) protective() bool {
	for i := range m.entries {
		if m.valid && m.entries[i].used() && m.entries[i].typ == typeProtective {
			return true
		}
	}
	return false
}

// regions are the partitions of an MBR, with the logical ones of extended partitions.
func (m *mbr) regions(ctx context.Context, d *Disk) (out []region, err error) {
	sector := int64(defaultSector)
	if d.SectorSize != 0 {
		sector = d.SectorSize
	}
	logical, dynamic := 5, false
	for i := range m.entries {
		e := &m.entries[i]
		if !e.used() {
			continue
		}
		g := region{name: fmt.Sprintf("%s:%d", d.Key, i+1), typ: fmt.Sprintf("0x%02x", e.typ), off: e.start * sector, n: e.n * sector}
		dynamic = dynamic || e.typ == typeDynamic
		if g.within(d); !e.extended() || g.whole != "" {
			out = append(out, g)
			continue
		}
		inner, err := extended(ctx, d, g, sector, &logical)
		if err != nil {
			return nil, err
		}
		out = append(out, inner...)
	}
	for i := range out {
		if dynamic {
			out[i].whole = "the disk is a Windows dynamic disk"
		}
	}
	return out, nil
}

// maxLogical bounds the chain of extended boot records.
const maxLogical = 256

// extended follows the chain of records in an extended partition. Each names one logical partition, relative to itself,
// and the next record, relative to the extended partition. A chain that is broken, or leads anywhere twice, makes one
// region of the whole extended partition.
func extended(ctx context.Context, d *Disk, ext region, sector int64, number *int) (out []region, err error) {
	broken := func(why string) []region { ext.whole = "its chain of logical partitions " + why; return []region{ext} }
	seen := map[int64]bool{}
	for at := ext.off; ; {
		if seen[at] {
			return broken("leads in a circle"), nil
		}
		if seen[at] = true; len(seen) > maxLogical {
			return broken("is too long"), nil
		}
		var p [defaultSector]byte
		if n, err := readAt(ctx, d.Image, p[:], at); err != nil || n < len(p) {
			return broken("cannot be read"), err
		}
		var m mbr
		if m.decode(&p); !m.valid {
			return broken("is damaged"), nil
		}
		part, next := &m.entries[0], &m.entries[1]
		if part.used() && !part.extended() {
			g := region{name: fmt.Sprintf("%s:%d", d.Key, *number), typ: fmt.Sprintf("0x%02x", part.typ), off: at + part.start*sector, n: part.n * sector}
			if *number++; g.off < ext.off || g.off <= at || g.n > ext.off+ext.n-g.off {
				return broken("leaves the extended partition"), nil
			}
			out = append(out, g)
		} else if part.extended() {
			return broken("is damaged"), nil
		}
		if m.entries[2].used() || m.entries[3].used() || next.used() && !next.extended() {
			return broken("is damaged"), nil
		}
		if !next.used() {
			return out, nil
		}
		if at = ext.off + next.start*sector; at <= ext.off || at >= ext.off+ext.n {
			return broken("leaves the extended partition"), nil
		}
	}
}
