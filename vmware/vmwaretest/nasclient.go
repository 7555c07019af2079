package vmwaretest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// nasClient is a host's side of one NFS version 3 mount, after RFC 1813. It asks the port mapper (RFC 1833) where the server
// is, and mounts hard: a call that meets a dead connection is made again by another, until its patience ends.
type nasClient struct {
	host, path string
	mapper     string // HOST:PORT of the port mapper
	stopping   <-chan struct{}

	mu   sync.Mutex
	conn net.Conn
	xid  uint32
	root []byte // handle
}

const (
	nasCall     = 5 * time.Second // for one answer
	nasPatience = 3 * time.Second // for a server that is away
	nasPause    = 20 * time.Millisecond
	nasChunk    = 64 << 10 // bytes of one read or write
	nasMessage  = 4 << 20  // bytes of one answer
	nasHandle   = 64       // bytes of a handle
	nasNames    = 4096     // of one folder
)

// Programs, versions and procedures.
const (
	rpcMapper, rpcNFS, rpcMount                               = 100000, 100003, 100005
	nfsSetAttr, nfsLookup, nfsRead, nfsWrite, nfsCreate       = 2, 3, 6, 7, 8
	nfsMkdir, nfsRemove, nfsRmdir, nfsRename, nfsReadDirPlus  = 9, 12, 13, 14, 17
	nfsFolder, nfsFileSync, nfsUnchecked, mountMnt, mountUmnt = 2, 2, 0, 1, 3
)

// xdr is a message that is being made.
type xdr []byte

func (x xdr) u32(list ...uint32) xdr {
	for _, n := range list {
		x = binary.BigEndian.AppendUint32(x, n)
	}
	return x
}

func (x xdr) u64(n uint64) xdr { return binary.BigEndian.AppendUint64(x, n) }

func (x xdr) bytes(p []byte) xdr {
	x = append(x.u32(uint32(len(p))), p...)
	return append(x, make([]byte, (4-len(p)%4)%4)...)
}

// unx takes a message apart from the front. What is not there leaves bad.
type unx struct {
	b   []byte
	bad bool
}

func (u *unx) u32() uint32 {
	if len(u.b) < 4 {
		u.b, u.bad = nil, true
		return 0
	}
	n := binary.BigEndian.Uint32(u.b)
	u.b = u.b[4:]
	return n
}

func (u *unx) u64() uint64 {
	high := uint64(u.u32())
	return high<<32 | uint64(u.u32())
}

func (u *unx) bytes(most int) []byte {
	n := int64(u.u32())
	padded := (n + 3) &^ 3
	if n > int64(most) || padded > int64(len(u.b)) {
		u.b, u.bad = nil, true
		return nil
	}
	out := u.b[:n]
	u.b = u.b[padded:]
	return out
}

// nasInfo is what is used of a file's attributes.
type nasInfo struct {
	folder bool
	size   int64
	known  bool
}

// attributes are a flag, and behind it the 84 bytes of fattr3.
func (u *unx) attributes() (i nasInfo) {
	if u.u32() == 0 {
		return i
	}
	i.known, i.folder = true, u.u32() == nfsFolder
	for range 4 {
		u.u32()
	}
	i.size = int64(u.u64())
	for range 14 {
		u.u32()
	}
	return i
}

// nasStatus is an nfsstat3 that is no success.
type nasStatus struct {
	proc   uint32
	status uint32
}

func (e *nasStatus) Error() string {
	return fmt.Sprintf("NFS procedure %d: status %d", e.proc, e.status)
}

func (e *nasStatus) Unwrap() error {
	return map[uint32]error{1: fs.ErrPermission, 2: fs.ErrNotExist, 13: fs.ErrPermission, 17: fs.ErrExist, 28: syscall.ENOSPC}[e.status]
}

var errNASAnswer = errors.New("the server's answer is not what RFC 1813 says")

// call makes one call, by another connection where this one is dead.
func (c *nasClient) call(program, proc uint32, args xdr) (*unx, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	end := time.Now().Add(nasPatience)
	for {
		u, err := c.once(program, proc, args)
		var status *nasStatus
		if err == nil || errors.As(err, &status) || errors.Is(err, errNASAnswer) || time.Now().After(end) {
			return u, err
		}
		c.drop()
		select {
		case <-c.stopping:
			return nil, err
		case <-time.After(nasPause):
		}
	}
}

func (c *nasClient) drop() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

func (c *nasClient) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop()
}

