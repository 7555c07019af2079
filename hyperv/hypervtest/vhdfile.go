package hypervtest

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"unicode/utf16"
)

// The older format, as a host writes into it in place: package vhdx makes such files and reads them, and does neither this nor children.
//
//	footer's copy │ header │ table │ two parent names │ block: bitmap, sectors │ … │ footer
//
// Source: the Virtual Hard Disk Image Format Specification, version 1.0. Numbers are big-endian.

const (
	vhdSector   = 512
	vhdHeader   = 512  // where the header is
	vhdTable    = 1536 // where the table is in what we make
	vhdNameRoom = 1024 // of each of a parent's names
	vhdNone     = 0xffffffff
	vhdFixed    = 2
	vhdDiff     = 4
)

// vhdFile is a VHD that is open for writing.
type vhdFile struct {
	mu     sync.Mutex
	f      *os.File
	parent *vhdFile
	footer []byte
	size   int64
	kind   uint32
	table  int64 // where it lies
	blocks []uint32
	block  int64 // bytes of one
	end    int64 // where the footer goes
}

// openVHD opens one for writing, and its parents, which lie in its folder, for reading.
func openVHD(path string) (file, error) { return openVHDs(path, 0) }

func openVHDs(path string, depth int) (v *vhdFile, err error) {
	if depth > 64 {
		return nil, fmt.Errorf("%s: the chain does not end", path)
	}
	v = &vhdFile{}
	if v.f, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	if err := v.load(path, depth); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return v, nil
}

func (v *vhdFile) load(path string, depth int) error {
	info, err := v.f.Stat()
	if err != nil {
		return err
	}
	be := binary.BigEndian
	v.end, v.footer = info.Size()-vhdSector, make([]byte, vhdSector)
	if _, err := v.f.ReadAt(v.footer, v.end); err != nil || string(v.footer[:8]) != "conectix" {
		return errors.Join(fmt.Errorf("%s has no footer", path), err)
	}
	v.size, v.kind = int64(be.Uint64(v.footer[48:])), be.Uint32(v.footer[60:])
	if v.kind == vhdFixed {
		return nil
	}
	h := make([]byte, 1024)
	if _, err := v.f.ReadAt(h, vhdHeader); err != nil || string(h[:8]) != "cxsparse" {
		return errors.Join(fmt.Errorf("%s has no header", path), err)
	}
	v.table, v.block = int64(be.Uint64(h[16:])), int64(be.Uint32(h[32:]))
	if v.block < vhdSector {
		return fmt.Errorf("%s: blocks of %d bytes", path, v.block)
	}
	v.blocks = make([]uint32, (v.size+v.block-1)/v.block)
	b := make([]byte, 4*len(v.blocks))
	if _, err := v.f.ReadAt(b, v.table); err != nil {
		return err
	}
	for i := range v.blocks {
		v.blocks[i] = be.Uint32(b[4*i:])
	}
	if v.kind != vhdDiff {
		return nil
	}
	name := h[64:576]
	var chars []uint16
	for i := 0; i+1 < len(name) && (name[i] != 0 || name[i+1] != 0); i += 2 {
		chars = append(chars, be.Uint16(name[i:]))
	}
	v.parent, err = openVHDs(filepath.Join(filepath.Dir(path), filepath.Base(string(utf16.Decode(chars)))), depth+1)
	return err
}

func (v *vhdFile) bitmap() int64 {
	return (v.block/vhdSector/8 + vhdSector - 1) / vhdSector * vhdSector
}

// ReadAt reads the disk.
func (v *vhdFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	want := p[:max(min(int64(len(p)), v.size-off), 0)]
	for done := int64(0); done < int64(len(want)); {
		n, err := v.piece(ctx, want[done:], off+done)
		if err != nil {
			return int(done), err
		}
		done += n
	}
	if len(want) < len(p) {
		return len(want), io.EOF
	}
	return len(want), nil
}

