package vmwaretest

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// Bounds of the control connection.
const (
	controlLine = 8 << 20          // bytes of one request or answer
	controlData = 4 << 20          // bytes of content in one
	controlIdle = 30 * time.Minute // how long a connection may say nothing
)

// order is one line to a server, and answer the line that comes back.
type order struct {
	Token string `json:"token,omitempty"` // on the first line only
	Do    string `json:"do"`
	VM    string `json:"vm,omitempty"`
	Disk  int    `json:"disk,omitempty"`
	Off   int64  `json:"off,omitempty"`
	N     int64  `json:"n,omitempty"`
	Data  []byte `json:"data,omitempty"`
	Name  string `json:"name,omitempty"`
	Fault *Fault `json:"fault,omitempty"`
}

type answer struct {
	Error string   `json:"error,omitempty"`
	Data  []byte   `json:"data,omitempty"`
	N     int64    `json:"n,omitempty"`
	Text  string   `json:"text,omitempty"`
	Lines []string `json:"lines,omitempty"`
}

// Control steers a server from another process: it writes as guests do, switches power, sets faults and asks what is left over.
// Its methods may be called at once; they go one after the other.
type Control struct {
	mu   sync.Mutex
	conn net.Conn
	in   *bufio.Reader
}

// DialControl connects to a server's control address, "unix:PATH" or "tcp:HOST:PORT", with its token.
func DialControl(ctx context.Context, address, token string) (*Control, error) {
	network, where, ok := strings.Cut(address, ":")
	if !ok || network != "unix" && network != "tcp" {
		return nil, fmt.Errorf("control address %q: unix:PATH or tcp:HOST:PORT", address)
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, where)
	if err != nil {
		return nil, err
	}
	c := &Control{conn: conn, in: bufio.NewReaderSize(conn, 64<<10)}
	if _, err := c.ask(ctx, order{Token: token, Do: "hello"}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}

// Close ends the connection; the server goes on.
func (c *Control) Close() error { return c.conn.Close() }

func (c *Control) ask(ctx context.Context, o order) (*answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })()
	line, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	if _, err := c.conn.Write(append(line, '\n')); err != nil {
		return nil, errors.Join(ctx.Err(), err)
	}
	var a answer
	if err := readLine(c.in, &a); err != nil {
		return nil, errors.Join(ctx.Err(), err)
	}
	if a.Error != "" {
		return nil, errors.New(a.Error)
	}
	return &a, nil
}

// readLine reads one bounded line of JSON.
func readLine(r *bufio.Reader, v any) error {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > controlLine {
			return errors.New("the line is too long")
		}
		if err == nil {
			return json.Unmarshal(line, v)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if err == io.EOF && len(line) > 0 {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
}

// Write writes to a disk as the guest does.
func (c *Control) Write(ctx context.Context, vm string, disk int, p []byte, off int64) error {
	for len(p) > 0 {
		n := min(len(p), controlData)
		if _, err := c.ask(ctx, order{Do: "write", VM: vm, Disk: disk, Off: off, Data: p[:n]}); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// Read reads a disk as the guest does.
func (c *Control) Read(ctx context.Context, vm string, disk int, p []byte, off int64) error {
	for len(p) > 0 {
		n := min(len(p), controlData)
		a, err := c.ask(ctx, order{Do: "read", VM: vm, Disk: disk, Off: off, N: int64(n)})
		if err != nil {
			return err
		}
		if len(a.Data) != n {
			return io.ErrUnexpectedEOF
		}
		copy(p, a.Data)
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// Sum is the SHA-256 of a disk as the guest has it, in hexadecimal.
func (c *Control) Sum(ctx context.Context, vm string, disk int) (string, error) {
	a, err := c.ask(ctx, order{Do: "sum", VM: vm, Disk: disk})
	if err != nil {
		return "", err
	}
	return a.Text, nil
}

// Size is a disk's length in bytes.
func (c *Control) Size(ctx context.Context, vm string, disk int) (int64, error) {
	a, err := c.ask(ctx, order{Do: "size", VM: vm, Disk: disk})
	if err != nil {
		return 0, err
	}
	return a.N, nil
}

// Extend makes a disk longer; a VM with snapshots refuses.
func (c *Control) Extend(ctx context.Context, vm string, disk int, size int64) error {
	_, err := c.ask(ctx, order{Do: "extend", VM: vm, Disk: disk, N: size})
	return err
}

// PowerOn switches a VM on.
func (c *Control) PowerOn(ctx context.Context, vm string) error {
	_, err := c.ask(ctx, order{Do: "on", VM: vm})
	return err
}

// PowerOff switches a VM off.
func (c *Control) PowerOff(ctx context.Context, vm string) error {
	_, err := c.ask(ctx, order{Do: "off", VM: vm})
	return err
}

// ResetTracking makes a VM's change tracking start anew, as after a crash of its host.
func (c *Control) ResetTracking(ctx context.Context, vm string) error {
	_, err := c.ask(ctx, order{Do: "reset", VM: vm})
	return err
}

// Fail sets a fault.
func (c *Control) Fail(ctx context.Context, f Fault) error {
	_, err := c.ask(ctx, order{Do: "fail", Fault: &f})
	return err
}

// Leftovers says in words what a clean cycle would not have left.
func (c *Control) Leftovers(ctx context.Context) ([]string, error) {
	a, err := c.ask(ctx, order{Do: "leftovers"})
	if err != nil {
		return nil, err
	}
	return a.Lines, nil
}

// VMs are the names of the VMs that are there.
func (c *Control) VMs(ctx context.Context) ([]string, error) {
	a, err := c.ask(ctx, order{Do: "vms"})
	if err != nil {
		return nil, err
	}
	return a.Lines, nil
}

// Stunned is how long a VM stood still so far.
func (c *Control) Stunned(ctx context.Context, vm string) (time.Duration, error) {
	a, err := c.ask(ctx, order{Do: "stunned", VM: vm})
	if err != nil {
		return 0, err
	}
	return time.Duration(a.N), nil
}

// Proxy mounts what the guest of a VM sees of its machine, and says where; see [Server.Proxy].
func (c *Control) Proxy(ctx context.Context, vm string) (string, error) {
	a, err := c.ask(ctx, order{Do: "proxy", VM: vm})
	if err != nil {
		return "", err
	}
	return a.Text, nil
}

// NewToken makes a secret for a control address.
func NewToken() string { return rand.Text() }
