package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// A disk of a point is a qcow2 image, version 3, in clusters of 64 KiB, which QEMU opens as it is. What the point does not
// have of its own is in the backing file, which is the disk of the point before:
//
//	header, format and name of the backing file    1 cluster
//	clusters with content, in the order in which they came
//	L2 tables, L1 table, reference counts          written last
//
// A merge writes new tables beside the old ones and then the header, so that whoever meets the file at any moment finds one
// set of tables or the other.

const (
	clusterBits  = 16
	clusterSize  = 1 << clusterBits
	tableEntries = clusterSize / 8 // of an L2 table
	tableCovers  = tableEntries << clusterBits
	headerLen    = 104

	// maxDisk bounds a disk: L1 tables of 1 MiB.
	maxDisk        = 64 << 40
	maxL1          = maxDisk / tableCovers
	maxBackingName = 1023

	offsetBits      = 0x00fffffffffffe00 // of an entry: where in the file
	entryAlone      = 1 << 63            // the cluster has one reference
	entryCompressed = 1 << 62
	entryZero       = 1

	extBackingFormat = 0xe2792aca
	extDataFile      = 0x44415441
	extCrypto        = 0x0537be77
)

var layerMagic = []byte{'Q', 'F', 'I', 0xfb}

func clustersOf(n int64) int64 { return (n + clusterSize - 1) >> clusterBits }

// imageSize is the size that the image of a disk has: whole sectors.
func imageSize(size int64) int64 { return (size + 511) &^ 511 }

// layerHead is what a layer's header says.
type layerHead struct {
	size        int64
	backing     string
	l1At        int64
	l1Entries   int64
	refAt       int64
	refClusters int64
	fileBytes   int64
}

type table = [tableEntries]uint64

var errLayer = errors.New("this is no image of a replica")

func badLayer(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errLayer, fmt.Sprintf(format, args...))
}

// readHead reads the header of a layer. Only what we make, and what QEMU makes of it, is taken.
func readHead(r io.ReaderAt, fileBytes int64) (*layerHead, error) {
	b := make([]byte, clusterSize)
	if n, err := r.ReadAt(b, 0); n < headerLen {
		return nil, errors.Join(errLayer, err)
	}
	be := binary.BigEndian
	u32 := func(at int) int64 { return int64(be.Uint32(b[at:])) }
	h := &layerHead{size: int64(be.Uint64(b[24:])), l1At: int64(be.Uint64(b[40:])), l1Entries: u32(36), refAt: int64(be.Uint64(b[48:])), refClusters: u32(56), fileBytes: fileBytes}
	backingAt, backingLen := be.Uint64(b[8:]), u32(16)
	switch {
	case string(b[:4]) != string(layerMagic) || u32(4) != 3:
		return nil, badLayer("its header is not that of a qcow2 image, version 3")
	case u32(20) != clusterBits || u32(96) != 4 || u32(32) != 0:
		return nil, badLayer("its clusters or counts are of another size, or it is encrypted")
	case be.Uint64(b[72:]) != 0:
		return nil, badLayer("it has features %#x, which are not known here", be.Uint64(b[72:]))
	case u32(60) != 0:
		return nil, badLayer("it has snapshots of its own: delete them with qemu-img snapshot -d")
	case h.size < 0 || h.size > maxDisk || h.l1Entries > maxL1 || h.l1Entries < (h.size+tableCovers-1)/tableCovers:
		return nil, badLayer("a disk of %d bytes with an L1 table of %d entries", h.size, h.l1Entries)
	case h.l1Entries > 0 && !h.inFile(h.l1At, h.l1Entries*8) || !h.inFile(h.refAt, h.refClusters<<clusterBits):
		return nil, badLayer("its tables are not in the file")
	case backingAt != 0 && (backingAt > clusterSize-maxBackingName || backingLen > maxBackingName):
		return nil, badLayer("its backing file's name is not in its header")
	}
	extensionsEnd := int64(clusterSize)
	if backingAt != 0 {
		h.backing = string(b[backingAt:][:backingLen])
		extensionsEnd = int64(backingAt)
	}
	format, err := backingFormat(b[:extensionsEnd], u32(100))
	if err == nil && h.backing != "" && format != "qcow2" {
		err = badLayer("it does not say that its backing file is qcow2")
	}
	return h, err
}

