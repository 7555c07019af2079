package kvm

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hikae/hikae/pipe"
)

// An overlay is a qcow2 image over an NBD export. It takes what the guest writes, and what is copied from the export; and
// it says itself whether it still needs the export: its header names the backing file until QEMU, which alone writes to
// the image, has copied everything and takes the name out.
//
//	header, backing file name    1 cluster
//	L1 table                     8 bytes for each 512 MiB of the disk
//	L2 tables                    where the point has zeros: those are known before the guest asks, and never copied
//	reference blocks and table

const (
	overlayBits    = 16 // clusters of 64 KiB
	overlayCluster = 1 << overlayBits
	overlayEntries = overlayCluster / 8 // of a table
	overlayHeader  = 104
	// overlayTables bounds the tables that are written to tell zeros, to 128 MiB: they cover 1 TiB. Zeros of what is
	// beyond are copied like data, which is slower and as right.
	overlayTables = 2048
	// maxBackingName is the format's own limit.
	maxBackingName = 1023

	// maxTables bounds the L1 tables that are read: a disk of 2 PiB has as many.
	maxTables = 4 << 20

	offsetBits = 0x00fffffffffffe00 // of an entry: where in the file
	entryAlone = 1 << 63            // of L1 and L2 entries: the cluster has one reference
	entryZero  = 1                  // of an L2 entry: reads as zero, whatever the backing file holds

	extBackingFormat = 0xe2792aca
)

var overlayMagic = []byte{'Q', 'F', 'I', 0xfb}

// backingName is how QEMU finds the export again, also after a restart of either side: a request that finds no server
// waits that long for one.
func backingName(socket, export string, waitSeconds int64) (string, error) {
	name, err := json.Marshal(map[string]any{"driver": "raw", "file": map[string]any{
		"driver": "nbd", "server": map[string]any{"type": "unix", "path": socket}, "export": export, "reconnect-delay": waitSeconds,
	}})
	if err != nil {
		return "", err
	}
	if len("json:")+len(name) > maxBackingName {
		return "", fmt.Errorf("the name of the backing file has more than %d bytes: choose a folder with a shorter path: %w", maxBackingName, fs.ErrInvalid)
	}
	return "json:" + string(name), nil
}

// createOverlay makes an image over img, which is what the export shows. The file is durable on return, and is no file
// that was there before.
func createOverlay(ctx context.Context, path, backing string, img pipe.Image) error {
	zeros, err := zeroTables(ctx, img)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = zeros.write(f, backing)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// zeroMap are the clusters of a disk that read as zero, by L2 table.
type zeroMap struct {
	size   int64
	tables map[int64][]byte // as they stand in the file
	order  []int64          // of the tables, ascending
}

func zeroTables(ctx context.Context, img pipe.Image) (*zeroMap, error) {
	m := &zeroMap{size: img.Size(), tables: map[int64][]byte{}}
	from := int64(-1) // of the run of zeros that is going on
	for e, err := range pipe.Extents(ctx, img, 0, img.Size()) {
		if err != nil {
			return nil, err
		}
		zero := e.Kind == pipe.Zero || e.Kind.Dropped()
		switch {
		case zero && from < 0:
			from = e.Off
		case !zero && from >= 0:
			m.add(from, e.Off)
			from = -1
		}
	}
	if from >= 0 {
		m.add(from, (m.size+overlayCluster-1)&^(overlayCluster-1)) // what is behind the end reads as zero too
	}
	return m, nil
}

// add notes the whole clusters of a run of zeros.
func (m *zeroMap) add(from, to int64) {
	for c := (from + overlayCluster - 1) >> overlayBits; c < to>>overlayBits; c++ {
		t := c / overlayEntries
		if m.tables[t] == nil {
			if len(m.tables) == overlayTables {
				return
			}
			m.tables[t] = make([]byte, overlayCluster)
			m.order = append(m.order, t)
		}
		m.tables[t][c%overlayEntries*8+7] = entryZero
	}
}

// write lays the image out. All of its clusters have one reference.
func (m *zeroMap) write(f io.WriterAt, backing string) error {
	const perTable = overlayEntries << overlayBits
	entries := max(1, (m.size+perTable-1)/perTable)
	l1Clusters := clustersFor(entries * 8)
	first := 1 + l1Clusters // L2 table
	used := first + int64(len(m.order))
	blocks := int64(1)
	for clustersFor((used+blocks+clustersFor(blocks*8))*2) > blocks {
		blocks++
	}
	refTable := used + blocks
	end := refTable + clustersFor(blocks*8)
	l1 := make([]byte, entries*8)
	for i, t := range m.order {
		binary.BigEndian.PutUint64(l1[t*8:], uint64((first+int64(i))<<overlayBits)|entryAlone)
	}
	counts := make([]byte, blocks<<overlayBits)
	for c := range end {
		counts[c*2+1] = 1
	}
	refs := make([]byte, clustersFor(blocks*8)<<overlayBits)
	for i := range blocks {
		binary.BigEndian.PutUint64(refs[i*8:], uint64((used+i)<<overlayBits))
	}
	if err := errors.Join(
		writeAt(f, l1, 1), writeAt(f, counts, used), writeAt(f, refs, refTable),
		writeAt(f, m.header(backing, entries, refTable, clustersFor(blocks*8)), 0),
	); err != nil {
		return err
	}
	for i, t := range m.order {
		if err := writeAt(f, m.tables[t], first+int64(i)); err != nil {
			return err
		}
	}
	return nil
}

func clustersFor(n int64) int64 { return (n + overlayCluster - 1) >> overlayBits }

func writeAt(f io.WriterAt, p []byte, cluster int64) error {
	_, err := f.WriteAt(p, cluster<<overlayBits)
	return err
}

// header is the first cluster, of version 3 of the format.
func (m *zeroMap) header(backing string, entries, refTable, refClusters int64) []byte {
	b := make([]byte, overlayHeader, overlayCluster)
	be := binary.BigEndian
	copy(b, overlayMagic)
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[16:], uint32(len(backing)))
	be.PutUint32(b[20:], overlayBits)
	be.PutUint64(b[24:], uint64(m.size+511)&^511) // whole sectors
	be.PutUint32(b[36:], uint32(entries))
	be.PutUint64(b[40:], overlayCluster)
	be.PutUint64(b[48:], uint64(refTable<<overlayBits))
	be.PutUint32(b[56:], uint32(refClusters))
	be.PutUint32(b[96:], 4) // reference counts of 16 bits
	be.PutUint32(b[100:], overlayHeader)
	b = be.AppendUint32(b, extBackingFormat)
	b = be.AppendUint32(b, uint32(len("raw")))
	b = append(b, "raw\x00\x00\x00\x00\x00"...)
	b = be.AppendUint64(b, 0) // the end of the extensions
	be.PutUint64(b[8:], uint64(len(b)))
	return append(b, backing...)[:overlayCluster]
}

