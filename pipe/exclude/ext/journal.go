package ext

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"sort"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// The log is big-endian, whatever the file system is.
var be = binary.BigEndian

const (
	logMagic = 0xc03b3998

	logDescriptor = 1
	logCommit     = 2
	logSuperV1    = 3
	logSuperV2    = 4
	logRevoke     = 5

	logCompatSum = 0x1 // the first kind of checksum: one in each commit

	logRevokes     = 0x1
	log64bit       = 0x2
	logAsync       = 0x4
	logSumV2       = 0x8
	logSumV3       = 0x10
	logFastCommit  = 0x20
	logKnown       = logRevokes | log64bit | logAsync | logSumV2 | logSumV3 | logFastCommit
	logCRC32C      = 4
	minLogBlocks   = 1024
	maxLogRuns     = 1 << 18
	maxLogCopies   = 1 << 20 // a log of 4 GiB in 4 KiB blocks; 16 MiB of memory
	maxLogRevokes  = 2 << 20
	maxLogRecords  = 1 << 20
	fastBlocks     = 256 // of a log that does not say how many
	fastHead       = 9   // what a fast commit begins with
	logReadBytes   = 1 << 20
	logHeaderBytes = 12
)

// journal is an opened log.
type journal struct {
	d      *disk
	runs   []mapped // where its blocks are
	blocks blockSet // the same, and those of its map

	first, last uint32 // the log goes round from first up to last, which is not part of it
	length      uint32 // with what is behind it
	start, seq  uint32 // where it begins, and the number of its first transaction
	compat      uint32
	incompat    uint32
	seed        uint32
}

// openLog finds the log. Without one, or where it need not be replayed, the answer is nil. All that is wrong with it is a
// *fsys.CorruptError.
func (f *FS) openLog(ctx context.Context) (*journal, error) {
	recover := f.s.incompat&incompatRecover != 0
	switch {
	case f.s.compat&compatJournal == 0 && recover:
		return nil, &fsys.CorruptError{What: "superblock", Off: superOff, Why: "it wants a log replayed that it does not have"}
	case f.s.compat&compatJournal == 0:
		return nil, nil
	case f.s.journal == 0:
		return nil, logError(-1, "it is on another volume")
	}
	j := &journal{d: f.d}
	if err := j.find(ctx, &f.view); err != nil {
		return nil, err
	}
	if err := j.readSuper(ctx); err != nil {
		return j, err
	}
	if !recover && j.start != 0 {
		return j, logError(-1, "it is not empty, and the superblock says that it is")
	}
	return j, nil
}

func logError(block int64, format string, args ...any) error {
	what := "log"
	if block >= 0 {
		what = fmt.Sprintf("block %d of the log", block)
	}
	return &fsys.CorruptError{What: what, Off: -1, Why: fmt.Sprintf(format, args...)}
}

// find takes down where the log's blocks are.
func (j *journal) find(ctx context.Context, v *view) error {
	i, err := v.inode(ctx, fsys.Node(v.s.journal))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return logError(-1, "it has no inode: %v", err)
	case err != nil:
		return err
	case i.mode&modeType != modeRegular:
		return logError(-1, "its inode is no file")
	}
	m := &mapper{v: v, i: i, node: func(b uint64) { j.blocks.add(b, 1) }, emit: func(x mapped) bool {
		j.addRun(x)
		j.blocks.add(x.vol, x.n)
		return len(j.runs) <= maxLogRuns
	}}
	if err := m.walk(ctx); err != nil {
		return err
	}
	if len(j.runs) > maxLogRuns {
		return logError(-1, "it lies in more than %d pieces", maxLogRuns)
	}
	at := uint64(0)
	for _, x := range j.runs {
		if x.unwritten || x.file != at {
			break
		}
		at = x.end()
	}
	j.length = uint32(min(at, i.size>>v.s.blockBits, math.MaxUint32))
	return nil
}

func (j *journal) addRun(x mapped) {
	if k := len(j.runs); k > 0 {
		if l := &j.runs[k-1]; l.end() == x.file && l.vol+l.n == x.vol && l.unwritten == x.unwritten {
			l.n += x.n
			return
		}
	}
	j.runs = append(j.runs, x)
}

