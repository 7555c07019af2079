// Package smbwire is what an SMB client must have below it to be relied on: a connection that nothing unsigned leaves, that
// sees what the other side is, and calls that end in time. The store on a share and the way into a Windows guest stand on it.
package smbwire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// ErrNotEncrypted says that something was to leave in the clear that was not to.
var ErrNotEncrypted = errors.New("the other side does not encrypt")

// ErrUnsigned says that the other side let the account in without a signature: as its guest account, or as nobody. Asked to
// require signatures the library goes on unsigned where the last answer to a logon says so, and so would everybody be
// let in who changes that one answer on the way.
var ErrUnsigned = errors.New("let in without signatures, as a guest or as nobody")

// Wire is a TCP connection with a deadline for what is written, that sends a message and its length in one piece, and
// looks at the heads of messages: what they are signed with, and how a logon was answered.
type Wire struct {
	net.Conn
	in      *bufio.Reader
	timeout time.Duration
	head    []byte // the length of the message that is written next

	left      int    // bytes of the message that is being read
	seen      []byte // its beginning, length included
	answered  bool   // anything at all
	Dialect   atomic.Uint32
	Status    atomic.Uint32 // of the last answer to a logon
	Encrypted atomic.Bool
	Bare      atomic.Bool // the last message sent was neither signed nor encrypted
	Strict    atomic.Bool // nothing bare is sent any more
	Sealed    atomic.Bool // nothing is sent any more that is not encrypted
	Plain     atomic.Bool // something was to be, and was not
	Broken    atomic.Bool
}

func newWire(conn net.Conn, timeout time.Duration) *Wire {
	return &Wire{Conn: conn, in: bufio.NewReaderSize(conn, 64<<10), timeout: timeout}
}

// Heads of messages (MS-SMB2 2.1, 2.2.1.2, 2.2.41; MS-CIFS 2.2.3.1).
const (
	lengthSize    = 4
	statusAt      = 8
	commandAt     = 12
	flagsAt       = 16
	flagSigned    = 0x08
	commandLogon  = 1
	headOfMessage = lengthSize + 24
)

var (
	smb1      = []byte{0xff, 'S', 'M', 'B'}
	smb2head  = []byte{0xfe, 'S', 'M', 'B'}
	transform = []byte{0xfd, 'S', 'M', 'B'}
)

// What the first answer was.
const (
	SpokeNothing uint32 = iota
	SpokeSMB2
	SpokeSMB1
	SpokeOther
)

func (w *Wire) Read(p []byte) (int, error) {
	n, err := w.in.Read(p)
	if err != nil {
		w.Broken.Store(true)
	}
	if !w.Strict.Load() {
		w.look(p[:n])
	}
	return n, err
}

// look follows the messages until the logon is over.
func (w *Wire) look(p []byte) {
	for len(p) > 0 {
		if w.left == 0 && len(w.seen) < lengthSize {
			take := min(lengthSize-len(w.seen), len(p))
			w.seen, p = append(w.seen, p[:take]...), p[take:]
			if len(w.seen) == lengthSize {
				w.left = int(binary.BigEndian.Uint32(w.seen) & 0xffffff)
				if w.seen[0] != 0 && !w.answered { // MS-SMB2 2.1
					w.answered = true
					w.Dialect.Store(SpokeOther)
				}
			}
			continue
		}
		if w.left == 0 {
			w.seen = w.seen[:0]
			continue
		}
		take := min(w.left, len(p))
		if more := headOfMessage - len(w.seen); more > 0 {
			w.seen = append(w.seen, p[:min(more, take)]...)
		}
		w.left, p = w.left-take, p[take:]
		if w.left == 0 {
			w.note(w.seen[lengthSize:])
			w.seen = w.seen[:0]
		}
	}
}

func (w *Wire) note(message []byte) {
	first := !w.answered
	w.answered = true
	switch {
	case bytes.HasPrefix(message, smb2head) && len(message) >= flagsAt:
		if first {
			w.Dialect.Store(SpokeSMB2)
		}
		if binary.LittleEndian.Uint16(message[commandAt:]) == commandLogon {
			w.Status.Store(binary.LittleEndian.Uint32(message[statusAt:]))
		}
	case first && bytes.HasPrefix(message, smb1):
		w.Dialect.Store(SpokeSMB1)
	case first:
		w.Dialect.Store(SpokeOther)
	}
}

// Write keeps the four bytes of a length back until the message comes: the library writes them alone, and two small
// segments for each request cost more than one.
func (w *Wire) Write(p []byte) (int, error) {
	if w.head == nil && len(p) == lengthSize {
		w.head = bytes.Clone(p)
		return len(p), nil
	}
	encrypted := bytes.HasPrefix(p, transform)
	bare := !encrypted && (len(p) <= flagsAt || p[flagsAt]&flagSigned == 0)
	w.Encrypted.Store(encrypted)
	w.Bare.Store(bare)
	if !encrypted && w.Sealed.Load() {
		w.Plain.Store(true)
		w.Broken.Store(true)
		return 0, ErrNotEncrypted
	}
	if bare && w.Strict.Load() {
		w.Broken.Store(true)
		return 0, ErrUnsigned
	}
	if err := w.Conn.SetWriteDeadline(time.Now().Add(w.timeout)); err != nil {
		w.Broken.Store(true)
		return 0, err
	}
	buffers := net.Buffers{w.head, p}
	head := int64(len(w.head))
	w.head = nil
	n, err := buffers.WriteTo(w.Conn)
	if err != nil {
		w.Broken.Store(true)
	}
	return int(max(n-head, 0)), err
}
