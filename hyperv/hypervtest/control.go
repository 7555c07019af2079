package hypervtest

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

// order is one line to a host, and answer the line that comes back.
type order struct {
	Token string      `json:"token,omitempty"` // on the first line only
	Do    string      `json:"do"`
	Host  string      `json:"host,omitempty"` // of a cluster; else the only one, or a VM's owner
	VM    string      `json:"vm,omitempty"`
	Disk  int         `json:"disk,omitempty"`
	Off   int64       `json:"off,omitempty"`
	N     int64       `json:"n,omitempty"`
	Seed  uint64      `json:"seed,omitempty"`
	Data  []byte      `json:"data,omitempty"`
	Name  string      `json:"name,omitempty"`
	New   *VM         `json:"new,omitempty"`
	Fault *faultOrder `json:"fault,omitempty"`
}

// faultOrder is a fault without what cannot travel.
type faultOrder struct {
	Fault
	Do *struct{} `json:",omitempty"`
}

type answer struct {
	Error  string   `json:"error,omitempty"`
	Data   []byte   `json:"data,omitempty"`
	N      int64    `json:"n,omitempty"`
	Text   string   `json:"text,omitempty"`
	Lines  []string `json:"lines,omitempty"`
	Events []Event  `json:"events,omitempty"`
}

// Control steers a fake host, or a cluster of them, from another process: it makes VMs, writes as guests do, switches power, moves VMs,
// sets faults, and asks what happened and what is left over. VMs are named by GUID. Its methods may be called at once; they go one
// after the other.
type Control struct {
	mu   sync.Mutex
	conn net.Conn
	in   *bufio.Reader
}

// DialControl connects to a control address, "unix:PATH" or "tcp:HOST:PORT", with its token.
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

// NewToken makes a secret for a control address.
func NewToken() string { return rand.Text() }

// Close ends the connection; the host goes on.
func (c *Control) Close() error { return c.conn.Close() }

func (c *Control) ask(ctx context.Context, o order) (*answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })() // half an answer makes the connection useless
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
