package vhdx

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"time"

	"github.com/hikae/hikae/pipe"
)

var be = binary.BigEndian

const (
	footerLen   = 512
	dynHeader   = 1024
	vhdSector   = 512
	vhdCookie   = "conectix"
	dynCookie   = "cxsparse"
	noBlock     = 0xffffffff
	maxVHD      = 2040 << 30 // what Hyper-V makes
	maxVHDDisk  = 1 << 41    // what 32 bits of sectors can say
	vhdFixed    = 2
	vhdDynamic  = 3
	vhdDiff     = 4
	vhdVersion  = 0x00010000
	relativeLoc = "W2ru" // UTF-16, relative to the child
	absoluteLoc = "W2ku" // UTF-16
)

// vhdEpoch is where times in a VHD count from.
var vhdEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// footer is what a VHD says at its end.
type footer struct {
	dataOffset uint64
	created    uint32
	size       int64
	kind       uint32
	id         GUID
}

// vhdSum is the checksum of a footer or header whose own checksum lies at byte at.
func vhdSum(b []byte, at int) uint32 {
	sum := uint32(0)
	for i, c := range b {
		if i < at || i >= at+4 {
			sum += uint32(c)
		}
	}
	return ^sum
}

func decodeFooter(b []byte) (footer, bool) {
	if len(b) < footerLen || string(b[:8]) != vhdCookie || vhdSum(b[:footerLen], 64) != be.Uint32(b[64:]) {
		return footer{}, false
	}
	return footer{
		dataOffset: be.Uint64(b[16:]), created: be.Uint32(b[24:]), size: int64(min(be.Uint64(b[48:]), 1<<62)),
		kind: be.Uint32(b[60:]), id: bigGUID(b[68:84]),
	}, true
}

// bigGUID reads an identity that lies big-endian.
func bigGUID(b []byte) (g GUID) {
	copy(g[:], b)
	g[0], g[1], g[2], g[3] = b[3], b[2], b[1], b[0]
	g[4], g[5], g[6], g[7] = b[5], b[4], b[7], b[6]
	return g
}

// encode makes a footer. The creator's name is one of those after which readers go by the size and not by the geometry.
func (f footer) encode() []byte {
	b := make([]byte, footerLen)
	copy(b, vhdCookie)
	be.PutUint32(b[8:], 2) // a bit that is always set
	be.PutUint32(b[12:], vhdVersion)
	be.PutUint64(b[16:], f.dataOffset)
	be.PutUint32(b[24:], f.created)
	copy(b[28:], "win ")
	be.PutUint32(b[32:], 0x000a0000)
	copy(b[36:], "Wi2k")
	be.PutUint64(b[40:], uint64(f.size))
	be.PutUint64(b[48:], uint64(f.size))
	c, h, s := geometry(f.size / vhdSector)
	be.PutUint16(b[56:], c)
	b[58], b[59] = h, s
	be.PutUint32(b[60:], f.kind)
	id := bigGUID(f.id[:]) // it is its own reverse
	copy(b[68:], id[:])
	be.PutUint32(b[64:], vhdSum(b, 64))
	return b
}

// geometry is how the specification makes cylinders, heads and sectors of a number of sectors.
func geometry(total int64) (cylinders uint16, heads, sectors byte) {
	total = min(total, 65535*16*255)
	if total >= 65535*16*63 {
		return uint16(total / 255 / 16), 16, 255
	}
	s, ch := int64(17), total/17
	h := max((ch+1023)/1024, 4)
	if ch >= h*1024 || h > 16 {
		s, h, ch = 31, 16, total/31
	}
	if ch >= h*1024 {
		s, h, ch = 63, 16, total/63
	}
	return uint16(ch / h), byte(h), byte(s)
}

// vhdTable is the table of blocks of a dynamic or differencing VHD.
type vhdTable struct {
	path      string
	file      pipe.Image
	id        int
	cache     *cache
	size      int64
	blockSize int64
	bat       region
	taken     []region
	hasParent bool
}

// fixedTable is a VHD that is the disk's bytes and a footer.
type fixedTable struct{}

func (fixedTable) next(_ context.Context, off, end int64) (run, error) {
	return run{what: isData, off: off, len: end - off, host: off}, nil
}