// backingOf is the name of the backing file in the header of an overlay; empty: the image stands alone.
func backingOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, overlayHeader)
	if _, err := io.ReadFull(f, b); err != nil {
		return "", &fs.PathError{Op: "read header", Path: path, Err: err}
	}
	off, n := binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint32(b[16:])
	if !bytes.Equal(b[:4], overlayMagic) || off != 0 && (off > overlayCluster || n > maxBackingName) {
		return "", &fs.PathError{Op: "read header", Path: path, Err: errors.New("this is not an overlay that Hikae made")}
	}
	if off == 0 {
		return "", nil
	}
	name := make([]byte, n)
	if _, err := f.ReadAt(name, int64(off)); err != nil {
		return "", &fs.PathError{Op: "read header", Path: path, Err: err}
	}
	return string(name), nil
}

// covered holds that the tables of an overlay, as they stand in its file, say of every cluster of the disk where it is:
// that nothing is left to be looked up in the backing file. It is asked before the backing file's name goes.
func covered(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	bad := func(format string, args ...any) error {
		return &fs.PathError{Op: "check", Path: path, Err: fmt.Errorf(format, args...)}
	}
	be := binary.BigEndian
	h := make([]byte, overlayHeader)
	if _, err := io.ReadFull(f, h); err != nil {
		return bad("header: %w", err)
	}
	clusters := clustersFor(int64(be.Uint64(h[24:])))
	tables := (clusters + overlayEntries - 1) / overlayEntries
	if !bytes.Equal(h[:4], overlayMagic) || be.Uint32(h[20:]) != overlayBits || int64(be.Uint32(h[36:])) < tables || tables < 0 || tables > maxTables {
		return bad("this is not an overlay that Hikae made")
	}
	l1, l2 := make([]byte, tables*8), make([]byte, overlayCluster)
	if _, err := f.ReadAt(l1, int64(be.Uint64(h[40:]))); err != nil {
		return bad("L1 table: %w", err)
	}
	for t := range tables {
		at := int64(be.Uint64(l1[t*8:]) & offsetBits)
		if at == 0 {
			return bad("nothing of the range at %d is there", t*overlayEntries<<overlayBits)
		}
		if _, err := f.ReadAt(l2, at); err != nil {
			return bad("L2 table %d: %w", t, err)
		}
		for i := range min(overlayEntries, clusters-t*overlayEntries) {
			if be.Uint64(l2[i*8:]) == 0 {
				return bad("the cluster at %d is not there", (t*overlayEntries+i)<<overlayBits)
			}
		}
	}
	return nil
}

// syncFile makes durable what anybody has written to a file, and its name.
func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close(), syncDir(filepath.Dir(path)))
}