// piece reads what lies together: a whole block's rest, or a sector's where there is a parent.
func (v *vhdFile) piece(ctx context.Context, p []byte, off int64) (int64, error) {
	if v.kind == vhdFixed {
		_, err := v.f.ReadAt(p, off)
		return int64(len(p)), err
	}
	block, in := off/v.block, off%v.block
	n := min(int64(len(p)), v.block-in)
	if v.parent != nil {
		n = min(n, vhdSector-in%vhdSector)
	}
	at := v.blocks[block]
	own := at != vhdNone
	if own && v.parent != nil {
		bit, err := v.bit(at, in)
		if err != nil {
			return 0, err
		}
		own = bit
	}
	switch {
	case own:
		_, err := v.f.ReadAt(p[:n], int64(at)*vhdSector+v.bitmap()+in)
		return n, err
	case v.parent != nil:
		m, err := v.parent.ReadAt(ctx, p[:n], off)
		if err == io.EOF { // it may be shorter
			clear(p[m:n])
			err = nil
		}
		return n, err
	}
	clear(p[:n])
	return n, nil
}

// bit says whether a sector of a block is the file's own: bits count from the highest.
func (v *vhdFile) bit(at uint32, in int64) (bool, error) {
	var b [1]byte
	_, err := v.f.ReadAt(b[:], int64(at)*vhdSector+in/vhdSector/8)
	return b[0]&(0x80>>(in/vhdSector%8)) != 0, err
}

// WriteAt writes to the disk. A child has whole sectors: the rest of one comes from below.
func (v *vhdFile) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if v.parent != nil && (off%vhdSector != 0 || len(p)%vhdSector != 0) {
		from := off &^ (vhdSector - 1)
		whole := make([]byte, (off+int64(len(p))-from+vhdSector-1)&^(vhdSector-1))
		if _, err := v.ReadAt(ctx, whole, from); err != nil && err != io.EOF {
			return 0, err
		}
		copy(whole[off-from:], p)
		if _, err := v.WriteAt(ctx, whole, from); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.kind == vhdFixed {
		return v.f.WriteAt(p, off)
	}
	for done := int64(0); done < int64(len(p)); {
		block, in := (off+done)/v.block, (off+done)%v.block
		n := min(int64(len(p))-done, v.block-in)
		if err := v.put(block, in, p[done:done+n]); err != nil {
			return int(done), err
		}
		done += n
	}
	return len(p), nil
}

// put writes into one block, giving it a place where it has none.
func (v *vhdFile) put(block, in int64, p []byte) error {
	if v.blocks[block] == vhdNone {
		if err := v.grow(block); err != nil {
			return err
		}
	}
	at := int64(v.blocks[block]) * vhdSector
	if _, err := v.f.WriteAt(p, at+v.bitmap()+in); err != nil || v.parent == nil {
		return err
	}
	first, last := in/vhdSector, (in+int64(len(p))-1)/vhdSector
	b := make([]byte, last/8-first/8+1)
	if _, err := v.f.ReadAt(b, at+first/8); err != nil {
		return err
	}
	for s := first; s <= last; s++ {
		b[s/8-first/8] |= 0x80 >> (s % 8)
	}
	_, err := v.f.WriteAt(b, at+first/8)
	return err
}

// grow gives a block the place where the footer is, and the footer one behind it.
func (v *vhdFile) grow(block int64) error {
	at := v.end
	v.end += v.bitmap() + v.block
	b := make([]byte, v.bitmap())
	if v.parent == nil {
		for i := range b {
			b[i] = 0xff
		}
	}
	if err := v.f.Truncate(v.end + vhdSector); err != nil {
		return err
	}
	if _, err := v.f.WriteAt(make([]byte, vhdSector), at); err != nil { // the old footer goes
		return err
	}
	if _, err := v.f.WriteAt(b, at); err != nil {
		return err
	}
	if _, err := v.f.WriteAt(v.footer, v.end); err != nil {
		return err
	}
	v.blocks[block] = uint32(at / vhdSector)
	_, err := v.f.WriteAt(binary.BigEndian.AppendUint32(nil, v.blocks[block]), v.table+4*block)
	return err
}

// Flush makes durable what was written.
func (v *vhdFile) Flush(context.Context) error { return v.f.Sync() }

// Commit closes it: its tables are in the file at any time.
func (v *vhdFile) Commit(context.Context) error { return v.Close() }

// Close closes it and its parents.
func (v *vhdFile) Close() error {
	err := v.f.Close()
	if v.parent != nil {
		err = errors.Join(err, v.parent.Close())
	}
	return err
}

