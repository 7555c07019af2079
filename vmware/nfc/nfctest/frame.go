package nfctest

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Frames: {magic, type, size of the payload, operation}, the payload, and then bytes that size does not count.
const (
	magic      = 0xA100DA7A
	headBytes  = 16
	maxPayload = 60

	typeError        = 1
	typeOpenSession  = 2
	typeCloseSession = 3
	typeOpenFile     = 4
	typeCloseFile    = 5
	typeIO           = 7
	typeSocket       = 9
	typeDDB          = 11
	typeAllocated    = 13
	typePool         = 22

	ioBytes  = 44
	errBytes = 16
)

// payloads are the sizes that requests have.
var payloads = map[uint32]int{
	typeOpenSession: 16, typeCloseSession: 4, typeOpenFile: 60, typeCloseFile: 8, typeIO: ioBytes, typeSocket: 12,
	typeDDB: 16, typeAllocated: 48, typePool: 4,
}

// Codes of errors: the first two are known, the others are ours, where nobody has said what a host answers.
const (
	CodeMemory    = 5  // no room for buffers
	CodeReadOnly  = 11 // the ticket, or the disk, is not for writing
	CodeNotFound  = 4
	CodeParameter = 3
	CodeIO        = 16
)

// frame is a request's head and payload.
type frame struct {
	kind, op uint32
	size     int
	payload  [maxPayload]byte
}

func (f *frame) word(at int) uint32 { return binary.LittleEndian.Uint32(f.payload[at:]) }
func (f *frame) long(at int) uint64 { return binary.LittleEndian.Uint64(f.payload[at:]) }

// read reads the next frame, but not what its size does not count.
func (f *frame) read(r io.Reader) error {
	var h [headBytes]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return err
	}
	if m := binary.LittleEndian.Uint32(h[:]); m != magic {
		return fmt.Errorf("nfctest: magic %#x", m)
	}
	f.kind, f.op = binary.LittleEndian.Uint32(h[4:]), binary.LittleEndian.Uint32(h[12:])
	size, known := payloads[f.kind]
	if got := binary.LittleEndian.Uint32(h[8:]); !known || got != uint32(size) {
		return fmt.Errorf("nfctest: frame of type %d with %d bytes", f.kind, got)
	}
	f.size = size
	_, err := io.ReadFull(r, f.payload[:size])
	return err
}

// putHead writes a head to the start of p.
func putHead(p []byte, kind uint32, size int, op uint32) {
	binary.LittleEndian.PutUint32(p, magic)
	binary.LittleEndian.PutUint32(p[4:], kind)
	binary.LittleEndian.PutUint32(p[8:], uint32(size))
	binary.LittleEndian.PutUint32(p[12:], op)
}

// transfer is the payload of type 7.
type transfer struct {
	handle, direction, off  uint64
	total, dest, n, wireLen uint32
}

func (f *frame) transfer() transfer {
	return transfer{
		handle: f.long(0), direction: f.long(8), off: f.long(16),
		total: f.word(24), dest: f.word(28), n: f.word(32), wireLen: f.word(36),
	}
}

func (t transfer) put(p []byte) {
	binary.LittleEndian.PutUint64(p, t.handle)
	binary.LittleEndian.PutUint64(p[8:], t.direction)
	binary.LittleEndian.PutUint64(p[16:], t.off)
	binary.LittleEndian.PutUint32(p[24:], t.total)
	binary.LittleEndian.PutUint32(p[28:], t.dest)
	binary.LittleEndian.PutUint32(p[32:], t.n)
	binary.LittleEndian.PutUint32(p[36:], t.wireLen)
	binary.LittleEndian.PutUint32(p[40:], 0)
}
