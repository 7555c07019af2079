package libvirt

import (
	"encoding/binary"
	"fmt"
	"io"
)

// MaxMessage bounds one packet, in bytes, as libvirt itself does.
const MaxMessage = 32 << 20

const headerBytes = 4 + 6*4

// Programs, both in version 1.
const (
	programRemote = 0x20008086
	programQEMU   = 0x20008087
	version       = 1
)

// Types and states of packets.
const (
	typeCall  = 0
	typeReply = 1

	statusOK    = 0
	statusError = 1
)

// packet is one message of either side.
type packet struct {
	program, procedure, kind, serial, status uint32
	payload                                  []byte
}

// encode puts the header before the payload.
func (p *packet) encode() ([]byte, error) {
	if len(p.payload) > MaxMessage-headerBytes {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLong, len(p.payload))
	}
	e := encoder{b: make([]byte, 0, headerBytes+len(p.payload))}
	for _, v := range []uint32{uint32(headerBytes + len(p.payload)), p.program, version, p.procedure, p.kind, p.serial, p.status} {
		e.uint(v)
	}
	return append(e.b, p.payload...), nil
}

// readPacket reads the next packet. Memory is taken as bytes come, not as a length announces them.
func readPacket(r io.Reader) (*packet, error) {
	var head [headerBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint32(head[:])
	if length > MaxMessage {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLong, length)
	}
	if length < headerBytes {
		return nil, fmt.Errorf("%w: a packet of %d bytes", ErrProtocol, length)
	}
	payload, err := io.ReadAll(io.LimitReader(r, int64(length-headerBytes)))
	if err != nil {
		return nil, err
	}
	if len(payload) < int(length-headerBytes) {
		return nil, io.ErrUnexpectedEOF
	}
	d := decoder{b: head[4:]}
	p := &packet{program: d.uint(), payload: payload}
	if v := d.uint(); v != version {
		return nil, fmt.Errorf("%w: version %d of program %#x", ErrProtocol, v, p.program)
	}
	p.procedure, p.kind, p.serial, p.status = d.uint(), d.uint(), d.uint(), d.uint()
	return p, d.end()
}
