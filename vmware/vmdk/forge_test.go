package vmdk_test

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Disks made by hand, from what is known of the formats and none of the package's code.

const (
	absent = iota
	zeroed
	filled
)

// disk is a disk as a test knows it.
type disk struct {
	path    string
	cid     uint32
	content []byte
	story   string
}

// piece is one extent to be forged: what each of its grains is, and the bytes.
type piece struct {
	sectors int64
	grain   int64 // sectors
	kinds   []int
	content []byte
}

func (p piece) data(i int) []byte {
	b := make([]byte, p.grain*512)
	copy(b, p.content[int64(i)*p.grain*512:])
	return b
}

func le32(b []byte, at int64, v int64) { binary.LittleEndian.PutUint32(b[at:], uint32(v)) }
func le64(b []byte, at int64, v int64) { binary.LittleEndian.PutUint64(b[at:], uint64(v)) }

// up rounds up.
func up(n, to int64) int64 { return (n + to - 1) / to * to }

// file is a file that grows as it is written, sector by sector.
type file struct{ b []byte }

func (f *file) at(sector, sectors int64) []byte {
	if end := (sector + sectors) * 512; end > int64(len(f.b)) {
		f.b = append(f.b, make([]byte, end-int64(len(f.b)))...)
	}
	return f.b[sector*512 : (sector+sectors)*512]
}

func (f *file) end() int64 { return up(int64(len(f.b)), 512) / 512 }

func hostedHeader(f *file, flags, capacity, grain, desc, descLen, per, spare, dir, overhead, version int64) []byte {
	h := f.at(0, 1)
	fillHeader(h, flags, capacity, grain, desc, descLen, per, spare, dir, overhead, version)
	return h
}

func fillHeader(h []byte, flags, capacity, grain, desc, descLen, per, spare, dir, overhead, version int64) {
	copy(h, "KDMV")
	le32(h, 4, version)
	le32(h, 8, flags)
	le64(h, 12, capacity)
	le64(h, 20, grain)
	le64(h, 28, desc)
	le64(h, 36, descLen)
	le32(h, 44, per)
	le64(h, 48, spare)
	le64(h, 56, dir)
	le64(h, 64, overhead)
	copy(h[73:], "\n \r\n")
	if flags&(1<<16) != 0 {
		h[77] = 1
	}
}

// hosted forges a sparse extent with tables of per entries, whose grains come in random order.
func (p piece) hosted(rng *rand.Rand, per int64, descriptor string) []byte {
	f := &file{}
	descLen := int64(0)
	if descriptor != "" {
		descLen = 20
		copy(f.at(1, 20), descriptor)
	}
	tables := up(int64(len(p.kinds)), per) / per
	dirLen := up(tables*4, 512) / 512
	spare := 1 + descLen
	dir := spare + dirLen
	f.at(spare, 2*dirLen)
	for i := range tables {
		if rng.IntN(4) == 0 && p.allAbsent(i*per, per) {
			continue // a table that is not there
		}
		n := up(per*4, 512) / 512
		for _, d := range []int64{spare, dir} {
			at := f.end()
			f.at(at, n)
			le32(f.b, d*512+i*4, at)
		}
	}
	f.b = append(f.b, make([]byte, up(int64(len(f.b)), p.grain*512)-int64(len(f.b)))...)
	overhead := f.end()
	for _, i := range rng.Perm(len(p.kinds)) {
		entry := int64(0)
		switch p.kinds[i] {
		case absent:
			continue
		case zeroed:
			entry = 1
		case filled:
			entry = f.end()
			copy(f.at(entry, p.grain), p.data(i))
		}
		for _, d := range []int64{spare, dir} {
			table := int64(binary.LittleEndian.Uint32(f.b[d*512+int64(i)/per*4:]))
			le32(f.b, table*512+int64(i)%per*4, entry)
		}
	}
	desc := int64(0)
	if descLen > 0 {
		desc = 1
	}
	hostedHeader(f, 7, p.sectors, p.grain, desc, descLen, per, spare, dir, overhead, 2)
	return f.b
}

func (p piece) allAbsent(from, n int64) bool {
	for i := from; i < min(from+n, int64(len(p.kinds))); i++ {
		if p.kinds[i] != absent {
			return false
		}
	}
	return true
}

