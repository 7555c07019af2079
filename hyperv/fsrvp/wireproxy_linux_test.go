package fsrvp

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// opNames are the protocol's calls by their number.
var opNames = []string{"GetSupportedVersion", "SetContext", "StartShadowCopySet", "AddToShadowCopySet", "CommitShadowCopySet", "ExposeShadowCopySet",
	"RecoveryCompleteShadowCopySet", "AbortShadowCopySet", "IsPathSupported", "IsPathShadowCopied", "GetShareMapping", "DeleteShareMapping",
	"PrepareShadowCopySet"}

// wireProxy stands between a session and a file server. It sees each call of the protocol by the number in its header, which is not sealed, and
// ends the session before a call arrives, or when it is done and its answer is lost.
type wireProxy struct {
	addr string

	mu    sync.Mutex
	ops   []string // that came so far
	at    int      // the call that the session dies at, from 1; 0: none
	after bool     // its answer is there
	end   func()   // kills the session, and returns when it is dead
}

// startProxy leads to a file server.
func startProxy(t *testing.T, server string) *wireProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &wireProxy{addr: l.Addr().String()}
	var all sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", server)
			if err != nil {
				in.Close()
				continue
			}
			mu.Lock()
			open[in], open[out] = true, true
			mu.Unlock()
			c := &proxied{p: p, in: in, out: out}
			all.Go(c.requests)
			all.Go(c.answers)
		}
	})
	return p
}

// arm begins to count anew.
func (p *wireProxy) arm(at int, after bool, end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ops, p.at, p.after, p.end = nil, at, after, end
}

// seen are the calls since then.
func (p *wireProxy) seen() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.ops...)
}

// call notes one. It returns what ends the session, if that is to die here, and whether before the call arrives.
func (p *wireProxy) call(op string) (end func(), before bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ops = append(p.ops, op)
	if p.at == 0 || len(p.ops) != p.at {
		return nil, false
	}
	return p.end, !p.after
}

// proxied is one connection.
type proxied struct {
	p       *wireProxy
	in, out net.Conn

	mu  sync.Mutex
	end func() // ends the session when the answer is there
}

func (c *proxied) shut() { c.in.Close(); c.out.Close() }

func (c *proxied) requests() {
	defer c.shut()
	for {
		frame, err := readFrame(c.in)
		if err != nil {
			return
		}
		if n, ok := opnum(frame, requestPDU); ok {
			op := "?"
			if int(n) < len(opNames) {
				op = opNames[n]
			}
			end, before := c.p.call(op)
			if end != nil && before {
				end()
				return
			}
			c.mu.Lock()
			c.end = end
			c.mu.Unlock()
		}
		if _, err := c.out.Write(frame); err != nil {
			return
		}
	}
}

func (c *proxied) answers() {
	defer c.shut()
	for {
		frame, err := readFrame(c.out)
		if err != nil {
			return
		}
		c.mu.Lock()
		end := c.end
		c.mu.Unlock()
		if end != nil {
			if _, ok := opnum(frame, responsePDU); ok {
				end()
				return
			}
		}
		if _, err := c.in.Write(frame); err != nil {
			return
		}
	}
}

// readFrame reads one message of SMB with the length before it.
func readFrame(r io.Reader) ([]byte, error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	frame := make([]byte, 4+binary.BigEndian.Uint32(head)&0xffffff)
	copy(frame, head)
	_, err := io.ReadFull(r, frame[4:])
	return frame, err
}

// Kinds of messages of remote procedure calls.
const (
	requestPDU  = 0
	responsePDU = 2
)

// opnum finds a message of a remote procedure call in one of SMB, and the number of its procedure: version 5.0, its kind, flags, and how
// numbers are written. Files that are read here have no such bytes: only what is of 4 KiB or less is looked at.
func opnum(frame []byte, kind byte) (uint16, bool) {
	if len(frame) > 4<<10 || len(frame) < 68 {
		return 0, false
	}
	body := frame[68:] // behind SMB's own header
	for {
		i := bytes.Index(body, []byte{5, 0, kind})
		if i < 0 || len(body) < i+24 {
			return 0, false
		}
		if body = body[i:]; bytes.Equal(body[4:8], []byte{0x10, 0, 0, 0}) {
			return binary.LittleEndian.Uint16(body[22:]), true
		}
		body = body[1:]
	}
}