func (c *nasClient) once(program, proc uint32, args xdr) (*unx, error) {
	if c.conn == nil {
		port, err := c.port()
		if err != nil {
			return nil, err
		}
		if c.conn, err = net.DialTimeout("tcp", net.JoinHostPort(c.host, strconv.Itoa(port)), nasCall); err != nil {
			c.conn = nil
			return nil, err
		}
	}
	if err := c.conn.SetDeadline(time.Now().Add(nasCall)); err != nil {
		return nil, err
	}
	c.xid++
	msg := append(rpcCall(c.xid, program, 3, proc), args...)
	if _, err := c.conn.Write(append(xdr(nil).u32(1<<31|uint32(len(msg))), msg...)); err != nil {
		return nil, err
	}
	answer, err := c.record()
	if err != nil {
		return nil, err
	}
	u, err := rpcAnswer(answer, c.xid)
	if err != nil {
		return nil, err
	}
	if status := u.u32(); status != 0 {
		return nil, &nasStatus{proc, status}
	}
	return u, nil
}

// rpcCall is the head of a call (RFC 5531, 9), by AUTH_UNIX as root.
func rpcCall(xid, program, version, proc uint32) xdr {
	who := xdr(nil).u32(0).bytes([]byte("esx")).u32(0, 0, 0)
	return xdr(nil).u32(xid, 0, 2, program, version, proc, 1).bytes(who).u32(0, 0)
}

func rpcAnswer(b []byte, xid uint32) (*unx, error) {
	u := &unx{b: b}
	if u.u32() != xid || u.u32() != 1 || u.u32() != 0 {
		return nil, fmt.Errorf("call %d: it was not accepted: %w", xid, errNASAnswer)
	}
	u.u32()
	u.bytes(400)
	if u.u32() != 0 || u.bad {
		return nil, fmt.Errorf("call %d: it was not carried out: %w", xid, errNASAnswer)
	}
	return u, nil
}

// record reads one message of the stream, of as many fragments as it has.
func (c *nasClient) record() (out []byte, err error) {
	for {
		var head [4]byte
		if _, err := io.ReadFull(c.conn, head[:]); err != nil {
			return nil, err
		}
		n := binary.BigEndian.Uint32(head[:])
		size := int(n &^ (1 << 31))
		if size > nasMessage-len(out) {
			return nil, fmt.Errorf("an answer of more than %d bytes: %w", nasMessage, errNASAnswer)
		}
		part := make([]byte, size)
		if _, err := io.ReadFull(c.conn, part); err != nil {
			return nil, err
		}
		if out = append(out, part...); n>>31 == 1 {
			return out, nil
		}
	}
}

// port asks the port mapper where NFS is served over TCP.
func (c *nasClient) port() (int, error) {
	conn, err := net.DialTimeout("udp", c.mapper, nasCall)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return 0, err
	}
	c.xid++
	if _, err := conn.Write(rpcCall(c.xid, rpcMapper, 2, 3).u32(rpcNFS, 3, 6, 0)); err != nil {
		return 0, err
	}
	answer := make([]byte, 512)
	n, err := conn.Read(answer)
	if err != nil {
		return 0, fmt.Errorf("port mapper at %s: %w", c.mapper, err)
	}
	u, err := rpcAnswer(answer[:n], c.xid)
	if err != nil {
		return 0, err
	}
	port := u.u32()
	if u.bad || port == 0 || port > 65535 {
		return 0, fmt.Errorf("port mapper at %s: NFS is not served", c.mapper)
	}
	return int(port), nil
}

func (c *nasClient) mount() error {
	u, err := c.call(rpcMount, mountMnt, xdr(nil).bytes([]byte(c.path)))
	if err != nil {
		return fmt.Errorf("mount %s: %w", c.path, err)
	}
	c.root = append([]byte(nil), u.bytes(nasHandle)...)
	if u.bad || len(c.root) == 0 {
		return errNASAnswer
	}
	return nil
}

func (c *nasClient) nfs(proc uint32, args xdr) (*unx, error) { return c.call(rpcNFS, proc, args) }

// nasFile is a file by its handle.
type nasFile struct {
	handle []byte
	nasInfo
}

func (c *nasClient) lookup(dir []byte, name string) (f nasFile, err error) {
	u, err := c.nfs(nfsLookup, xdr(nil).bytes(dir).bytes([]byte(name)))
	if err != nil {
		return f, fmt.Errorf("%s: %w", name, err)
	}
	f.handle = append([]byte(nil), u.bytes(nasHandle)...)
	f.nasInfo = u.attributes()
	if u.bad || !f.known {
		return f, fmt.Errorf("%s: %w", name, errNASAnswer)
	}
	return f, nil
}

