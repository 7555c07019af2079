package nbd

import (
	"encoding/binary"
	"fmt"
)

// Numbers of the protocol. Their names are those of its specification.
const (
	magicGreeting    = 0x4e42444d41474943
	magicOption      = 0x49484156454f5054
	magicOldstyle    = 0x00420281861253
	magicOptionReply = 0x0003e889045565a9

	magicRequest         = 0x25609513
	magicExtendedRequest = 0x21e41c71
	magicSimpleReply     = 0x67446698
	magicChunk           = 0x668e33ef
	magicExtendedChunk   = 0x6e8a278c
)

// Flags of the handshake: the server's, and the client's in the same bits.
const (
	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1
)

// option is what a client asks for before the transmission.
type option uint32

const (
	optExportName      option = 1
	optAbort           option = 2
	optList            option = 3
	optStartTLS        option = 5
	optInfo            option = 6
	optGo              option = 7
	optStructuredReply option = 8
	optListMetaContext option = 9
	optSetMetaContext  option = 10
	optExtendedHeaders option = 11
)

var optionNames = map[option]string{
	optExportName: "EXPORT_NAME", optAbort: "ABORT", optList: "LIST", optStartTLS: "STARTTLS", optInfo: "INFO", optGo: "GO",
	optStructuredReply: "STRUCTURED_REPLY", optListMetaContext: "LIST_META_CONTEXT", optSetMetaContext: "SET_META_CONTEXT",
	optExtendedHeaders: "EXTENDED_HEADERS",
}

func (o option) String() string {
	if name, ok := optionNames[o]; ok {
		return name
	}
	return fmt.Sprintf("option %d", uint32(o))
}

// Types of the server's replies to options. Errors have the top bit.
const (
	repAck         = 1
	repServer      = 2
	repInfo        = 3
	repMetaContext = 4

	repError            = 1 << 31
	repErrUnsupported   = repError | 1
	repErrPolicy        = repError | 2
	repErrInvalid       = repError | 3
	repErrPlatform      = repError | 4
	repErrTLSRequired   = repError | 5
	repErrUnknown       = repError | 6
	repErrShutdown      = repError | 7
	repErrBlockSize     = repError | 8
	repErrTooBig        = repError | 9
	repErrExtendedFirst = repError | 10
)

// Kinds of information about an export.
const (
	infoExport      = 0
	infoName        = 1
	infoDescription = 2
	infoBlockSize   = 3
)

// Flags of an export.
const (
	flagHasFlags     = 1 << 0
	flagReadOnly     = 1 << 1
	flagFlush        = 1 << 2
	flagFUA          = 1 << 3
	flagTrim         = 1 << 5
	flagWriteZeroes  = 1 << 6
	flagDontFragment = 1 << 7
	flagMultiConn    = 1 << 8
	flagCache        = 1 << 10
)

// command is what a request asks for.
type command uint16

const (
	cmdRead        command = 0
	cmdWrite       command = 1
	cmdDisconnect  command = 2
	cmdFlush       command = 3
	cmdTrim        command = 4
	cmdCache       command = 5
	cmdWriteZeroes command = 6
	cmdBlockStatus command = 7
)

var commandNames = [...]string{"read", "write", "disconnect", "flush", "trim", "cache", "write zeroes", "block status"}

func (c command) String() string {
	if int(c) < len(commandNames) {
		return commandNames[c]
	}
	return fmt.Sprintf("command %d", uint16(c))
}

// Flags of a request.
const (
	cmdFlagFUA          = 1 << 0
	cmdFlagNoHole       = 1 << 1
	cmdFlagDontFragment = 1 << 2
	cmdFlagOne          = 1 << 3
	cmdFlagPayload      = 1 << 5
)

// Chunks of an answer.
const (
	chunkFlagDone = 1 << 0

	chunkNone        = 0
	chunkData        = 1
	chunkHole        = 2
	chunkStatus      = 5
	chunkStatusWide  = 6
	chunkErrors      = 1 << 15
	chunkError       = chunkErrors | 1
	chunkErrorOffset = chunkErrors | 2
)

// Flags of a range in base:allocation.
const (
	stateHole = 1 << 0
	stateZero = 1 << 1
)

