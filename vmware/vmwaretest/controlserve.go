package vmwaretest

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// controls are the control connections of a server.
type controls struct {
	mu     sync.Mutex
	open   map[io.Closer]bool
	done   sync.WaitGroup
	closed bool
}

// ServeControl takes control connections until the server is closed. Each has to say the token first. It returns at once.
func (s *Server) ServeControl(l net.Listener, token string) error {
	if len(token) < 16 {
		return errors.New("the token is too short")
	}
	c := &s.extras.controls
	if !c.enter(l) {
		return net.ErrClosed
	}
	go func() {
		defer c.leave(l)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if !c.enter(conn) {
				conn.Close()
				return
			}
			go func() {
				defer c.leave(conn)
				s.control(conn, token)
			}()
		}
	}()
	return nil
}

// enter counts in what has to be closed at the end.
func (c *controls) enter(what io.Closer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	if c.open == nil {
		c.open = map[io.Closer]bool{}
	}
	c.open[what] = true
	c.done.Add(1)
	return true
}

func (c *controls) leave(what io.Closer) {
	c.mu.Lock()
	delete(c.open, what)
	c.mu.Unlock()
	what.Close()
	c.done.Done()
}

func (c *controls) close() {
	c.mu.Lock()
	c.closed = true
	for what := range c.open {
		what.Close()
	}
	c.mu.Unlock()
	c.done.Wait()
}

// control answers one connection, line by line.
func (s *Server) control(conn net.Conn, token string) {
	in, known := bufio.NewReaderSize(conn, 64<<10), false
	for {
		wait := controlIdle
		if !known {
			wait = 10 * time.Second
		}
		conn.SetDeadline(time.Now().Add(wait))
		var o order
		if err := readLine(in, &o); err != nil {
			return
		}
		if known = known || equal(o.Token, token); !known {
			return
		}
		a, err := s.obey(&o)
		if a == nil {
			a = new(answer)
		}
		if err != nil {
			a = &answer{Error: err.Error()}
		}
		line, err := json.Marshal(a)
		if err != nil {
			return
		}
		if _, err := conn.Write(append(line, '\n')); err != nil {
			return
		}
	}
}

// obey does what one line says.
func (s *Server) obey(o *order) (*answer, error) {
	switch o.Do {
	case "hello":
		return nil, nil
	case "vms":
		var names []string
		for _, v := range s.VMs() {
			names = append(names, v.Name())
		}
		return &answer{Lines: names}, nil
	case "leftovers":
		return &answer{Lines: s.Leftovers()}, nil
	case "fail":
		if o.Fault == nil {
			return nil, errors.New("fail: no fault")
		}
		s.Fail(*o.Fault)
		return nil, nil
	}
	vm := s.VM(o.VM)
	if vm == nil {
		return nil, fmt.Errorf("VM %.64q: not there", o.VM)
	}
	switch o.Do {
	case "on":
		return nil, vm.PowerOn()
	case "off":
		return nil, vm.PowerOff()
	case "reset":
		vm.ResetTracking()
		return nil, nil
	case "stunned":
		return &answer{N: int64(s.Stunned(vm.Ref()))}, nil
	case "proxy":
		p, err := s.Proxy(o.VM)
		if err != nil {
			return nil, err
		}
		return &answer{Text: p.Root()}, nil
	}
	disk := vm.Disk(o.Disk)
	if disk == nil {
		return nil, fmt.Errorf("VM %s: disk %d is not there", o.VM, o.Disk)
	}
	return obeyDisk(disk, o)
}

func obeyDisk(disk *Disk, o *order) (*answer, error) {
	switch o.Do {
	case "size":
		return &answer{N: disk.Size()}, nil
	case "write":
		return nil, disk.Write(o.Off, o.Data)
	case "read":
		if o.N < 0 || o.N > controlData {
			return nil, fmt.Errorf("read: %d bytes", o.N)
		}
		p, err := disk.Read(o.Off, int(o.N))
		return &answer{Data: p}, err
	case "extend":
		return nil, disk.Extend(o.N)
	case "sum":
		sum, err := sumOf(disk)
		return &answer{Text: sum}, err
	}
	return nil, fmt.Errorf("%.64q: unknown", o.Do)
}

// sumOf digests a disk as the guest has it.
func sumOf(d *Disk) (string, error) {
	h := sha256.New()
	for off := int64(0); off < d.Size(); off += controlData {
		p, err := d.Read(off, int(min(controlData, d.Size()-off)))
		if err != nil {
			return "", err
		}
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
