package hypervtest

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"unicode/utf16"
)

// What a merge does to the files that stand on what it changes, by [MS-VHDX] 2.6.2.6: the entries of their parent locators get other
// values. It is done in place, and the locator keeps its room in the file.

const (
	metadataRegion = "8b7ca206-4790-4b9a-b8fe-575f050f886e"
	locatorItem    = "a8d35f2d-b30b-454d-abf7-d3d84834ab0c"
)

// rawGUID is a GUID as it lies in a file.
func rawGUID(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Trim(s, "{}"), "-", ""))
	if err != nil || len(b) != 16 {
		panic("hypervtest: " + s)
	}
	b[0], b[1], b[2], b[3] = b[3], b[2], b[1], b[0]
	b[4], b[5] = b[5], b[4]
	b[6], b[7] = b[7], b[6]
	return b
}

// rebase has a child stand on a parent as that is now.
func (d *drive) rebase(child, parent *node) error {
	if d.vhd {
		return d.rebaseVHD(child, parent)
	}
	h := d.g.h
	linkage, err := h.dataWrite(parent.name)
	if err != nil {
		return err
	}
	path, err := h.volumePath(child.name)
	if err != nil {
		return err
	}
	values := map[string]string{"parent_linkage": linkage, "absolute_win32_path": parent.name, "relative_path": relative(child.name, parent.name)}
	if err := patchLocator(path, values); err != nil {
		return fmt.Errorf("%s: %w", child.name, err)
	}
	return nil
}

// relative is how a child names its parent from where it lies: they lie in one folder, or the absolute name has to do.
func relative(child, parent string) string {
	if strings.EqualFold(folderOf(child), folderOf(parent)) {
		return `.\` + baseOf(parent)
	}
	return ""
}

// patchLocator gives the entries that are there other values.
func patchLocator(path string, values map[string]string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	region, err := entryOf(f, 192<<10, 16, rawGUID(metadataRegion))
	if err != nil {
		return err
	}
	at := int64(binary.LittleEndian.Uint64(region[16:]))
	item, err := entryOf(f, at, 32, rawGUID(locatorItem))
	if err != nil {
		return err
	}
	off, n := at+int64(binary.LittleEndian.Uint32(item[16:])), int64(binary.LittleEndian.Uint32(item[20:]))
	b := make([]byte, n)
	if _, err := f.ReadAt(b, off); err != nil {
		return err
	}
	out, err := relocate(b, values)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(out, off); err != nil {
		return err
	}
	return f.Sync()
}

// entryOf finds an entry of 32 bytes in a table of 64 KiB by its GUID.
func entryOf(f *os.File, at, first int64, id []byte) ([]byte, error) {
	b := make([]byte, 64<<10)
	if _, err := f.ReadAt(b, at); err != nil {
		return nil, err
	}
	for i := first; i+32 <= int64(len(b)); i += 32 {
		if bytes.Equal(b[i:i+16], id) {
			return b[i : i+32], nil
		}
	}
	return nil, fmt.Errorf("no entry %x at %d", id, at)
}

// relocate writes a locator anew with other values, as long as it was.
func relocate(b []byte, values map[string]string) ([]byte, error) {
	le := binary.LittleEndian
	if len(b) < 20 {
		return nil, fmt.Errorf("a locator of %d bytes", len(b))
	}
	count := int(le.Uint16(b[18:]))
	out := make([]byte, 20+12*count, len(b))
	copy(out, b[:20])
	for i := range count {
		e := b[20+12*i:]
		key := text16(b[le.Uint32(e):][:le.Uint16(e[8:])])
		value := text16(b[le.Uint32(e[4:]):][:le.Uint16(e[10:])])
		if v := values[key]; v != "" {
			value = v
		}
		for j, s := range []string{key, value} {
			raw := bytes16(s)
			le.PutUint32(out[20+12*i+4*j:], uint32(len(out)))
			le.PutUint16(out[20+12*i+8+2*j:], uint16(len(raw)))
			out = append(out, raw...)
		}
	}
	if len(out) > len(b) {
		return nil, fmt.Errorf("the locator needs %d bytes and has %d", len(out), len(b))
	}
	return append(out, make([]byte, len(b)-len(out))...), nil
}

func text16(b []byte) string {
	var c []uint16
	for i := 0; i+1 < len(b); i += 2 {
		c = append(c, binary.LittleEndian.Uint16(b[i:]))
	}
	return string(utf16.Decode(c))
}

func bytes16(s string) (b []byte) {
	for _, c := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return b
}
