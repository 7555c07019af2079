package nfctest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"sync"
	"time"
)

// Bounds of one session.
const (
	defaultBuffer = 64 << 10
	maxBuffer     = 2 << 20 // larger ones were refused by the hosts seen
	defaultCount  = 4
	maxCount      = 64
	maxFiles      = 16
	maxPath       = 4096
	maxKey        = 256
	maxValue      = 64 << 10
	maxTransfer   = 64 << 20
	handles       = 0x1122334455667788 // the first file's handle
)

// session is one client of the disk service, from the handshake on. The goroutine in run reads; reads of disks answer by
// themselves.
type session struct {
	s      *Server
	ticket Ticket
	in     *bufio.Reader
	conn   net.Conn

	buffer, count int           // bytes of an answer's fragment, and how many are under way
	most          int           // bytes of a fragment that the client may send
	memory        int64         // what is reserved for the buffers
	slots         chan struct{} // one for each read under way
	pool          sync.Pool     // of *[]byte, each a fragment with its head
	reads         sync.WaitGroup
	files         map[uint64]*file
	next          uint64
	writes        map[uint32]*pending
	taken         []byte // of the fragment of a write at hand

	send sync.Mutex // whole frames
}

type file struct {
	disk  Disk
	path  string
	write bool
}

func newSession(s *Server, c net.Conn, t Ticket) *session {
	return &session{
		s: s, ticket: t, conn: c, in: bufio.NewReaderSize(c, 64<<10), files: map[uint64]*file{}, next: handles,
		writes: map[uint32]*pending{},
	}
}

// run serves frames until the client has said good-bye, or anything is wrong.
func (n *session) run() {
	defer n.end()
	for {
		head, err := n.in.Peek(4)
		if err != nil {
			return
		}
		if binary.LittleEndian.Uint32(head) == classicComplete {
			_, _ = expect(n.in, classicComplete)
			return
		}
		var f frame
		if err := f.read(n.in); err != nil {
			return
		}
		if err := n.serve(&f); err != nil {
			return
		}
	}
}

func (n *session) end() {
	n.conn.Close()
	n.reads.Wait()
	for handle := range n.files {
		n.closeFile(handle)
	}
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	n.s.memory -= n.memory
}

// serve answers one frame. Its errors end the session; what the client may hear is an error frame.
func (n *session) serve(f *frame) error {
	if f.kind != typeOpenSession && n.buffer == 0 {
		return fmt.Errorf("nfctest: type %d before the session is open", f.kind)
	}
	if f.kind != typeIO { // transfers look for themselves, after their bytes are read
		if fault, ok := n.s.frameFault(f.kind); ok {
			if fault.Kind == Refuse {
				if err := n.drain(f); err != nil {
					return err
				}
				return n.refuse(f.op, fault.Code)
			}
			n.wait(fault.Delay)
		}
	}
	switch f.kind {
	case typeOpenSession:
		return n.openSession(f)
	case typeSocket:
		return n.reply(f, func(p []byte) {
			binary.LittleEndian.PutUint32(p, 256<<10)
			binary.LittleEndian.PutUint32(p[4:], 256<<10)
			binary.LittleEndian.PutUint32(p[8:], 1)
		})
	case typePool:
		return n.reply(f, nil)
	case typeOpenFile:
		return n.openFile(f)
	case typeCloseFile:
		n.reads.Wait()
		if !n.closeFile(f.long(0)) {
			return n.refuse(f.op, CodeParameter)
		}
		return n.reply(f, nil)
	case typeCloseSession:
		n.reads.Wait()
		return n.reply(f, nil)
	case typeDDB:
		return n.key(f)
	case typeAllocated:
		return n.allocated(f)
	default:
		return n.transfer(f)
	}
}

// drain reads what follows a payload of which nothing is wanted.
func (n *session) drain(f *frame) error {
	switch f.kind {
	case typeOpenFile:
		_, err := n.text(f.word(0), maxPath)
		return err
	case typeDDB:
		_, err := n.text(f.word(8), maxKey)
		return err
	}
	return nil
}

// wait holds an answer back, but never the end of the server.
func (n *session) wait(d time.Duration) {
	select {
	case <-time.After(d):
	case <-n.s.ctx.Done():
	}
}

