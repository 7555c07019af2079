package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"

	"github.com/zeebo/blake3"
)

// Bounds and numbers of section 3 of FORMAT.md.
const (
	fixedHeader = 77 // up to the number of wraps
	maxHeader   = 131197
	maxWraps    = 16
	maxWrapBody = 8192
	tableEntry  = 44
	maxFrames   = 1 << 20
	tableIndex  = 0xFFFFFFFF
	sealExtra   = 16
)

// Types of frames.
const (
	typeTable    = 0
	typeBlock    = 1
	typePage     = 2
	typeChunk    = 3
	typeDocument = 4
	typePack     = 5
	typeVoid     = 6
	typeAnchor   = 7
)

// Codecs.
const (
	codecPlain  = 0
	codecS2     = 1
	codecZstd   = 2
	codecRecipe = 3
)

// stream is an object's stream, read in parts. A read outside of it is damage of whoever asked for it.
type stream interface {
	size() int64
	read(off, n int64) ([]byte, error)
}

// memory is a stream that was read whole.
type memory []byte

func (m memory) size() int64 { return int64(len(m)) }

func (m memory) read(off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || off > int64(len(m)) || n > int64(len(m))-off {
		return nil, damaged("", off, "the stream has %d bytes and %d more were to follow", len(m), n)
	}
	return m[off : off+n], nil
}

// wrap is one way to the data key.
type wrap struct {
	kind byte
	body []byte
}

// frame is one entry of a table, and where the frame stands in the stream.
type frame struct {
	id      [32]byte
	kind    byte
	codec   byte
	stored  uint32
	plain   uint32
	offset  uint32
	ordinal uint32
}

// opened is an object whose data key is known.
type opened struct {
	name   string
	head   [44]byte
	suite  byte
	wrap   byte // the type of the wrap that gave the key
	salt   []byte
	aead   cipher.AEAD
	key    []byte // of frames
	source stream
	frames []frame
}

// openObject reads header and table. What it returns as fault has no name yet.
func openObject(s stream, w want, keys *keyring) (*opened, error) {
	o := &opened{source: s}
	wraps, commitment, end, err := o.readHeader(w)
	if err != nil {
		return nil, err
	}
	dataKey, err := o.unwrap(wraps, keys)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(derive(dataKey, o.salt, "hikae/1/commit"), commitment) != 1 {
		return nil, damaged("", 44, "the key is not the one that the header commits to")
	}
	o.key = derive(dataKey, o.salt, "hikae/1/frames")
	block, err := aes.NewCipher(o.key)
	if err != nil {
		return nil, err
	}
	if o.aead, err = cipher.NewGCM(block); err != nil {
		return nil, err
	}
	return o, o.readTable(end)
}

// readHeader checks the fixed fields and takes the wraps apart; end is where frame 0 starts.
func (o *opened) readHeader(w want) (wraps []wrap, commitment []byte, end int64, err error) {
	h, err := o.source.read(0, min(o.source.size(), maxHeader))
	if err != nil {
		return nil, nil, 0, err
	}
	if len(h) < fixedHeader || !bytes.Equal(h[:8], []byte("HIKAEOBJ")) {
		return nil, nil, 0, damaged("", 0, "no header of an object")
	}
	copy(o.head[:], h)
	if v := binary.LittleEndian.Uint16(h[8:]); v != 1 {
		return nil, nil, 0, unsupported("", "format version %d", v)
	}
	if h[10] != w.kind || (w.object != nil && !bytes.Equal(h[28:44], w.object[:])) ||
		(w.repository != nil && !bytes.Equal(h[12:28], w.repository[:])) {
		return nil, nil, 0, damaged("", 10, "this is another object")
	}
	if o.suite = h[11]; o.suite > 1 {
		return nil, nil, 0, unsupported("", "suite %d", o.suite)
	}
	o.salt = h[12:44:44]
	at := fixedHeader
	for range h[76] {
		if len(h) < at+3 {
			return nil, nil, 0, damaged("", int64(at), "the header ends in a wrap")
		}
		length := int(binary.LittleEndian.Uint16(h[at+1:]))
		if length > maxWrapBody || len(h) < at+3+length {
			return nil, nil, 0, damaged("", int64(at), "a wrap of %d bytes", length)
		}
		wraps = append(wraps, wrap{h[at], h[at+3 : at+3+length]})
		at += 3 + length
	}
	return wraps, h[44:76], int64(at), o.checkWraps(wraps)
}

func (o *opened) checkWraps(wraps []wrap) error {
	if len(wraps) == 0 || len(wraps) > maxWraps {
		return damaged("", 76, "%d wraps", len(wraps))
	}
	clears := 0
	for _, w := range wraps {
		if w.kind == wrapClear {
			clears++
		}
	}
	if o.suite == 0 && (clears != 1 || len(wraps) != 1) || o.suite == 1 && clears != 0 {
		return damaged("", 76, "wraps that do not belong to suite %d", o.suite)
	}
	return nil
}

