package nfc

import "encoding/binary"

// Frames follow the classic messages: a header of 16 bytes, a payload whose length it has, and what some types carry
// beyond it. Numbers are little-endian.
const (
	headLen  = 16
	aioMagic = 0xA100DA7A

	kindError        = 1
	kindOpenSession  = 2
	kindCloseSession = 3
	kindOpenFile     = 4
	kindCloseFile    = 5
	kindIO           = 7
	kindSockOpts     = 9
	kindProperty     = 11
	kindAllocated    = 13
	kindResPool      = 22

	openFileLen  = 60
	ioLen        = 44
	allocatedLen = 48
	propertyLen  = 16
	// longestPayload bounds what a host may answer with where its length is not fixed.
	longestPayload = 4096
	// longestPath bounds "[datastore] folder/file.vmdk".
	longestPath = 4096

	fileDisk      = 2
	openReadOnly  = 0x1e
	openReadWrite = 0x1a

	dirWrite = 0
	dirRead  = 1
)

var kindNames = map[uint32]string{
	kindOpenSession: "open a session", kindCloseSession: "close the session", kindOpenFile: "open the file",
	kindCloseFile: "close the file", kindIO: "move content", kindSockOpts: "set socket options",
	kindProperty: "tell a property", kindAllocated: "tell what is allocated", kindResPool: "set the resource pool",
}

// head stands before every frame.
type head struct {
	kind uint32
	size uint32 // of the payload
	opID uint32 // ties an answer to its request
}

func (h head) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, aioMagic)
	b = binary.LittleEndian.AppendUint32(b, h.kind)
	b = binary.LittleEndian.AppendUint32(b, h.size)
	return binary.LittleEndian.AppendUint32(b, h.opID)
}

// parseHead takes headLen bytes.
func parseHead(b []byte) (head, error) {
	if magic := binary.LittleEndian.Uint32(b); magic != aioMagic {
		return head{}, broken("a frame begins with %#x", magic)
	}
	h := head{binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])}
	if h.size > longestPayload {
		return h, broken("a payload of %d bytes", h.size)
	}
	return h, nil
}

// openSession asks for buffers of size bytes, count of them.
func openSession(size, count int) []byte {
	return words(0, uint32(size), uint32(count), 0)
}

func words(list ...uint32) []byte {
	b := make([]byte, 0, 4*len(list))
	for _, w := range list {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}

// openFile is the payload; the path follows it bare.
func openFile(path string, write bool) []byte {
	b := make([]byte, openFileLen)
	binary.LittleEndian.PutUint32(b, uint32(len(path)))
	binary.LittleEndian.PutUint32(b[16:], fileDisk)
	flags := uint32(openReadOnly)
	if write {
		flags = openReadWrite
	}
	binary.LittleEndian.PutUint32(b[20:], flags)
	return b
}

// opened is what the host says of a file that it opened.
type opened struct {
	handle uint64
	size   int64
	sector int64
}

// largestDisk is beyond what any host makes, 62 TB, and far from where sums overflow.
const largestDisk = 1 << 50

func parseOpened(b []byte, write bool) (opened, error) {
	if len(b) != openFileLen {
		return opened{}, broken("an open file is described in %d bytes", len(b))
	}
	size := binary.LittleEndian.Uint64(b[28:])
	o := opened{handle: binary.LittleEndian.Uint64(b[8:]), size: int64(size), sector: int64(binary.LittleEndian.Uint32(b[36:]))}
	kind, flags := binary.LittleEndian.Uint32(b[16:]), binary.LittleEndian.Uint32(b[20:])
	switch {
	case kind != fileDisk:
		return o, broken("the file is of type %d, not a disk", kind)
	case write && flags != openReadWrite || !write && flags != openReadOnly:
		return o, broken("the file is open with the flags %#x", flags)
	case o.sector < 512 || o.sector > 4096 || o.sector&(o.sector-1) != 0:
		return o, broken("sectors of %d bytes", o.sector)
	case size > largestDisk || o.size%o.sector != 0:
		return o, broken("a disk of %d bytes in sectors of %d", size, o.sector)
	}
	return o, nil
}

// ioFrame is a piece of content on its way: a request to read, a request to write with the content behind it, or an answer.
// A request to read has its whole length in the 64 bits where the others have total and at.
type ioFrame struct {
	handle      uint64
	dir         uint32
	compression uint32
	off         int64  // of the whole request, on the disk
	total       uint32 // of the whole request
	at          uint32 // of this piece in it
	n           uint32 // of this piece
	wire        uint32 // bytes that follow the payload
}

func (f ioFrame) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, f.handle)
	b = binary.LittleEndian.AppendUint32(b, f.dir)
	b = binary.LittleEndian.AppendUint32(b, f.compression)
	b = binary.LittleEndian.AppendUint64(b, uint64(f.off))
	b = binary.LittleEndian.AppendUint32(b, f.total)
	b = binary.LittleEndian.AppendUint32(b, f.at)
	b = binary.LittleEndian.AppendUint32(b, f.n)
	b = binary.LittleEndian.AppendUint32(b, f.wire)
	return binary.LittleEndian.AppendUint32(b, 0)
}

// parseIO takes ioLen bytes. What they say is checked against what was asked for by whoever asked.
func parseIO(b []byte) ioFrame {
	return ioFrame{
		handle: binary.LittleEndian.Uint64(b), dir: binary.LittleEndian.Uint32(b[8:]), compression: binary.LittleEndian.Uint32(b[12:]),
		off: int64(binary.LittleEndian.Uint64(b[16:])), total: binary.LittleEndian.Uint32(b[24:]), at: binary.LittleEndian.Uint32(b[28:]),
		n: binary.LittleEndian.Uint32(b[32:]), wire: binary.LittleEndian.Uint32(b[36:]),
	}
}

// askAllocated asks which of count chunks from start hold anything. start is a multiple of the chunk's length.
func askAllocated(handle uint64, chunk, start int64, count int) []byte {
	b := make([]byte, 0, allocatedLen)
	for _, v := range []uint64{handle, 0, uint64(chunk), uint64(start), uint64(count), 0} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// checkAllocated holds the answer's payload to the question. The bitmap behind it has bitmapLen bytes. Whether a host repeats
// more than the count is not known; what it repeats must be what was asked.
func checkAllocated(b, asked []byte) error {
	if n, want := binary.LittleEndian.Uint64(b[32:]), binary.LittleEndian.Uint64(asked[32:]); n != want {
		return broken("%d chunks were asked for, %d are told of", want, n)
	}
	for _, field := range []struct {
		what string
		at   int
	}{{"handle", 0}, {"chunk's length", 16}, {"start", 24}} {
		if is, want := binary.LittleEndian.Uint64(b[field.at:]), binary.LittleEndian.Uint64(asked[field.at:]); is != 0 && is != want {
			return broken("an answer about the %s %#x, where it was asked about %#x", field.what, is, want)
		}
	}
	return nil
}

// askProperty asks for a line of the disk's descriptor; the key follows bare, without "ddb.".
func askProperty(handle uint64, key string) []byte {
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, propertyLen), handle)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(key)))
	return binary.LittleEndian.AppendUint32(b, 0)
}

// propertyAnswer is the length of the value that follows an answer; zero: there is none.
func propertyAnswer(b []byte) (int, error) {
	n := binary.LittleEndian.Uint32(b[12:])
	if n > longestPayload {
		return 0, broken("a property of %d bytes", n)
	}
	return int(n), nil
}

// bitmapLen is a bit for each chunk, rounded up to whole words of 32 bits.
func bitmapLen(count int) int { return (count + 31) / 32 * 4 }