// openSession takes the client's buffers from the host's memory.
func (n *session) openSession(f *frame) error {
	size, count := f.word(4), f.word(8)
	if size == 0 {
		size = defaultBuffer
	}
	if count == 0 {
		count = defaultCount
	}
	if n.buffer != 0 || size > maxBuffer || size%sectorBytes != 0 || count > maxCount {
		return n.refuse(f.op, CodeParameter)
	}
	if !n.reserve(int64(size) * int64(count)) {
		return n.refuse(f.op, CodeMemory)
	}
	n.buffer, n.most, n.count = int(size), int(size), int(count)
	if cut := n.s.opts.FragmentBytes; cut > 0 {
		n.buffer = min(n.buffer, cut)
	}
	n.slots = make(chan struct{}, n.count)
	n.pool.New = func() any { p := make([]byte, headBytes+ioBytes+n.buffer); return &p }
	return n.reply(f, nil)
}

func (n *session) reserve(bytes int64) bool {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	if n.s.memory+bytes > n.s.opts.BufferMemory {
		return false
	}
	n.s.memory += bytes
	n.memory = bytes
	return true
}

func (n *session) openFile(f *frame) error {
	path, err := n.text(f.word(0), maxPath)
	if err != nil {
		return err
	}
	flags := f.word(20)
	write := flags&4 == 0
	if f.word(16) != 2 || path == "" || len(n.files) >= maxFiles {
		return n.refuse(f.op, CodeParameter)
	}
	if write && !n.ticket.Write {
		return n.refuse(f.op, CodeReadOnly)
	}
	disk, err := n.s.opts.Open(n.s.ctx, n.ticket.Session, path, write)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return n.refuse(f.op, CodeReadOnly)
	case errors.Is(err, fs.ErrNotExist):
		return n.refuse(f.op, CodeNotFound)
	case err != nil:
		return n.refuse(f.op, CodeIO)
	}
	handle := n.next
	n.next++
	n.files[handle] = &file{disk: disk, path: path, write: write}
	n.s.mu.Lock()
	n.s.open[path]++
	n.s.mu.Unlock()
	return n.reply(f, func(p []byte) {
		binary.LittleEndian.PutUint64(p[8:], handle)
		binary.LittleEndian.PutUint32(p[16:], 2)
		binary.LittleEndian.PutUint32(p[20:], flags)
		binary.LittleEndian.PutUint64(p[28:], uint64(disk.Size()))
		binary.LittleEndian.PutUint32(p[36:], sectorBytes)
		binary.LittleEndian.PutUint32(p[40:], uint32(min(disk.Size()/(255*63*sectorBytes), 1<<31)))
		binary.LittleEndian.PutUint32(p[44:], 255)
		binary.LittleEndian.PutUint32(p[48:], 63)
	})
}

func (n *session) closeFile(handle uint64) bool {
	f, ok := n.files[handle]
	if !ok {
		return false
	}
	delete(n.files, handle)
	_ = f.disk.Close() // the wire has no word for it
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	if n.s.open[f.path]--; n.s.open[f.path] == 0 {
		delete(n.s.open, f.path)
	}
	return true
}

// key answers an entry of the disk data base.
func (n *session) key(f *frame) error {
	name, err := n.text(f.word(8), maxKey)
	if err != nil {
		return err
	}
	file, ok := n.files[f.long(0)]
	if !ok {
		return n.refuse(f.op, CodeParameter)
	}
	var value string
	if keys, ok := file.disk.(Keys); ok {
		if v, found := keys.Key(name); found && len(v) <= maxValue {
			value = v
		}
	}
	p := make([]byte, headBytes+16, headBytes+16+len(value))
	putHead(p, f.kind, 16, f.op)
	binary.LittleEndian.PutUint32(p[headBytes+12:], uint32(len(value)))
	return n.write(append(p, value...))
}

// text reads a string that follows a payload.
func (n *session) text(size uint32, most uint32) (string, error) {
	if size > most {
		return "", fmt.Errorf("nfctest: a text of %d bytes", size)
	}
	p := make([]byte, size)
	_, err := io.ReadFull(n.in, p)
	return string(p), err
}

// reply answers with a payload as large as the request's, zero but for what fill puts there.
func (n *session) reply(f *frame, fill func(payload []byte)) error {
	p := make([]byte, headBytes+f.size)
	putHead(p, f.kind, f.size, f.op)
	if fill != nil {
		fill(p[headBytes:])
	}
	return n.write(p)
}

func (n *session) refuse(op, code uint32) error {
	p := make([]byte, headBytes+errBytes)
	putHead(p, typeError, errBytes, op)
	binary.LittleEndian.PutUint32(p[headBytes:], code)
	return n.write(p)
}

func (n *session) write(p []byte) error {
	n.send.Lock()
	defer n.send.Unlock()
	_, err := n.conn.Write(p)
	return err
}