// backingFormat reads the extensions of a header, which begin at a place, for the format of the backing file.
func backingFormat(b []byte, at int64) (format string, err error) {
	if at < headerLen || at > 1024 || at&7 != 0 {
		return "", badLayer("a header of %d bytes", at)
	}
	for at+8 <= int64(len(b)) {
		kind, n := binary.BigEndian.Uint32(b[at:]), int64(binary.BigEndian.Uint32(b[at+4:]))
		at += 8
		switch {
		case kind == 0:
			return format, nil
		case n > int64(len(b))-at:
			return "", badLayer("an extension of its header is too long")
		case kind == extBackingFormat:
			format = string(b[at : at+n])
		case kind == extDataFile || kind == extCrypto:
			return "", badLayer("its content is encrypted or in another file")
		}
		at += (n + 7) &^ 7
	}
	return "", badLayer("the extensions of its header have no end")
}

// inFile reports whether a range that begins with a cluster is in the file.
func (h *layerHead) inFile(off, n int64) bool {
	return off > 0 && off&(clusterSize-1) == 0 && n >= 0 && off <= h.fileBytes && n <= h.fileBytes-off
}

func (h *layerHead) readL1(r io.ReaderAt) ([]uint64, error) {
	b := make([]byte, h.l1Entries*8)
	if err := readAll(r, b, h.l1At); err != nil {
		return nil, badLayer("L1 table: %v", err)
	}
	l1 := make([]uint64, h.l1Entries)
	for i := range l1 {
		l1[i] = binary.BigEndian.Uint64(b[i*8:])
		if at := int64(l1[i] & offsetBits); at != 0 && !h.inFile(at, clusterSize) {
			return nil, badLayer("L2 table %d is at %d of a file of %d bytes", i, at, h.fileBytes)
		}
	}
	return l1, nil
}

// readTable reads an L2 table; nil: nothing of its range is in the layer.
func (h *layerHead) readTable(r io.ReaderAt, l1 []uint64, i int64) (*table, error) {
	at := int64(l1[i] & offsetBits)
	if at == 0 {
		return nil, nil
	}
	b := make([]byte, clusterSize)
	if err := readAll(r, b, at); err != nil {
		return nil, badLayer("L2 table %d: %v", i, err)
	}
	t := new(table)
	for j := range t {
		t[j] = binary.BigEndian.Uint64(b[j*8:])
		if err := h.checkEntry(t[j]); err != nil {
			return nil, badLayer("cluster %d: %v", i*tableEntries+int64(j), err)
		}
	}
	return t, nil
}

// checkEntry refuses what leads nowhere. The file's last cluster may be cut off: what is not there is zero.
func (h *layerHead) checkEntry(e uint64) error {
	at := int64(e & offsetBits)
	switch {
	case e&entryCompressed != 0:
		return errors.New("it is compressed")
	case at&(clusterSize-1) != 0 || at >= h.fileBytes && at != 0:
		return fmt.Errorf("it is at %d of a file of %d bytes", at, h.fileBytes)
	}
	return nil
}

// readCluster reads a cluster of a layer's file: zeros where the file ends.
func readCluster(r io.ReaderAt, p []byte, at int64) error {
	n, err := r.ReadAt(p, at)
	if err == io.EOF {
		clear(p[n:])
		err = nil
	}
	return err
}

// openLayer opens a layer's file and reads its header.
func openLayer(path string, flags int) (*os.File, *layerHead, error) {
	f, err := openRegular(path, flags)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil {
		var h *layerHead
		if h, err = readHead(f, info.Size()); err == nil {
			return f, h, nil
		}
		err = &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return nil, nil, errors.Join(err, f.Close())
}
