package bootcheck

import (
	"context"
	"image"
	"net"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// Starter is a host that can start a point's machine from where the point lies, without writing to it.
type Starter interface {
	// Start starts it, cut off from every network. What is made outside goes through opts.Journal first. On error nothing of it is left.
	Start(ctx context.Context, backend pipe.Backend, point pipe.PointInfo, opts *StartOptions) (Machine, error)
}

// StartOptions are how a machine is started.
type StartOptions struct {
	Ports   []int // TCP ports of the guest that Dial is going to reach; no other way leads in, and none out
	Journal hikae.Journal
}

// Machine is a started one. Methods may be called at once.
type Machine interface {
	// Mapping says what was recorded of the machine and what it was started with, a line each.
	Mapping() []string
	// Ended is closed when the machine ended by itself; Why says so in its emulator's words.
	Ended() <-chan struct{}
	Why() string
	// Serial is the last of what the guest printed at its serial port, 64 KiB at most.
	Serial(ctx context.Context) (string, error)
	// Screen is what its screen shows.
	Screen(ctx context.Context) (image.Image, error)
	// Ping asks the guest's agent whether it is there. Run has it run a program.
	Ping(ctx context.Context) error
	Run(ctx context.Context, path string, args []string) (hikae.RunResult, error)
	// Dial connects to a port of the guest; Address is where on this machine such a port is reached, for other programs.
	Dial(ctx context.Context, port int) (net.Conn, error)
	Address(port int) string
	// Written is how many bytes the guest wrote so far.
	Written() int64
	// Close ends the machine and removes everything of it. It may be called again after an error.
	Close(ctx context.Context) error
}
