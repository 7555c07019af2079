package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// runDir is where named namespaces are.
const runDir = "/run/netns"

// Space is a network namespace with its own loopback.
type Space struct {
	Name string
	ns   *os.File
}

// settings of every space. IPv6 is off so that nothing but what is meant travels on the cables.
var settings = map[string]string{
	"net/ipv6/conf/all/disable_ipv6":     "1",
	"net/ipv6/conf/default/disable_ipv6": "1",
	"net/ipv4/conf/all/rp_filter":        "0",
	"net/ipv4/conf/default/rp_filter":    "0",
}

// Space makes a namespace; what is a word for its name.
func (l *Lab) Space(ctx context.Context, what string) (*Space, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.New("the lab is closed")
	}
	s := &Space{Name: spaceName(made.Add(1), what)}
	if _, err := run(ctx, "ip", "netns", "add", s.Name); err != nil {
		return nil, err
	}
	l.spaces = append(l.spaces, s)
	var err error
	if s.ns, err = os.Open(runDir + "/" + s.Name); err != nil {
		return nil, err
	}
	for name, value := range settings {
		if err := s.Set(name, value); err != nil {
			return nil, err
		}
	}
	return s, s.ip(ctx, "link", "set", "lo", "up")
}

func (s *Space) remove(ctx context.Context) error {
	if s.ns != nil {
		s.ns.Close()
	}
	return removeSpace(ctx, s.Name)
}

// ip runs ip in the space.
func (s *Space) ip(ctx context.Context, args ...string) error {
	_, err := run(ctx, append([]string{"ip", "-netns", s.Name}, args...)...)
	return err
}

// Set writes a kernel setting of the space, like net/ipv4/tcp_rmem. One that this kernel lacks is an
// error only where it belongs to IPv4.
func (s *Space) Set(name, value string) error {
	return s.Do(func() error {
		err := os.WriteFile("/proc/sys/"+name, []byte(value), 0)
		if errors.Is(err, os.ErrNotExist) && strings.HasPrefix(name, "net/ipv6/") {
			return nil
		}
		return err
	})
}

// Do runs f on a thread that is in the space. What f opens stays in it; goroutines that f starts are not in it. The
// thread is thrown away afterwards, so nothing of the space can leak into other goroutines.
func (s *Space) Do(f func() error) error {
	done := make(chan error, 1)
	go onOwnThread(func() {
		if err := unix.Setns(int(s.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter namespace %s: %w", s.Name, err)
			return
		}
		done <- f()
	})
	return <-done
}

// onOwnThread runs f on a thread that ends with this goroutine. The process's first thread cannot end, and
// /proc/self speaks of it: a goroutine that finds itself there holds it while another one runs f elsewhere.
func onOwnThread(f func()) {
	runtime.LockOSThread() // without an unlock the thread ends with the goroutine
	if unix.Gettid() != os.Getpid() {
		f()
		return
	}
	defer runtime.UnlockOSThread()
	elsewhere := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer close(elsewhere)
		f()
	}()
	<-elsewhere
}

// Listen listens in the space. The address is an IP address and a port.
func (s *Space) Listen(ctx context.Context, network, address string) (l net.Listener, err error) {
	err = s.Do(func() error {
		config := net.ListenConfig{}
		config.SetMultipathTCP(false)
		l, err = config.Listen(ctx, network, address)
		return err
	})
	return l, err
}

// ListenPacket listens for packets in the space.
func (s *Space) ListenPacket(ctx context.Context, network, address string) (c net.PacketConn, err error) {
	err = s.Do(func() error {
		c, err = new(net.ListenConfig).ListenPacket(ctx, network, address)
		return err
	})
	return c, err
}

// Dial connects from the space. The address is an IP address and a port, so that nothing is looked up elsewhere.
func (s *Space) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if net.ParseIP(host) == nil {
		return nil, fmt.Errorf("dial %s: not an IP address", address)
	}
	err = s.Do(func() error {
		c, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Start starts a program in the space.
func (s *Space) Start(cmd *exec.Cmd) error { return s.Do(cmd.Start) }

// Run runs a program in the space to its end and returns what it printed.
func (s *Space) Run(ctx context.Context, args ...string) (out string, err error) {
	err = s.Do(func() error {
		out, err = run(ctx, args...)
		return err
	})
	return out, err
}

// Reset kills the space's TCP connections: their peers get a RST where the line lets it through. Filter is one of ss,
// like "dport = :7443"; empty: all connections.
func (s *Space) Reset(ctx context.Context, filter string) error {
	_, err := s.Run(ctx, append([]string{"ss", "-K", "-H", "-t", "state", "connected"}, strings.Fields(filter)...)...)
	return err
}
