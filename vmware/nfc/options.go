package nfc

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"time"
)

// Options change how a connection works. Nil and zero fields are good defaults.
type Options struct {
	// Clear asks for NBD instead of NBDSSL: the ticket is protected, the disk's content is not. See the package comment.
	Clear bool
	// Size is what the disk must have in bytes. Zero: any.
	Size int64

	// Buffer is the longest piece of content in one message, in bytes: a multiple of 4096 up to 2 MiB. Zero: 1 MiB. The
	// host sets memory aside for InFlight of them, and all connections to a host share some 48 MB.
	Buffer int
	// InFlight is how many requests are sent before the first is answered. Zero: 4. The most is 64.
	InFlight int
	// Client and OpID are what the host writes into its log. Empty: "hikae" and "backup".
	Client, OpID string

	// Dialer makes the TCP connection. Nil: a net.Dialer's DialContext.
	Dialer func(ctx context.Context, network, addr string) (net.Conn, error)
	// DialTimeout bounds the way from the first packet to a disk service that answers. Zero: 30 s.
	DialTimeout time.Duration
	// Timeout is the longest silence while something is waited for; one request has four of them in all, while the host
	// answers others. Zero: 30 s.
	Timeout time.Duration
	// CloseTimeout bounds the goodbye. Zero: 10 s.
	CloseTimeout time.Duration

	// Redial gets a new ticket for the same disk, after the connection was lost. What was not answered is then asked for
	// again. Nil: a lost connection is an error that wraps [ErrLost]. It is called by one goroutine at a time.
	Redial func(ctx context.Context) (Ticket, error)
}

const (
	smallestBuffer = 4096
	largestBuffer  = 2 << 20
	mostInFlight   = 64
	longestRead    = 1 << 20 // of one request, where buffers are smaller: the answer then comes in fragments
)

// fill returns a copy with the defaults in place of zeros.
func (o *Options) fill() (Options, error) {
	var f Options
	if o != nil {
		f = *o
	}
	defaults(&f.Buffer, 1<<20)
	defaults(&f.InFlight, 4)
	defaults(&f.Client, "hikae")
	defaults(&f.OpID, "backup")
	defaults(&f.DialTimeout, 30*time.Second)
	defaults(&f.Timeout, 30*time.Second)
	defaults(&f.CloseTimeout, 10*time.Second)
	if f.Dialer == nil {
		f.Dialer = new(net.Dialer).DialContext
	}
	switch {
	case f.Buffer < smallestBuffer || f.Buffer > largestBuffer || f.Buffer%smallestBuffer != 0:
		return f, fmt.Errorf("NFC: a buffer of %d bytes: %w", f.Buffer, fs.ErrInvalid)
	case f.InFlight < 0 || f.InFlight > mostInFlight:
		return f, fmt.Errorf("NFC: %d requests in flight: %w", f.InFlight, fs.ErrInvalid)
	case f.Size < 0 || f.Timeout < 0 || f.DialTimeout < 0 || f.CloseTimeout < 0:
		return f, fmt.Errorf("NFC: a negative size or time: %w", fs.ErrInvalid)
	case len(f.Client) > longestWord || len(f.OpID) > longestWord:
		return f, fmt.Errorf("NFC: a name of more than %d bytes: %w", longestWord, fs.ErrInvalid)
	}
	return f, nil
}

func defaults[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}