// stream forges a streamOptimized disk with a footer. Tables stand behind the grains.
func (p piece) stream(rng *rand.Rand, per int64, descriptor string) []byte {
	f := &file{}
	copy(f.at(1, 20), descriptor)
	f.at(0, 32)
	tables := up(int64(len(p.kinds)), per) / per
	entries := make([]byte, up(tables*per*4, 512))
	for i := range p.kinds {
		if p.kinds[i] != filled {
			continue
		}
		var z bytes.Buffer
		w, _ := zlib.NewWriterLevel(&z, rng.IntN(10))
		w.Write(p.data(i))
		w.Close()
		at := f.end()
		b := f.at(at, up(int64(12+z.Len()), 512)/512)
		le64(b, 0, int64(i)*p.grain)
		le32(b, 8, int64(z.Len()))
		copy(b[12:], z.Bytes())
		le32(entries, int64(i)*4, at)
	}
	n := up(per*4, 512) / 512
	directory := make([]byte, up(tables*4, 512))
	for i := range tables {
		if p.allAbsent(i*per, per) {
			continue
		}
		at := f.end()
		b := f.at(at, 1+n)
		le64(b, 0, n)
		le32(b, 12, 1)
		copy(b[512:], entries[i*per*4:(i+1)*per*4])
		le32(directory, i*4, at+1)
	}
	at := f.end()
	b := f.at(at, 1+int64(len(directory))/512)
	le64(b, 0, int64(len(directory))/512)
	le32(b, 12, 2)
	copy(b[512:], directory)
	dir := at + 1
	at = f.end()
	b = f.at(at, 3)
	le64(b, 0, 1)
	le32(b, 12, 3)
	fillHeader(b[512:], 0x30001, p.sectors, p.grain, 1, 20, per, 0, dir, 32, 3)
	hostedHeader(f, 0x30001, p.sectors, p.grain, 1, 20, per, 0, -1, 32, 3)
	return f.b
}

func (p piece) cowd(rng *rand.Rand) []byte {
	f := &file{}
	tables := up(int64(len(p.kinds)), 4096) / 4096
	f.at(4, up(tables*4, 512)/512)
	for _, i := range rng.Perm(len(p.kinds)) {
		if p.kinds[i] != filled {
			continue
		}
		d := 4*512 + int64(i)/4096*4
		table := int64(binary.LittleEndian.Uint32(f.b[d:]))
		if table == 0 {
			table = f.end()
			f.at(table, 32)
			le32(f.b, d, table)
		}
		at := f.end()
		copy(f.at(at, p.grain), p.data(i))
		le32(f.b, table*512+int64(i)%4096*4, at)
	}
	h := f.at(0, 4)
	copy(h, "COWD")
	for i, v := range []int64{1, 3, p.sectors, p.grain, 4, tables, f.end()} {
		le32(h, 4+int64(i)*4, v)
	}
	return f.b
}

// sesparse forges an extent with its directory where ESXi has it, which is where QEMU wants it.
func (p piece) sesparse(rng *rand.Rand) []byte { return p.sesparseAt(rng, 4096) }

func (p piece) sesparseAt(rng *rand.Rand, dir int64) []byte {
	f := &file{}
	tables := up(int64(len(p.kinds)), 4096) / 4096
	dirLen := up(tables*8, 512) / 512
	first := up(dir+dirLen, 64)
	dirLen = first - dir
	grains := first + tables*64
	f.at(dir, grains-dir)
	for i := range tables {
		if !p.allAbsent(i*4096, 4096) {
			le64(f.b, dir*512+i*8, 1<<60|i)
		}
	}
	next := int64(0)
	for _, i := range rng.Perm(len(p.kinds)) {
		var entry int64
		switch p.kinds[i] {
		case absent:
			continue
		case zeroed:
			entry = int64(1+rng.IntN(2)) << 60
		case filled:
			next += int64(rng.IntN(2))
			copy(f.at(grains+next*8, 8), p.data(i))
			entry = 3<<60 | (next&0xfff)<<48 | next>>12
			next++
		}
		le64(f.b, first*512+int64(i)*8, entry)
	}
	h := f.at(0, 2)
	for at, v := range map[int64]int64{
		0: 0xcafebabe, 8: 0x200000001, 16: p.sectors, 24: 8, 32: 64, 80: 1, 88: 1, 96: 2, 104: 2, 112: 2048, 120: 2048, 128: dir, 136: dirLen,
		144: first, 152: tables * 64, 160: grains, 168: 0, 176: grains, 184: 0, 192: grains, 200: next*8 + 8, 512: 0xcafecafe,
	} {
		le64(h, at, v)
	}
	return f.b
}

// forger makes chains at random, and knows what they hold.
type forger struct {
	t      testing.TB
	rng    *rand.Rand
	dir    string
	ragged bool // extents may end within a grain
}

func (g *forger) pick(from ...string) string { return from[g.rng.IntN(len(from))] }

// chain is up to four disks, one on the other.
func (g *forger) chain() *disk {
	d := g.disk(0, nil)
	for i := range g.rng.IntN(4) {
		d = g.disk(i+1, d)
	}
	return d
}

