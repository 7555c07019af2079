package layout

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/hikae/hikae/pipe"
)

// A physical volume as it lies on a disk:
//
//	sector 0…3   label: "LABELONE", its own number, a checksum, and where the header is
//	             header: the volume's id, its size, where data areas and metadata areas are
//	area         metadata header: a checksum, a mark, and where the text lies in the ring behind it
//	             ring: versions of the group's text, one after the other
//	data         extents
const (
	maxAreas    = 16
	maxTextSize = 4 << 20
	mdaHeader   = 512
	mdaMark     = " LVM2 x[5A%r0N*>"
	lvmCRCSeed  = 0xF597A6CF
)

// lvmCRC is the CRC-32 of LVM: the common polynomial, a start of its own, and no final inversion.
func lvmCRC(p []byte) uint32 {
	return ^crc32.Update(^uint32(lvmCRCSeed), crc32.IEEETable, p)
}

// physical is a physical volume on a disk.
type physical struct {
	v    *Volume // the region that it takes
	disk *Disk
	off  int64 // of the region on the disk
	id   string
	data []area // where extents may lie, in bytes of the region; n == 0: to the end of the device
	meta []area
	size int64 // of the device, as its header has it
	text []byte
}

type area struct{ off, n int64 }

var errPhysical = errors.New("its label or metadata is damaged")

// readPhysical reads what a region says of itself. The text is nil where it holds none: that of another volume of the
// group then names it.
func readPhysical(ctx context.Context, v *Volume, d *Disk, off int64) (*physical, error) {
	img := v.Image()
	head := make([]byte, 4*512)
	if n, err := readAt(ctx, img, head, 0); err != nil || n < len(head) {
		return nil, errors.Join(errPhysical, err)
	}
	p := &physical{v: v, disk: d, off: off}
	found := 0
	for i := range 4 {
		if at(head, i*512, "LABELONE") {
			found++
			if err := p.label(head[i*512:][:512], i); err != nil {
				return nil, err
			}
		}
	}
	if found != 1 {
		return nil, fmt.Errorf("%w: %d labels", errPhysical, found)
	}
	for _, m := range p.meta {
		text, err := readText(ctx, img, m)
		if err != nil {
			return nil, err
		}
		if p.text != nil && text != nil && !bytes.Equal(text, p.text) {
			return nil, fmt.Errorf("%w: its two metadata areas differ", errPhysical)
		}
		if text != nil {
			p.text = text
		}
	}
	return p, nil
}

// label reads the label and the header behind it, which stand in one sector.
func (p *physical) label(s []byte, number int) error {
	le := binary.LittleEndian
	at := int(le.Uint32(s[20:]))
	if le.Uint64(s[8:]) != uint64(number) || lvmCRC(s[20:]) != le.Uint32(s[16:]) || string(s[24:32]) != "LVM2 001" || at < 32 || at > 512-40 {
		return fmt.Errorf("%w: the label", errPhysical)
	}
	h := s[at:]
	p.id, p.size = string(h[:32]), int64(le.Uint64(h[32:]))
	if p.size < 0 || p.size > p.v.Size {
		return fmt.Errorf("%w: it says that it has %d bytes", errPhysical, p.size)
	}
	h = h[40:]
	for _, list := range []*[]area{&p.data, &p.meta} {
		for {
			if len(h) < 16 || len(*list) > maxAreas {
				return fmt.Errorf("%w: its areas do not end", errPhysical)
			}
			a := area{int64(le.Uint64(h)), int64(le.Uint64(h[8:]))}
			if h = h[16:]; a.off == 0 {
				break
			}
			if a.off < 0 || a.n < 0 || a.off > p.v.Size || a.n > p.v.Size-a.off {
				return fmt.Errorf("%w: an area lies outside", errPhysical)
			}
			*list = append(*list, a)
		}
	}
	if len(p.data) != 1 {
		return fmt.Errorf("%w: %d data areas", errPhysical, len(p.data))
	}
	return nil
}

// readText reads the committed text of a metadata area; nil where the area is empty or not in use.
func readText(ctx context.Context, img pipe.Image, m area) ([]byte, error) {
	h := make([]byte, mdaHeader)
	if n, err := readAt(ctx, img, h, m.off); err != nil || n < len(h) {
		return nil, errors.Join(errPhysical, err)
	}
	le := binary.LittleEndian
	if lvmCRC(h[4:]) != le.Uint32(h) || string(h[4:20]) != mdaMark || le.Uint32(h[20:]) != 1 ||
		int64(le.Uint64(h[24:])) != m.off || int64(le.Uint64(h[32:])) != m.n {
		return nil, fmt.Errorf("%w: a metadata header", errPhysical)
	}
	at, n, sum, flags := int64(le.Uint64(h[40:])), int64(le.Uint64(h[48:])), le.Uint32(h[56:]), le.Uint32(h[60:])
	if n == 0 || flags&1 != 0 {
		return nil, nil
	}
	if at < mdaHeader || at >= m.n || n < 0 || n > maxTextSize || n > m.n-mdaHeader {
		return nil, fmt.Errorf("%w: the text lies outside of its area", errPhysical)
	}
	text := make([]byte, n)
	first := min(n, m.n-at) // what does not fit before the ring's end stands at its beginning
	for _, part := range []struct {
		p   []byte
		off int64
	}{{text[:first], m.off + at}, {text[first:], m.off + mdaHeader}} {
		if k, err := readAt(ctx, img, part.p, part.off); len(part.p) > 0 && (err != nil || k < len(part.p)) {
			return nil, errors.Join(errPhysical, err)
		}
	}
	if lvmCRC(text) != sum {
		return nil, fmt.Errorf("%w: the text's checksum", errPhysical)
	}
	return text, nil
}
