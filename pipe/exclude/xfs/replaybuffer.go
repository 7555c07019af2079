package xfs

// A buffer's change is a map of the chunks of 128 bytes that changed, and these chunks:
//
//	| type, regions, flags, sectors, address, words | map ... |  | chunks ... | chunks ... | ...
const (
	bufferChunk = 128
	maxBuffer   = 64 << 10 // the largest block is the largest buffer

	bufferInodes    = 1 << 0 // of inodes, and only their chains of unlinked ones
	bufferCancelled = 1 << 1
	bufferQuota     = 1<<2 | 1<<3 | 1<<4
	bufferTypeShift = 11

	bufferRTBitmap  = 19
	bufferRTSummary = 20
)

// buffer is the first region of a buffer's change.
type buffer struct {
	extentOf
	flags uint16
	words []byte
}

func parseBuffer(i *item) (b buffer, err error) {
	h := i.regions[0]
	if len(h) < 20 {
		return b, logError("a buffer's change of %d bytes", len(h))
	}
	b.flags = le.Uint16(h[4:])
	b.len, b.at = int64(le.Uint16(h[6:])), int64(le.Uint64(h[8:]))
	words := int64(le.Uint32(h[16:]))
	if words > int64(len(h)-20)/4 {
		// A cancelled buffer comes without its map.
		if b.flags&bufferCancelled == 0 {
			return b, logError("a buffer's change with %d words of map in %d bytes", words, len(h))
		}
		words = 0
	}
	b.words = h[20 : 20+words*4]
	return b, nil
}

// dirty says whether a chunk changed.
func (b *buffer) dirty(chunk int) bool {
	return chunk/32 < len(b.words)/4 && le.Uint32(b.words[chunk/32*4:])>>(chunk%32)&1 != 0
}

func (p *replayer) buffer(t *transaction, i *item) error {
	b, err := parseBuffer(i)
	if err != nil {
		return err
	}
	if b.flags&bufferCancelled != 0 {
		if p.cancelled[b.extentOf]--; p.cancelled[b.extentOf] <= 0 {
			delete(p.cancelled, b.extentOf)
		}
		return nil
	}
	if p.cancelled[b.extentOf] > 0 {
		return nil
	}
	if err := p.touch(b.extentOf); err != nil {
		return err
	}
	if b.flags&bufferQuota != 0 {
		return nil
	}
	data := make([]byte, b.len*logBlock)
	off := b.at * logBlock
	if err := p.read(data, off); err != nil {
		return err
	}
	if at := p.f.bufferLSN(data, b.flags>>bufferTypeShift); at != 0 && at != nullLSN && at >= t.lsn {
		return nil // what lies there is newer
	}
	if err := p.chunks(&b, i, data, off); err != nil || b.at != 0 {
		return err
	}
	return p.f.reshape(p.ctx, p.v)
}

// chunks copies the chunks that changed. Those that follow each other are one region, or several where a page ended.
func (p *replayer) chunks(b *buffer, i *item, data []byte, off int64) error {
	chunk, last := 0, len(b.words)*8
	for _, region := range i.regions[1:] {
		for chunk < last && !b.dirty(chunk) {
			chunk++
		}
		n := 0
		for chunk+n < last && b.dirty(chunk+n) && (n+1)*bufferChunk <= len(region) {
			n++
		}
		at, end := chunk*bufferChunk, (chunk+n)*bufferChunk
		if n == 0 || end > len(data) {
			return logError("a buffer's change of %d bytes at byte %d of %d", len(region), at, len(data))
		}
		if err := p.region(b, data, region[:n*bufferChunk], off, at); err != nil {
			return err
		}
		chunk += n
	}
	for ; chunk < last; chunk++ {
		if b.dirty(chunk) {
			return logError("a buffer's change lacks chunk %d", chunk)
		}
	}
	return nil
}

// region puts one region into its place.
func (p *replayer) region(b *buffer, data, region []byte, off int64, at int) error {
	if b.flags&bufferInodes == 0 {
		return p.write(region, off+int64(at))
	}
	// Of inodes a buffer carries the chain of unlinked ones only; all else is in the inodes' own changes.
	size := int(p.f.sb.inodeSize)
	for first := at / size * size; first < at+len(region); first += size {
		field := first + inodeNextUnlinked
		if field < at || field+4 > at+len(region) {
			continue
		}
		ino := data[first : first+size]
		proven := p.f.sb.v5 && sumOK(ino, inodeSum)
		copy(ino[inodeNextUnlinked:], region[field-at:field-at+4])
		if proven {
			le.PutUint32(ino[inodeSum:], sum(ino, inodeSum))
		}
		if err := p.write(ino, off+int64(first)); err != nil {
			return err
		}
	}
	return nil
}

// bufferLSN is the position in the log at which a block was last written; 0 if it does not say. Blocks of another file
// system are what was there before.
func (f *FS) bufferLSN(b []byte, kind uint16) uint64 {
	if !f.sb.v5 || kind == bufferRTBitmap || kind == bufferRTSummary {
		return 0
	}
	want := f.sb.metaUUID
	lsn, uuid := sealOf(b)
	if string(b[:4]) == superMagic && uuid == 32 {
		want = f.sb.uuid
	}
	if lsn == 0 || [16]byte(b[uuid:]) != want {
		return 0
	}
	return be.Uint64(b[lsn:])
}

// sealOf finds a block's position in the log and its UUID by its magic number. No lsn: it has none that counts.
func sealOf(b []byte) (lsn, uuid int) {
	switch string(b[:4]) {
	case "ABTB", "AB3B", "ABTC", "AB3C", "IABT", "IAB3", "FIBT", "FIB3", "RMB3", "R3FC":
		return shortSeal.lsn, shortSeal.uuid
	case "BMAP", "BMA3":
		return longSeal.lsn, longSeal.uuid
	case "XAGF":
		return agfSeal.lsn, agfSeal.uuid
	case "XAGI":
		return agiSeal.lsn, agiSeal.uuid
	case "XAFL":
		return agflSeal.lsn, agflSeal.uuid
	case "XSLM":
		return symlinkSeal.lsn, symlinkSeal.uuid
	case "XDB3", "XDD3", "XDF3":
		return dirSeal.lsn, dirSeal.uuid
	case superMagic:
		if be.Uint32(b[216:])&incompatMetaUUID != 0 {
			return 240, 248
		}
		return 240, 32
	}
	switch be.Uint16(b[8:]) {
	case 0x3df1, 0x3dff, 0x3bee, 0x3ebe: // leaves and nodes of directories and attributes
		return 24, 32
	}
	return 0, 0
}