func (g *forger) disk(i int, parent *disk) *disk {
	d := &disk{path: filepath.Join(g.dir, fmt.Sprintf("disk%d.vmdk", i)), cid: g.rng.Uint32N(0xfffffff0) + 1}
	form := g.pick("monolithicSparse", "twoGbMaxExtentSparse", "vmfsSparse", "seSparse")
	if parent == nil {
		form = g.pick("monolithicSparse", "twoGbMaxExtentSparse", "streamOptimized", "monolithicFlat", "vmfs", "twoGbMaxExtentFlat")
	}
	d.story = fmt.Sprintf("%s: %s", filepath.Base(d.path), form)
	head := fmt.Sprintf("# Disk DescriptorFile\nversion=1\nCID=%08x\nparentCID=ffffffff\ncreateType=\"%s\"\n", d.cid, form)
	if parent != nil {
		head = fmt.Sprintf("# Disk DescriptorFile\nversion=1\nCID=%08x\nparentCID=%08x\ncreateType=\"%s\"\nparentFileNameHint=\"%s\"\n",
			d.cid, parent.cid, form, filepath.Base(parent.path))
		d.story = parent.story + "\n" + d.story
	}
	switch form {
	case "monolithicSparse", "streamOptimized":
		p := g.piece(form, parent, 0)
		text := head + fmt.Sprintf("RW %d SPARSE \"%s\"\n", p.sectors, filepath.Base(d.path))
		per := int64(1) << g.rng.IntN(10)
		b := p.hosted
		if form == "streamOptimized" {
			b = p.stream
		}
		g.write(d.path, b(g.rng, per, text))
		d.content = p.content
		d.story += fmt.Sprintf(" %d sectors, grains %d, tables %d", p.sectors, p.grain, per)
		return d
	}
	for k, n := 0, 1+g.rng.IntN(3); k < n; k++ {
		p := g.piece(form, parent, len(d.content))
		if !g.ragged && p.sectors%p.grain != 0 {
			n = k + 1
		}
		name := fmt.Sprintf("disk%d-%03d.vmdk", i, k)
		var b []byte
		line := fmt.Sprintf("RW %d ", p.sectors)
		switch form {
		case "twoGbMaxExtentSparse":
			b = p.hosted(g.rng, 1<<g.rng.IntN(10), "")
			line += "SPARSE \"" + name + "\""
		case "vmfsSparse":
			b = p.cowd(g.rng)
			line += "VMFSSPARSE \"" + name + "\""
		case "seSparse":
			b = p.sesparse(g.rng)
			line += "SESPARSE \"" + name + "\""
		case "vmfs":
			b = p.content
			line += "VMFS \"" + name + "\""
		default:
			skip := g.rng.Int64N(5)
			b = append(bytes.Repeat([]byte("x"), int(skip*512)), p.content...)
			line += fmt.Sprintf("FLAT \"%s\" %d", name, skip)
		}
		g.write(filepath.Join(g.dir, name), b)
		head += line + "\n"
		d.content = append(d.content, p.content...)
		d.story += fmt.Sprintf("; %d sectors, grains %d", p.sectors, p.grain)
	}
	g.write(d.path, []byte(head))
	return d
}

func (g *forger) write(path string, b []byte) { require.NoError(g.t, os.WriteFile(path, b, 0o600)) }

// piece is an extent that begins at byte off of its disk.
func (g *forger) piece(form string, parent *disk, off int) piece {
	grain := int64(8) << g.rng.IntN(7)
	switch form {
	case "vmfsSparse":
		grain = 1 << g.rng.IntN(4)
	case "seSparse":
		grain = 8
	}
	p := piece{grain: grain, sectors: 1 + g.rng.Int64N(1<<g.rng.IntN(12))}
	if parent != nil && g.rng.IntN(2) == 0 && len(parent.content) > off {
		p.sectors = int64(len(parent.content)-off) / 512
	}
	if !g.ragged && g.rng.IntN(3) > 0 {
		p.sectors = up(p.sectors, grain)
	}
	p.content = make([]byte, p.sectors*512)
	if parent != nil && off < len(parent.content) {
		copy(p.content, parent.content[off:])
	}
	density := g.rng.IntN(5)
	for i := range up(p.sectors, grain) / grain {
		kind := absent
		if g.rng.IntN(4) < density {
			kind = filled
		} else if g.rng.IntN(4) == 0 {
			kind = zeroed
		}
		if kind == zeroed && (form == "vmfsSparse" || form == "streamOptimized") {
			kind = absent
		}
		p.kinds = append(p.kinds, kind)
		part := p.content[i*grain*512 : min((i+1)*grain, p.sectors)*512]
		switch {
		case kind == zeroed:
			clear(part)
		case kind == filled:
			g.fill(part)
		case form == "monolithicFlat" || form == "twoGbMaxExtentFlat" || form == "vmfs":
			clear(part)
		}
	}
	return p
}

// fill makes bytes that compress now and then.
func (g *forger) fill(b []byte) {
	if g.rng.IntN(3) == 0 {
		for i := range b {
			b[i] = byte(i>>7) + 1
		}
		return
	}
	var seed [32]byte
	le64(seed[:], 0, g.rng.Int64())
	rand.NewChaCha8(seed).Read(b)
}
