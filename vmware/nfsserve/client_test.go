package nfsserve

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// client speaks NFS version 3 as RFC 1813 has it, with no code of the server's library.
type client struct {
	t    *testing.T
	conn net.Conn
	xid  uint32
	wait time.Duration
}

func dial(t *testing.T, addr string) *client {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return &client{t: t, conn: conn, wait: 10 * time.Second}
}

// xdr builds arguments: numbers are four bytes, uint64 eight, everything else is opaque with its length.
func xdr(args ...any) (b []byte) {
	for _, a := range args {
		switch a := a.(type) {
		case int:
			b = binary.BigEndian.AppendUint32(b, uint32(a))
		case uint64:
			b = binary.BigEndian.AppendUint64(b, a)
		case string:
			b = append(b, xdr([]byte(a))...)
		case []byte:
			b = binary.BigEndian.AppendUint32(b, uint32(len(a)))
			b = append(b, a...)
			b = append(b, make([]byte, (4-len(a)%4)%4)...)
		}
	}
	return b
}

// answer is taken apart from the front.
type answer struct {
	b   []byte
	err error
}

func (a *answer) word() int {
	if len(a.b) < 4 {
		a.err = io.ErrUnexpectedEOF
		return 0
	}
	w := binary.BigEndian.Uint32(a.b)
	a.b = a.b[4:]
	return int(w)
}

func (a *answer) long() uint64 { hi := uint64(a.word()); return hi<<32 | uint64(a.word()) }

func (a *answer) opaque() []byte {
	n := a.word()
	if padded := (n + 3) &^ 3; padded <= len(a.b) {
		out := a.b[:n]
		a.b = a.b[padded:]
		return out
	}
	a.err = io.ErrUnexpectedEOF
	return nil
}

// attributes are fattr3: type, mode, links, uid, gid, size, …: 84 bytes.
func (a *answer) attributes() (size uint64) {
	if a.word() == 0 {
		return 0
	}
	for range 5 {
		a.word()
	}
	size = a.long()
	for range 14 {
		a.word()
	}
	return size
}

// wcc is wcc_data.
func (a *answer) wcc() {
	if a.word() == 1 {
		for range 6 {
			a.word()
		}
	}
	a.attributes()
}

func (c *client) call(program, version, proc int, args []byte) (*answer, error) {
	c.xid++
	unix := xdr(0, "host", 0, 0, 0) // AUTH_UNIX: stamp, machine, uid, gid, no groups
	msg := append(xdr(int(c.xid), 0, 2, program, version, proc, 1, unix, 0, 0), args...)
	if err := c.send(msg); err != nil {
		return nil, err
	}
	return c.receive()
}

func (c *client) send(msg []byte) error {
	c.conn.SetDeadline(time.Now().Add(c.wait))
	_, err := c.conn.Write(append(binary.BigEndian.AppendUint32(nil, 1<<31|uint32(len(msg))), msg...))
	return err
}

func (c *client) receive() (*answer, error) {
	var head [4]byte
	if _, err := io.ReadFull(c.conn, head[:]); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:])&^(1<<31))
	if _, err := io.ReadFull(c.conn, body); err != nil {
		return nil, err
	}
	a := &answer{b: body}
	if xid, reply, state := a.word(), a.word(), a.word(); xid != int(c.xid) || reply != 1 || state != 0 {
		return nil, fmt.Errorf("call %d: answer %d, %d, %d", c.xid, xid, reply, state)
	}
	a.word()
	a.opaque()
	if status := a.word(); status != 0 {
		return nil, fmt.Errorf("RPC status %d", status)
	}
	return a, a.err
}

// status is an nfsstat3 that is not OK.
type status int

func (s status) Error() string { return fmt.Sprintf("NFS3 status %d", int(s)) }

const (
	noSpace, stale = status(28), status(70)
)

func (c *client) nfs(proc int, args []byte) (*answer, error) {
	a, err := c.call(programNFS, 3, proc, args)
	if err != nil {
		return nil, err
	}
	if s := a.word(); s != 0 {
		return nil, status(s)
	}
	return a, nil
}

func (c *client) mount(path string) ([]byte, error) {
	a, err := c.call(programMount, 3, 1, xdr(path))
	if err != nil {
		return nil, err
	}
	if s := a.word(); s != 0 {
		return nil, status(s)
	}
	return a.opaque(), a.err
}

func (c *client) lookup(dir []byte, name string) (handle []byte, size uint64, err error) {
	a, err := c.nfs(3, xdr(dir, name))
	if err != nil {
		return nil, 0, err
	}
	handle = a.opaque()
	return handle, a.attributes(), a.err
}

func (c *client) read(file []byte, off uint64, n int) ([]byte, error) {
	a, err := c.nfs(6, xdr(file, off, n))
	if err != nil {
		return nil, err
	}
	a.attributes()
	a.word()
	a.word()
	return a.opaque(), a.err
}

func (c *client) write(file []byte, off uint64, p []byte) error {
	a, err := c.nfs(7, xdr(file, off, len(p), 2, p))
	if err != nil {
		return err
	}
	a.wcc()
	if n := a.word(); n != len(p) {
		return fmt.Errorf("%d of %d bytes", n, len(p))
	}
	if stable := a.word(); stable != 2 {
		return errors.New("not stable")
	}
	return a.err
}

// none is sattr3 that sets nothing.
var none = xdr(0, 0, 0, 0, 0, 0)

func (c *client) create(dir []byte, name string) ([]byte, error) {
	a, err := c.nfs(8, append(xdr(dir, name, 0), none...))
	if err != nil {
		return nil, err
	}
	a.word()
	return a.opaque(), a.err
}

func (c *client) truncate(file []byte, size uint64) error {
	_, err := c.nfs(2, append(append(xdr(file, 0, 0, 0, 1, size), xdr(0, 0)...), xdr(0)...))
	return err
}

func (c *client) remove(dir []byte, name string) error {
	_, err := c.nfs(12, xdr(dir, name))
	return err
}

func (c *client) rename(dir []byte, from, to string) error {
	_, err := c.nfs(14, xdr(dir, from, dir, to))
	return err
}

// list is READDIRPLUS.
func (c *client) list(dir []byte) (names []string, err error) {
	a, err := c.nfs(17, xdr(dir, uint64(0), uint64(0), 4096, 32768))
	if err != nil {
		return nil, err
	}
	a.attributes()
	a.long()
	for a.word() == 1 && a.err == nil {
		a.long()
		names = append(names, string(a.opaque()))
		a.long()
		a.attributes()
		if a.word() == 1 {
			a.opaque()
		}
	}
	return names, a.err
}

// space is FSSTAT: what is there, and what is free.
func (c *client) space(dir []byte) (size, free uint64, err error) {
	a, err := c.nfs(18, xdr(dir))
	if err != nil {
		return 0, 0, err
	}
	a.attributes()
	size, free = a.long(), a.long()
	return size, free, a.err
}
