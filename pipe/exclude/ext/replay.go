package ext

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"sort"
)

const (
	tagEscaped  = 0x1
	tagSameUUID = 0x2
	tagLast     = 0x8
)

// tag says which block a block of the log is a copy of.
type tag struct {
	block uint64
	flags uint16
	sum   uint32 // all of it in the third version of checksums, 16 bits in the second
}

// tagLen is how long a tag is, which depends on the log's features in a way that only history explains.
func (j *journal) tagLen() int {
	if j.incompat&logSumV3 != 0 {
		return 16
	}
	n := 12
	if j.incompat&logSumV2 != 0 {
		n += 2
	}
	if j.incompat&log64bit == 0 {
		n -= 4
	}
	return n
}

// tags are the tags of a descriptor.
func (j *journal) tags(p []byte) iter.Seq[tag] {
	return func(yield func(tag) bool) {
		size, end := j.tagLen(), len(p)
		if j.blockSums() {
			end -= 4
		}
		for at := logHeaderBytes; at+size <= end; {
			e := p[at:]
			t := tag{block: uint64(be.Uint32(e)), flags: be.Uint16(e[6:]), sum: uint32(be.Uint16(e[4:]))}
			if j.incompat&log64bit != 0 {
				t.block |= uint64(be.Uint32(e[8:])) << 32
			}
			if j.incompat&logSumV3 != 0 {
				t.sum = be.Uint32(e[12:])
			}
			if !yield(t) || t.flags&tagLast != 0 {
				return
			}
			if at += size; t.flags&tagSameUUID == 0 {
				at += 16
			}
		}
	}
}

// revocation says that copies of a block up to a transaction do not count: it was freed, and may have been written to since
// without the log.
type revocation struct {
	block uint64
	seq   uint32
}

// later compares numbers of transactions, which go round.
func later(a, b uint32) bool { return int32(a-b) > 0 }

// replay finds out which blocks of the file system have their last copy in the log. Nil: none.
func (j *journal) replay(ctx context.Context) (*overlay, error) {
	if j.start == 0 {
		return nil, nil
	}
	records, end, err := j.scan(ctx)
	if err != nil {
		return nil, err
	}
	for len(records) > 0 && !later(end, records[len(records)-1].seq) {
		records = records[:len(records)-1] // of the transaction that was not completed
	}
	if err := j.checkFast(ctx, end); err != nil {
		return nil, err
	}
	revoked, err := j.revocations(ctx, records)
	if err != nil {
		return nil, err
	}
	var copies []logCopy
	block := make([]byte, j.d.blockSize())
	for _, r := range records {
		if r.revokes {
			continue
		}
		if err := j.read(ctx, block, r.at); err != nil {
			return nil, err
		}
		if copies, err = j.copies(ctx, r, block, revoked, copies); err != nil {
			return nil, err
		}
	}
	if len(copies) == 0 {
		return nil, nil
	}
	return newOverlay(copies), nil
}

// checkFast looks for a fast commit that goes on from the log's end.
func (j *journal) checkFast(ctx context.Context, end uint32) error {
	if j.incompat&logFastCommit == 0 || j.last+1 >= j.length {
		return nil
	}
	p := make([]byte, j.d.blockSize())
	if err := j.read(ctx, p, j.last+1); err != nil {
		return err
	}
	if le.Uint16(p) == fastHead && le.Uint16(p[2:]) >= 8 && le.Uint32(p[8:]) == end {
		return logError(int64(j.last+1), "fast commits are pending, and cannot be replayed here")
	}
	return nil
}

// revocations gathers what is revoked, by block and with the last number.
func (j *journal) revocations(ctx context.Context, records []record) ([]revocation, error) {
	var all []revocation
	p := make([]byte, j.d.blockSize())
	size, room := 4, len(p)
	if j.incompat&log64bit != 0 {
		size = 8
	}
	if j.blockSums() {
		room -= 4
	}
	for _, r := range records {
		if !r.revokes {
			continue
		}
		if err := j.read(ctx, p, r.at); err != nil {
			return nil, err
		}
		used := be.Uint32(p[logHeaderBytes:])
		if used > uint32(room) {
			return nil, logError(int64(r.at), "revocations of %d bytes", used)
		}
		for at := logHeaderBytes + 4; at+size <= int(used); at += size {
			b := uint64(be.Uint32(p[at:]))
			if size == 8 {
				b = be.Uint64(p[at:])
			}
			all = append(all, revocation{b, r.seq})
		}
		if len(all) > maxLogRevokes {
			return nil, logError(int64(r.at), "it has more than %d revocations", maxLogRevokes)
		}
	}
	// Records come in the order of their numbers, and the sort keeps that: the last of a block is the one that counts.
	slices.SortStableFunc(all, func(a, b revocation) int { return cmp.Compare(a.block, b.block) })
	return all, nil
}

// revokedAt reports whether a block's copy in a transaction does not count.
func revokedAt(all []revocation, block uint64, seq uint32) bool {
	i := sort.Search(len(all), func(i int) bool { return all[i].block > block })
	return i > 0 && all[i-1].block == block && !later(seq, all[i-1].seq)
}

// copies appends what a descriptor describes. Where the blocks have checksums each is read and checked.
func (j *journal) copies(ctx context.Context, r record, p []byte, revoked []revocation, out []logCopy) ([]logCopy, error) {
	tags := slices.Collect(j.tags(p))
	at := j.after(r.at, 1)
	for k, t := range tags {
		if revokedAt(revoked, t.block, r.seq) {
			continue
		}
		if !j.d.holds(t.block, 1) {
			return nil, logError(int64(r.at), "it has a copy of block %d of %d", t.block, j.d.blocks)
		}
		place, _ := j.place(j.after(at, uint32(k)))
		out = append(out, newLogCopy(t.block, place, t.flags&tagEscaped != 0))
	}
	if len(out) > maxLogCopies {
		return nil, logError(int64(r.at), "it has copies of more than %d blocks", maxLogCopies)
	}
	if !j.blockSums() {
		return out, nil
	}
	k := 0
	return out, j.each(ctx, at, uint32(len(tags)), func(at uint32, p []byte) error {
		t := tags[k]
		k++
		if revokedAt(revoked, t.block, r.seq) {
			return nil
		}
		want := crc32c(crc32cBig(j.seed, r.seq), p)
		if j.incompat&logSumV2 != 0 {
			want &= 0xffff
		}
		if t.sum != want {
			return logError(int64(at), "the copy of block %d has the checksum %#x, not %#x", t.block, want, t.sum)
		}
		return nil
	})
}
