package smbtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Pipes of a guest are unix sockets in Samba's folder np. Samba begins with a message that says who the client is, and
// wants to know what kind of pipe it is. Both are NDR behind a length:
//
//	0  4  length of the rest, big-endian
//	4  4  NPAM
//	8  4  level, little-endian
//	12    what the level has
//
// The answer: level, level, 2 bytes kind of pipe (1: bytes), 2 bytes device state, 8 bytes size, 4 bytes status.

// maxHello is how long Samba's message may be: it has the whole token of the client.
const maxHello = 1 << 20

// ListenPipe makes a pipe of the guest. Only one may have its name.
func (s *Samba) ListenPipe(name string) (net.Listener, error) {
	if name == "" || name != filepath.Base(name) {
		return nil, fmt.Errorf("not a pipe's name: %q", name)
	}
	l, err := net.Listen("unix", filepath.Join(s.dir, "rpc", "np", name))
	if err != nil {
		return nil, err
	}
	return &pipes{Listener: l}, nil
}

type pipes struct{ net.Listener }

// Accept waits for the next client.
func (p *pipes) Accept() (net.Conn, error) {
	c, err := p.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if err := welcome(c); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func welcome(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	var length [4]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n < 8 || n > maxHello {
		return fmt.Errorf("a hello of %d bytes", n)
	}
	hello := make([]byte, n)
	if _, err := io.ReadFull(c, hello); err != nil {
		return err
	}
	if string(hello[:4]) != "NPAM" {
		return errors.New("not Samba's hello")
	}
	level := hello[4:8]
	answer := append([]byte("NPAM"), level...)
	answer = append(answer, level...)
	answer = append(answer, 1, 0, 0xff, 0)
	answer = append(answer, 0, 0, 0, 0, 0, 0, 0, 0)[:20]
	answer = binary.LittleEndian.AppendUint64(answer, 4096)
	answer = binary.LittleEndian.AppendUint32(answer, 0)
	if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(answer))), answer...)); err != nil {
		return err
	}
	return c.SetDeadline(time.Time{})
}

// Pipes lists the pipes that there are. Where that cannot be told, one of them says why.
func (s *Samba) Pipes() (names []string) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "rpc", "np"))
	if err != nil {
		return []string{"unknown: " + err.Error()}
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