func (c *nasClient) read(f nasFile, p []byte, off int64) error {
	for len(p) > 0 {
		n := min(len(p), nasChunk)
		u, err := c.nfs(nfsRead, xdr(nil).bytes(f.handle).u64(uint64(off)).u32(uint32(n)))
		if err != nil {
			return fmt.Errorf("read at %d: %w", off, err)
		}
		u.attributes()
		u.u32()
		u.u32()
		got := u.bytes(n)
		if u.bad || len(got) == 0 {
			return fmt.Errorf("read at %d: %w", off, errors.Join(errNASAnswer, io.ErrUnexpectedEOF))
		}
		copy(p, got)
		p, off = p[len(got):], off+int64(len(got))
	}
	return nil
}

// write writes what is durable when it is answered.
func (c *nasClient) write(f nasFile, p []byte, off int64) error {
	for len(p) > 0 {
		part := p[:min(len(p), nasChunk)]
		u, err := c.nfs(nfsWrite, xdr(nil).bytes(f.handle).u64(uint64(off)).u32(uint32(len(part)), nfsFileSync).bytes(part))
		if err != nil {
			return fmt.Errorf("write at %d: %w", off, err)
		}
		u.before()
		n, stable := int64(u.u32()), u.u32()
		if u.bad || n < 1 || n > int64(len(part)) || stable != nfsFileSync {
			return fmt.Errorf("write at %d: %w", off, errNASAnswer)
		}
		p, off = p[n:], off+n
	}
	return nil
}

// before are the attributes that a file had before a call, and those that it has after it.
func (u *unx) before() {
	if u.u32() == 1 {
		for range 6 {
			u.u32()
		}
	}
	u.attributes()
}

// nothing sets no attribute, and empty a length of zero.
var (
	nothing = xdr(nil).u32(0, 0, 0, 0, 0, 0)
	empty   = xdr(nil).u32(0, 0, 0, 1, 0, 0, 0, 0)
)

// put makes a file of that content, or writes over one.
func (c *nasClient) put(dir []byte, name string, content []byte) error {
	if _, err := c.nfs(nfsCreate, append(xdr(nil).bytes(dir).bytes([]byte(name)).u32(nfsUnchecked), nothing...)); err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	f, err := c.lookup(dir, name)
	if err != nil {
		return err
	}
	if f.size > 0 {
		if _, err := c.nfs(nfsSetAttr, append(xdr(nil).bytes(f.handle), empty...).u32(0)); err != nil {
			return fmt.Errorf("empty %s: %w", name, err)
		}
	}
	return c.write(f, content, 0)
}

// folder makes a folder, or takes the one that is there.
func (c *nasClient) folder(dir []byte, name string) ([]byte, error) {
	_, err := c.nfs(nfsMkdir, append(xdr(nil).bytes(dir).bytes([]byte(name)), nothing...))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make folder %s: %w", name, err)
	}
	f, err := c.lookup(dir, name)
	return f.handle, err
}

func (c *nasClient) rename(dir []byte, from, to string) error {
	_, err := c.nfs(nfsRename, xdr(nil).bytes(dir).bytes([]byte(from)).bytes(dir).bytes([]byte(to)))
	return err
}

func (c *nasClient) remove(dir []byte, name string, folder bool) error {
	proc := uint32(nfsRemove)
	if folder {
		proc = nfsRmdir
	}
	_, err := c.nfs(proc, xdr(nil).bytes(dir).bytes([]byte(name)))
	return err
}

// list are the files of a folder, but for itself and the one above.
func (c *nasClient) list(dir []byte) (map[string]nasFile, error) {
	out := map[string]nasFile{}
	cookie, check := uint64(0), uint64(0)
	for len(out) < nasNames {
		u, err := c.nfs(nfsReadDirPlus, xdr(nil).bytes(dir).u64(cookie).u64(check).u32(8192, 65536))
		if err != nil {
			return nil, fmt.Errorf("list: %w", err)
		}
		u.attributes()
		check = u.u64()
		n := 0
		for ; u.u32() == 1 && !u.bad; n++ {
			u.u64()
			name := string(u.bytes(255))
			cookie = u.u64()
			f := nasFile{nasInfo: u.attributes()}
			if u.u32() == 1 {
				f.handle = append([]byte(nil), u.bytes(nasHandle)...)
			}
			if name != "." && name != ".." {
				out[name] = f
			}
		}
		switch last := u.u32() == 1; {
		case u.bad:
			return nil, fmt.Errorf("list: %w", errNASAnswer)
		case last || n == 0:
			return out, nil
		}
	}
	return nil, fmt.Errorf("a folder of more than %d files: %w", nasNames, errNASAnswer)
}