// vhdLayer reads a VHD: its footer, or where that is broken, the copy in front.
func (o *opener) vhdLayer(p *parser) (*layer, Info, error) {
	f, at, err := p.footer()
	if err != nil {
		return nil, Info{}, err
	}
	if f.size <= 0 || f.size > maxVHDDisk || f.size%vhdSector != 0 {
		return nil, Info{}, p.corrupt(at+48, "a disk of %d bytes", f.size)
	}
	info := Info{Format: "vhd", Size: f.size, SectorSize: vhdSector, PhysicalSector: vhdSector, DiskID: f.id, DataWrite: f.id}
	l := &layer{path: p.path, size: f.size, sector: vhdSector, file: p.file}
	switch f.kind {
	case vhdFixed:
		if f.size > at {
			return nil, Info{}, p.corrupt(at, "a disk of %d bytes in a file with %d before its footer", f.size, at)
		}
		info.Type, l.table = Fixed, fixedTable{}
		return l, info, nil
	case vhdDynamic, vhdDiff:
		t, locator, err := p.dynamic(f)
		if err != nil {
			return nil, Info{}, err
		}
		t.id, t.cache = o.id(), o.cache
		if l.table = t; t.hasParent {
			info.Type, info.Locator = Differencing, locator
		}
		info.BlockSize = t.blockSize
		return l, info, nil
	}
	return nil, Info{}, &UnsupportedError{p.path, fmt.Sprintf("VHD type %d", f.kind)}
}

// footer finds the footer: at the end, one byte less for very old files, or the copy in front. A fixed disk has no copy.
func (p *parser) footer() (footer, int64, error) {
	size := p.file.Size()
	for _, at := range []int64{size - footerLen, size - footerLen + 1, 0} {
		n := min(footerLen, size-at)
		if at < 0 || n < footerLen-1 {
			continue
		}
		b, err := p.read(at, n)
		if err != nil {
			return footer{}, 0, err
		}
		f, ok := decodeFooter(append(b, make([]byte, footerLen-n)...))
		if ok && (at > 0 || f.kind != vhdFixed) {
			return f, at, nil
		}
	}
	return footer{}, 0, p.corrupt(max(size-footerLen, 0), "it is no VHDX, and no footer of a VHD has a good checksum")
}

// dynamic reads the header of a dynamic or differencing VHD.
func (p *parser) dynamic(f footer) (*vhdTable, map[string]string, error) {
	at := int64(min(f.dataOffset, 1<<62))
	h, err := p.read(at, dynHeader)
	if err != nil {
		return nil, nil, err
	}
	if string(h[:8]) != dynCookie || vhdSum(h, 36) != be.Uint32(h[36:]) {
		return nil, nil, p.corrupt(at, "the header of a dynamic disk has no good checksum")
	}
	t := &vhdTable{
		path: p.path, file: p.file, size: f.size, blockSize: int64(be.Uint32(h[32:])), hasParent: f.kind == vhdDiff,
		bat: region{int64(min(be.Uint64(h[16:]), 1<<62)), int64(be.Uint32(h[28:])) * 4},
	}
	need := int64(0)
	if t.blockSize > 0 {
		need = (f.size + t.blockSize - 1) / t.blockSize * 4
	}
	switch {
	case t.blockSize < 8*vhdSector || t.blockSize > maxBlock || bits.OnesCount64(uint64(t.blockSize)) != 1:
		return nil, nil, p.corrupt(at+32, "a block size of %d", t.blockSize)
	case t.bat.len < need || t.bat.off > p.file.Size() || need > p.file.Size()-t.bat.off:
		return nil, nil, p.corrupt(at+16, "the table of blocks has %d bytes at %d, in a file of %d; the disk needs %d",
			t.bat.len, t.bat.off, p.file.Size(), need)
	}
	t.taken = []region{{0, footerLen}, {at, dynHeader}, {t.bat.off, need}}
	if !t.hasParent {
		return t, nil, nil
	}
	locator, err := p.vhdLocator(at, h)
	return t, locator, err
}

