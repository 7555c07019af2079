package xfs

import (
	"context"
	"fmt"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// group is what the headers of an allocation group say.
type group struct {
	no  uint32
	len uint32 // blocks

	byBlock, byLength, rmap, ref root // trees of the AGF
	inodes, freeInodes           root // trees of the AGI

	free, longest         uint32
	inodeCount, inodeFree uint32
	aside                 []uint32 // the AGFL: set aside for the trees, not free
}

// root is where a B+tree begins and how many levels it has. No levels: there is no such tree.
type root struct {
	block  uint32
	levels uint32
}

// readGroup reads and verifies the headers of a group.
func (f *FS) readGroup(ctx context.Context, v view, no uint32) (*group, error) {
	g := &group{no: no, len: f.sb.agLen(no)}
	if err := f.readAGF(ctx, v, g); err != nil {
		return nil, err
	}
	return g, f.readAGI(ctx, v, g)
}

// header reads sector i of a group and compares what all headers have in common.
func (f *FS) header(ctx context.Context, v view, g *group, i int64, s *seal, name string) (b []byte, err error) {
	b = make([]byte, f.sb.sectorSize)
	off := f.sb.at(g.no, 0) + i*f.sb.sectorSize
	what := fmt.Sprintf("%s of group %d", name, g.no)
	if err := f.readSealed(ctx, v, b, s, what, off, anyOwner); err != nil {
		return nil, err
	}
	magic := map[string]string{"AGF": "XAGF", "AGI": "XAGI", "AGFL": "XAFL"}[name]
	if string(b[:4]) != magic {
		return nil, &fsys.CorruptError{What: what, Off: off, Why: "no " + magic}
	}
	seqno := b[8:]
	if name == "AGFL" {
		seqno = b[4:]
	} else if be.Uint32(b[4:]) != 1 || be.Uint32(b[12:]) != g.len {
		return nil, &fsys.CorruptError{What: what, Off: off,
			Why: fmt.Sprintf("version %d, %d blocks instead of %d", be.Uint32(b[4:]), be.Uint32(b[12:]), g.len)}
	}
	if be.Uint32(seqno) != g.no {
		return nil, &fsys.CorruptError{What: what, Off: off, Why: fmt.Sprintf("it is that of group %d", be.Uint32(seqno))}
	}
	return b, nil
}

func (f *FS) readAGF(ctx context.Context, v view, g *group) error {
	b, err := f.header(ctx, v, g, 1, &agfSeal, "AGF")
	if err != nil {
		return err
	}
	g.byBlock = root{be.Uint32(b[16:]), be.Uint32(b[28:])}
	g.byLength = root{be.Uint32(b[20:]), be.Uint32(b[32:])}
	g.free, g.longest = be.Uint32(b[52:]), be.Uint32(b[56:])
	if f.sb.rmapbt {
		g.rmap = root{be.Uint32(b[24:]), be.Uint32(b[36:])}
	}
	if f.sb.reflink {
		g.ref = root{be.Uint32(b[88:]), be.Uint32(b[92:])}
	}
	for _, r := range []root{g.byBlock, g.byLength} {
		if r.levels == 0 {
			return f.corruptGroup(g, "AGF", 1, "a tree without levels")
		}
	}
	return f.readAGFL(ctx, v, g, be.Uint32(b[40:]), be.Uint32(b[44:]), be.Uint32(b[48:]))
}

// readAGFL reads the list that is a ring from first to last.
func (f *FS) readAGFL(ctx context.Context, v view, g *group, first, last, count uint32) error {
	slots, at := uint32(f.sb.sectorSize/4), 0
	var b []byte
	var err error
	if f.sb.v5 {
		at, slots = 36, uint32((f.sb.sectorSize-36)/4)
		if b, err = f.header(ctx, v, g, 3, &agflSeal, "AGFL"); err != nil {
			return err
		}
	} else {
		b = make([]byte, f.sb.sectorSize)
		if _, err = v.read(ctx, b, f.sb.at(g.no, 0)+3*f.sb.sectorSize); err != nil {
			return err
		}
	}
	if first >= slots || last >= slots || count > slots || (count > 0 && (first+count-1)%slots != last) {
		return f.corruptGroup(g, "AGF", 1, fmt.Sprintf("its list of %d blocks goes from %d to %d of %d", count, first, last, slots))
	}
	for i := range count {
		block := be.Uint32(b[at+int((first+i)%slots)*4:])
		if block >= g.len {
			return f.corruptGroup(g, "AGFL", 3, fmt.Sprintf("block %d of %d", block, g.len))
		}
		g.aside = append(g.aside, block)
	}
	return nil
}

func (f *FS) readAGI(ctx context.Context, v view, g *group) error {
	b, err := f.header(ctx, v, g, 2, &agiSeal, "AGI")
	if err != nil {
		return err
	}
	g.inodes = root{be.Uint32(b[20:]), be.Uint32(b[24:])}
	g.inodeCount, g.inodeFree = be.Uint32(b[16:]), be.Uint32(b[28:])
	if f.sb.finobt {
		g.freeInodes = root{be.Uint32(b[328:]), be.Uint32(b[332:])}
	}
	if g.inodes.levels == 0 {
		return f.corruptGroup(g, "AGI", 2, "a tree without levels")
	}
	return nil
}

// corruptGroup is about header i of a group.
func (f *FS) corruptGroup(g *group, name string, i int64, why string) error {
	return &fsys.CorruptError{What: fmt.Sprintf("%s of group %d", name, g.no), Off: f.sb.at(g.no, 0) + i*f.sb.sectorSize, Why: why}
}