// createChildVHD makes an empty differencing file on a parent in the same folder.
func createChildVHD(path, parent, parentName string) error {
	on, err := openVHDs(parent, 0)
	if err != nil {
		return err
	}
	defer on.Close()
	const block = 2 << 20
	be := binary.BigEndian
	entries := (on.size + block - 1) / block
	footer := append([]byte{}, on.footer...)
	be.PutUint64(footer[16:], vhdHeader)
	be.PutUint32(footer[60:], vhdDiff)
	rand.Read(footer[68:84])
	vhdSum(footer, 64)
	h := make([]byte, 1024)
	copy(h, "cxsparse")
	be.PutUint64(h[8:], 1<<64-1)
	be.PutUint64(h[16:], vhdTable)
	be.PutUint32(h[24:], 0x00010000)
	be.PutUint32(h[28:], uint32(entries))
	be.PutUint32(h[32:], block)
	table := make([]byte, (entries*4+vhdSector-1)/vhdSector*vhdSector)
	for i := range table {
		table[i] = 0xff
	}
	names := vhdTable + int64(len(table))
	room, err := nameParent(h, names, on.footer, parentName)
	if err != nil {
		return err
	}
	whole := append(append(append(append(append([]byte{}, footer...), h...), table...), room...), footer...)
	return writeNew(path, whole)
}

func writeNew(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// nameParent writes into a header which its parent is, and returns the room with the parent's names, which lies at a place in the file.
func nameParent(h []byte, at int64, parentFooter []byte, parentName string) ([]byte, error) {
	be := binary.BigEndian
	copy(h[40:56], parentFooter[68:84])
	copy(h[56:60], parentFooter[24:28])
	base := utf16.Encode([]rune(baseOf(parentName)))
	if len(base) > 255 {
		return nil, fmt.Errorf("the name %q is too long", baseOf(parentName))
	}
	clear(h[64:576])
	for i, c := range base {
		be.PutUint16(h[64+2*i:], c)
	}
	room := make([]byte, 2*vhdNameRoom)
	for i, n := range []struct{ code, name string }{{"W2ru", `.\` + baseOf(parentName)}, {"W2ku", parentName}} {
		raw := bytes16(n.name)
		if len(raw) > vhdNameRoom {
			return nil, fmt.Errorf("the name %q is too long", n.name)
		}
		e := h[576+24*i:]
		copy(e, n.code)
		be.PutUint32(e[4:], vhdNameRoom)
		be.PutUint32(e[8:], uint32(len(raw)))
		be.PutUint64(e[16:], uint64(at+int64(i)*vhdNameRoom))
		copy(room[i*vhdNameRoom:], raw)
	}
	vhdSum(h, 36)
	return room, nil
}

// vhdSum puts the checksum of a footer or header at its place.
func vhdSum(b []byte, at int) {
	binary.BigEndian.PutUint32(b[at:], 0)
	sum := uint32(0)
	for _, c := range b {
		sum += uint32(c)
	}
	binary.BigEndian.PutUint32(b[at:], ^sum)
}

// rebaseVHD has a child that we made stand on another parent.
func (d *drive) rebaseVHD(child, parent *node) error {
	if child.parent == parent {
		return nil // a VHD's identity does not change when its content does
	}
	h := d.g.h
	path, err := h.volumePath(child.name)
	if err != nil {
		return err
	}
	on, err := h.volumePath(parent.name)
	if err != nil {
		return err
	}
	below, err := openVHDs(on, 0)
	if err != nil {
		return err
	}
	defer below.Close()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 1024)
	if _, err := f.ReadAt(b, vhdHeader); err != nil {
		return err
	}
	at := int64(binary.BigEndian.Uint64(b[576+16:]))
	if string(b[576:580]) != "W2ru" || at < vhdTable {
		return fmt.Errorf("%s is no child of ours: %w", child.name, errors.ErrUnsupported)
	}
	room, err := nameParent(b, at, below.footer, parent.name)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(room, at); err != nil {
		return err
	}
	if _, err = f.WriteAt(b, vhdHeader); err != nil || child != d.tip {
		return err
	}
	return d.remember() // it was the host that changed it
}