// readTable opens the table at the end of the stream and lays the frames out; start is where frame 0 begins.
func (o *opened) readTable(start int64) error {
	size := o.source.size()
	tail, err := o.source.read(size-4, 4)
	if err != nil {
		return err
	}
	length := int64(binary.LittleEndian.Uint32(tail))
	at := size - 4 - length
	if length < sealExtra || at < start || (length-sealExtra)%tableEntry != 0 || (length-sealExtra)/tableEntry > maxFrames {
		return damaged("", size-4, "a table of %d bytes", length)
	}
	sealed, err := o.source.read(at, length)
	if err != nil {
		return err
	}
	table, err := o.unseal(sealed, tableIndex, typeTable, codecPlain, uint32(length-sealExtra))
	if err != nil {
		return damaged("", at, "the table does not open")
	}
	return o.layOut(table, start, at)
}

// layOut checks the entries of a table against the room between header and table.
func (o *opened) layOut(table []byte, start, end int64) error {
	o.frames = make([]frame, 0, len(table)/tableEntry)
	at := start
	for i := 0; i < len(table); i += tableEntry {
		f, err := readEntry(table[i:i+tableEntry], uint32(i/tableEntry))
		if err != nil {
			return err
		}
		f.offset = uint32(at)
		if at += int64(f.stored); at > end {
			return damaged("", end, "frame %d would reach into the table", f.ordinal)
		}
		o.frames = append(o.frames, f)
	}
	if at != end {
		return damaged("", at, "the frames end before the table begins")
	}
	return nil
}

func readEntry(e []byte, ordinal uint32) (frame, error) {
	f := frame{id: [32]byte(e[:32]), kind: e[32], codec: e[33], ordinal: ordinal}
	f.stored = binary.LittleEndian.Uint32(e[36:])
	f.plain = binary.LittleEndian.Uint32(e[40:])
	return f, f.possible(e[34] == 0 && e[35] == 0)
}

// possible holds an entry against the rules that a table and an index object share.
func (f frame) possible(zeros bool) error {
	switch {
	case f.kind == typeTable || f.kind > typeAnchor:
		return unsupported("", "frame %d has type %d", f.ordinal, f.kind)
	case f.codec > codecRecipe:
		return unsupported("", "frame %d has codec %d", f.ordinal, f.codec)
	case !zeros || f.plain > maxStream || f.stored < sealExtra || f.stored > maxStream:
		return damaged("", -1, "frame %d has lengths that cannot be", f.ordinal)
	case f.codec == codecPlain && f.stored != f.plain+sealExtra:
		return damaged("", -1, "frame %d is plain and has two lengths", f.ordinal)
	case f.codec == codecRecipe && f.kind != typeBlock && f.kind != typeVoid:
		return damaged("", -1, "frame %d is a recipe and no block", f.ordinal)
	case f.kind == typeVoid && f.id != [32]byte{}:
		return damaged("", -1, "frame %d is void and has an id", f.ordinal)
	}
	return nil
}

// encoded gives what stands in a frame, before it is decoded. It is authentic: made by who had the data key, for this
// place, with this type, codec and length.
func (o *opened) encoded(f frame) ([]byte, error) {
	sealed, err := o.source.read(int64(f.offset), int64(f.stored))
	if err != nil {
		return nil, named(o.name, err)
	}
	plain, err := o.unseal(sealed, f.ordinal, f.kind, f.codec, f.plain)
	if err != nil {
		return nil, damaged(o.name, int64(f.offset), "frame %d of the stream does not open", f.ordinal)
	}
	return plain, nil
}

// unseal opens sealed bytes, or checks the tag of clear ones.
func (o *opened) unseal(sealed []byte, i uint32, kind, codec byte, plain uint32) ([]byte, error) {
	if len(sealed) < sealExtra {
		return nil, errDamaged
	}
	data := make([]byte, 0, 46)
	data = append(data, o.head[8:10]...)
	data = append(data, o.suite, o.head[10])
	data = append(data, o.head[12:44]...)
	data = binary.LittleEndian.AppendUint32(data, i)
	data = append(data, kind, codec)
	data = binary.LittleEndian.AppendUint32(data, plain)
	if o.suite == 1 {
		var nonce [12]byte
		binary.LittleEndian.PutUint32(nonce[:], i)
		return o.aead.Open(nil, nonce[:], sealed, data)
	}
	body, tag := sealed[:len(sealed)-sealExtra], sealed[len(sealed)-sealExtra:]
	if subtle.ConstantTimeCompare(keyed(o.key, data, body)[:sealExtra], tag) != 1 {
		return nil, errDamaged
	}
	return body, nil
}

// derive is HKDF-SHA-256 with 32 bytes of output.
func derive(secret, salt []byte, info string) []byte {
	out, err := hkdf.Key(sha256.New, secret, salt, info, 32)
	if err != nil {
		panic("32 bytes are never too many for HKDF: " + err.Error())
	}
	return out
}

// keyed is BLAKE3 of the parts under a key of 32 bytes.
func keyed(key []byte, parts ...[]byte) []byte {
	h, err := blake3.NewKeyed(key)
	if err != nil {
		panic("keys of BLAKE3 have 32 bytes: " + err.Error())
	}
	for _, p := range parts {
		_, _ = h.Write(p)
	}
	return h.Sum(nil)
}

// hash is plain BLAKE3.
func hash(p []byte) [32]byte { return blake3.Sum256(p) }