// Limits on what the other side may send, and on what is sent. A peer that goes beyond one breaks the protocol, and the
// connection ends.
const (
	maxString      = 4096     // bytes of a name or message, by the specification
	maxOptionData  = 64 << 10 // bytes of one option, and of one reply to an option
	maxOptions     = 256      // options of one handshake that a server answers
	maxReplies     = 1024     // replies to one option; for LIST, maxExports
	maxExports     = 1 << 16
	maxQueries     = 64       // names of contexts in one option
	maxPayload     = 32 << 20 // bytes of one request or chunk, as the specification has it by default
	maxDescriptors = 1 << 20  // ranges in one answer, as the specification has it
	maxPieces      = 1 << 14  // ranges of one read that have arrived and do not touch
	maxErrors      = 1 << 10  // errors in one answer
	maxBlock       = 64 << 10 // the smallest unit of access, by the specification
)

// form is how requests and answers look, as negotiated.
type form uint8

const (
	formSimple     form = iota // requests of 28 bytes, simple answers only
	formStructured             // requests of 28 bytes, answers in chunks of 20 bytes
	formExtended               // requests and chunks of 32 bytes
)

// requestLen is the length of a request's header in bytes.
func (f form) requestLen() int {
	if f == formExtended {
		return 32
	}
	return 28
}

// chunkLen is the length of a chunk's header in bytes.
func (f form) chunkLen() int {
	if f == formExtended {
		return 32
	}
	return 20
}

// request is the header of a request. With formExtended a length may be more than 32 bits.
type request struct {
	flags  uint16
	cmd    command
	cookie uint64
	off, n uint64
}

func (q request) append(b []byte, f form) []byte {
	magic := uint32(magicRequest)
	if f == formExtended {
		magic = magicExtendedRequest
	}
	b = binary.BigEndian.AppendUint32(b, magic)
	b = binary.BigEndian.AppendUint16(b, q.flags)
	b = binary.BigEndian.AppendUint16(b, uint16(q.cmd))
	b = binary.BigEndian.AppendUint64(b, q.cookie)
	b = binary.BigEndian.AppendUint64(b, q.off)
	if f == formExtended {
		return binary.BigEndian.AppendUint64(b, q.n)
	}
	return binary.BigEndian.AppendUint32(b, uint32(q.n))
}

// parseRequest decodes a header of f.requestLen() bytes.
func parseRequest(b []byte, f form) (request, error) {
	q := request{
		flags: binary.BigEndian.Uint16(b[4:]), cmd: command(binary.BigEndian.Uint16(b[6:])),
		cookie: binary.BigEndian.Uint64(b[8:]), off: binary.BigEndian.Uint64(b[16:]),
	}
	want := uint32(magicRequest)
	if f == formExtended {
		want, q.n = magicExtendedRequest, binary.BigEndian.Uint64(b[24:])
	} else {
		q.n = uint64(binary.BigEndian.Uint32(b[24:]))
	}
	if magic := binary.BigEndian.Uint32(b); magic != want {
		return q, broken("a request starts with %#x, not with %#x", magic, want)
	}
	return q, nil
}

// chunk is the header of one part of an answer.
type chunk struct {
	flags, kind uint16
	cookie      uint64
	off         uint64 // of the request; with formExtended only
	n           uint64 // of the payload that follows
}

func (c chunk) append(b []byte, f form) []byte {
	magic := uint32(magicChunk)
	if f == formExtended {
		magic = magicExtendedChunk
	}
	b = binary.BigEndian.AppendUint32(b, magic)
	b = binary.BigEndian.AppendUint16(b, c.flags)
	b = binary.BigEndian.AppendUint16(b, c.kind)
	b = binary.BigEndian.AppendUint64(b, c.cookie)
	if f == formExtended {
		b = binary.BigEndian.AppendUint64(b, c.off)
		return binary.BigEndian.AppendUint64(b, c.n)
	}
	return binary.BigEndian.AppendUint32(b, uint32(c.n))
}

// parseChunk decodes a header of f.chunkLen() bytes whose magic was looked at.
func parseChunk(b []byte, f form) chunk {
	c := chunk{
		flags: binary.BigEndian.Uint16(b[4:]), kind: binary.BigEndian.Uint16(b[6:]), cookie: binary.BigEndian.Uint64(b[8:]),
	}
	if f == formExtended {
		c.off, c.n = binary.BigEndian.Uint64(b[16:]), binary.BigEndian.Uint64(b[24:])
	} else {
		c.n = uint64(binary.BigEndian.Uint32(b[16:]))
	}
	return c
}

// appendString writes a string with its length in 32 bits in front.
func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// cutString reads a string with its length in 32 bits in front.
func cutString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 4 {
		return "", nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if n > maxString || int(n) > len(b)-4 {
		return "", nil, false
	}
	return string(b[4 : 4+n]), b[4+n:], true
}