// place is where a block of the log is on the volume, and how many follow it there.
func (j *journal) place(n uint32) (at, count uint64) {
	k := sort.Search(len(j.runs), func(k int) bool { return j.runs[k].end() > uint64(n) })
	x := j.runs[k]
	return x.vol + uint64(n) - x.file, x.end() - uint64(n)
}

// read fills p with blocks of the log from n on.
func (j *journal) read(ctx context.Context, p []byte, n uint32) error {
	for len(p) > 0 {
		at, count := j.place(n)
		part := p[:min(uint64(len(p)), count<<j.d.bits)]
		if err := j.d.raw(ctx, part, int64(at<<j.d.bits)); err != nil {
			return err
		}
		p, n = p[len(part):], n+uint32(len(part)>>j.d.bits)
	}
	return nil
}

// readSuper reads and checks the log's own superblock.
func (j *journal) readSuper(ctx context.Context) error {
	if j.length == 0 {
		return logError(-1, "it has no blocks")
	}
	p := make([]byte, j.d.blockSize())
	if err := j.read(ctx, p, 0); err != nil {
		return err
	}
	kind := be.Uint32(p[4:])
	if be.Uint32(p) != logMagic || kind != logSuperV1 && kind != logSuperV2 {
		return logError(0, "magic %#x, kind %d", be.Uint32(p), kind)
	}
	length := be.Uint32(p[0x10:])
	j.first, j.last, j.seq, j.start = be.Uint32(p[0x14:]), length, be.Uint32(p[0x18:]), be.Uint32(p[0x1c:])
	if kind == logSuperV2 {
		if err := j.features(p); err != nil {
			return err
		}
	}
	switch {
	case int64(be.Uint32(p[0xc:])) != int64(j.d.blockSize()):
		return logError(0, "its blocks have %d bytes", be.Uint32(p[0xc:]))
	case length > j.length:
		return logError(0, "it says that it has %d blocks, and has %d", length, j.length)
	case j.first == 0 || j.first >= j.last || j.start != 0 && (j.start < j.first || j.start >= j.last):
		return logError(0, "it goes from %d up to %d and begins at %d", j.first, j.last, j.start)
	case be.Uint32(p[0x20:]) != 0:
		return logError(0, "its driver noted the error %d in it", int32(be.Uint32(p[0x20:])))
	}
	j.length = length
	return nil
}

// features reads what the second version of the log's superblock has.
func (j *journal) features(p []byte) error {
	var ro uint32
	j.compat, j.incompat, ro = be.Uint32(p[0x24:]), be.Uint32(p[0x28:]), be.Uint32(p[0x2c:])
	sums := j.incompat & (logSumV2 | logSumV3)
	switch {
	case j.incompat&^logKnown != 0 || ro != 0:
		return logError(0, "features %#x and %#x are not known", j.incompat&^logKnown, ro)
	case sums == logSumV2|logSumV3 || sums != 0 && j.compat&logCompatSum != 0:
		return logError(0, "it has two kinds of checksums")
	case sums != 0 && p[0x50] != logCRC32C:
		return logError(0, "checksums of type %d are not known", p[0x50])
	}
	if j.seed = crc32c(^uint32(0), p[0x30:0x40]); sums != 0 {
		stored := be.Uint32(p[0xfc:])
		want := crc32c(crc32c(crc32c(^uint32(0), p[:0xfc]), make([]byte, 4)), p[0x100:superSize])
		if stored != want {
			return logError(0, "checksum %#x, not %#x", stored, want)
		}
	}
	if j.incompat&logFastCommit != 0 {
		n := be.Uint32(p[0x54:])
		if n == 0 {
			n = fastBlocks
		}
		if uint64(j.last) >= uint64(n)+minLogBlocks {
			j.last -= n
		}
	}
	return nil
}

// blockSums reports whether each block in the log has a checksum of its own.
func (j *journal) blockSums() bool { return j.incompat&(logSumV2|logSumV3) != 0 }

// after is the block n blocks further round the log.
func (j *journal) after(at, n uint32) uint32 {
	if next := uint64(at) + uint64(n); next < uint64(j.last) {
		return uint32(next)
	} else {
		return uint32(next - uint64(j.last-j.first))
	}
}