// vhdLocator reads how a differencing VHD names its parent, in the words of a VHDX's locator.
func (p *parser) vhdLocator(at int64, h []byte) (map[string]string, error) {
	out := map[string]string{keyLinkage: bigGUID(h[40:56]).String()}
	for i := range 8 {
		e := h[576+24*i:]
		n, off := int64(be.Uint32(e[8:])), int64(min(be.Uint64(e[16:]), 1<<62))
		key := map[string]string{relativeLoc: keyRelative, absoluteLoc: keyAbsolute}[string(e[:4])]
		if key == "" {
			continue
		}
		if n > 64<<10 {
			return nil, p.corrupt(at+576+24*int64(i), "a parent's name of %d bytes", n)
		}
		b, err := p.read(off, n)
		if err != nil {
			return nil, err
		}
		out[key] = utf16String(b, le)
	}
	if out[keyRelative] == "" { // the bare name is there in any case
		name := utf16String(h[64:576], be)
		parts := split(name)
		if len(parts) > 0 {
			out[keyRelative] = parts[len(parts)-1]
		}
	}
	return out, nil
}

func (t *vhdTable) corrupt(off int64, format string, args ...any) error {
	return &CorruptError{Path: t.path, Offset: off, Reason: fmt.Sprintf(format, args...)}
}

// bitmapLen is how much of the file a block's bitmap takes, in front of the block.
func (t *vhdTable) bitmapLen() int64 { return vhdBitmapLen(t.blockSize) }

func vhdBitmapLen(blockSize int64) int64 {
	return (blockSize/vhdSector/8 + vhdSector - 1) / vhdSector * vhdSector
}

// next implements table.
func (t *vhdTable) next(ctx context.Context, off, end int64) (run, error) {
	block := off / t.blockSize
	in := off % t.blockSize
	r := run{off: off, len: min(end, (block+1)*t.blockSize) - off}
	if t.hasParent {
		r.what = isParent
	}
	at, v := t.bat.off+block*4, uint32(0)
	var b [4]byte
	if err := t.bytes(ctx, at, b[:]); err != nil {
		return r, err
	}
	if v = be.Uint32(b[:]); v == noBlock {
		return r, nil
	}
	host := int64(v) * vhdSector
	last := min(t.blockSize, t.size-block*t.blockSize) // some writers end the file with the disk
	if host+t.bitmapLen()+last > t.file.Size() {
		return r, t.corrupt(at, "a block at sector %d, in a file of %d bytes", v, t.file.Size())
	}
	for _, o := range t.taken {
		if o.overlaps(region{host, t.bitmapLen() + last}) {
			return r, t.corrupt(at, "a block at sector %d lies on the file's own tables at %d", v, o.off)
		}
	}
	if !t.hasParent { // what was never written is zero there
		r.what, r.host = isData, host+t.bitmapLen()+in
		return r, nil
	}
	return t.sectors(ctx, r, host)
}

// sectors is the run at the start of r by the block's bitmap, in which bits count from the highest.
func (t *vhdTable) sectors(ctx context.Context, r run, host int64) (run, error) {
	in := r.off % t.blockSize
	first, last := in/vhdSector, (in+r.len-1)/vhdSector
	last = min(last, first|4095) // as much as is taken to look at in one go
	bitmap := make([]byte, last/8-first/8+1)
	if err := t.bytes(ctx, host+first/8, bitmap); err != nil {
		return r, err
	}
	for i, b := range bitmap {
		bitmap[i] = bits.Reverse8(b)
	}
	here, count := same(bitmap, first%8, last-first+1)
	r.len = min(r.len, (first+count)*vhdSector-in)
	if here {
		r.what, r.host, r.sure = isData, host+t.bitmapLen()+in, true
	}
	return r, nil
}

// bytes reads from tables by pages, of which it may touch several.
func (t *vhdTable) bytes(ctx context.Context, at int64, b []byte) error {
	for len(b) > 0 {
		off := at &^ (pageLen - 1)
		n := 0
		if err := t.cache.view(ctx, t.id, t.file, off, func(p *page) { n = copy(b, p.b[at-off:]) }); err != nil {
			return err
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

// vhdTime is a moment as a VHD writes it.
func vhdTime(t time.Time) uint32 {
	return uint32(max(0, min(t.Sub(vhdEpoch)/time.Second, 1<<32-1)))
}

var errName = errors.New("a name that no path can be made of")

// windowsName is a relative path as a child names its parent by.
func windowsName(slashed string) (string, error) {
	if slashed == "" || strings.ContainsAny(slashed, "\\:?*\x00") {
		return "", fmt.Errorf("%q: %w", slashed, errName)
	}
	if !strings.HasPrefix(slashed, "../") {
		slashed = "./" + slashed
	}
	return strings.ReplaceAll(slashed, "/", "\\"), nil
}
