package smbchannel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/cloudsoda/go-smb2"

	"github.com/hikae/hikae/internal/smbwire"
)

// pipeBuffer is what one read asks for: the most that one credit pays for, so that the library never splits it, and more
// than any message of a remote procedure call.
const pipeBuffer = 64 << 10

// pipe is a named pipe of the guest. Reads and writes may be made at once; Close may be called by any goroutine.
//
// A read that waits cannot be taken back without the danger of stopping the whole connection, so each is made by a
// goroutine of its own, and only when somebody wants to read. Windows ends it when the pipe is closed; where a server
// does not, it ends with the connection.
type pipe struct {
	link *link
	name string
	file *smb2.File

	writing sync.Mutex
	once    sync.Once
	closed  chan struct{}
	opening sync.Mutex // held while a read begins, and while closing does: the library keeps no order between them

	// The reader's own.
	pending chan arrival // of a read that was begun, nil where there is none
	rest    []byte
	err     error
}

// arrival is what a read has brought.
type arrival struct {
	data []byte
	err  error
}

// openPipe opens a pipe. One that is not there is fs.ErrNotExist.
func (l *link) openPipe(ctx context.Context, name string) (*pipe, error) {
	p := &pipe{link: l, name: name, closed: make(chan struct{})}
	err := l.run(ctx, func() (err error) {
		p.file, err = l.ipc.OpenFile(name, os.O_RDWR, 0o666)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("pipe %s: %w", name, translate(err))
	}
	return p, nil
}

// begin begins a read, unless the pipe is closed.
func (p *pipe) begin() bool {
	p.opening.Lock()
	defer p.opening.Unlock()
	select {
	case <-p.closed:
		return false
	default:
	}
	p.pending = make(chan arrival, 1)
	begun := make(chan struct{})
	go p.fetch(begun, p.pending)
	<-begun
	return true
}

// fetch makes one read.
func (p *pipe) fetch(begun chan<- struct{}, into chan<- arrival) {
	var got arrival
	defer func() {
		if r := recover(); r != nil {
			p.link.kill()
			got.err = &smb2.InvalidResponseError{Message: fmt.Sprint("the answer makes no sense: ", r)}
		}
		into <- got
	}()
	buffer := make([]byte, pipeBuffer)
	close(begun)
	n, err := p.file.ReadAt(buffer, 0)
	got.data = buffer[:n]
	if err != nil || n == 0 {
		got.err = p.ended(err)
	}
}

// ended turns the ways in which a pipe's other end goes into io.EOF.
func (p *pipe) ended(err error) error {
	switch status(err) {
	case statusPipeBroken, statusPipeGone, statusPipeClosing:
		return io.EOF
	}
	var broken *smb2.TransportError
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return io.EOF
	case errors.As(err, &broken) || p.link.dead():
		return fmt.Errorf("pipe %s: %w: %w", p.name, ErrLinkLost, err)
	}
	return fmt.Errorf("pipe %s: %w", p.name, err)
}

// Read implements io.Reader, for one goroutine at a time.
func (p *pipe) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for len(p.rest) == 0 {
		if p.err != nil {
			return 0, p.err
		}
		if p.pending == nil && !p.begin() {
			return 0, fs.ErrClosed
		}
		select {
		case <-p.closed:
			return 0, fs.ErrClosed
		case got := <-p.pending:
			p.pending, p.rest, p.err = nil, got.data, got.err
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// Write implements io.Writer. What the other end does not take in time ends the connection.
func (p *pipe) Write(b []byte) (written int, err error) {
	p.writing.Lock()
	defer p.writing.Unlock()
	for len(b) > written {
		select {
		case <-p.closed:
			return written, fs.ErrClosed
		default:
		}
		part := b[written:min(len(b), written+pipeBuffer)]
		n := 0
		err := p.link.run(context.Background(), func() (err error) {
			n, err = p.file.WriteAt(part, 0)
			return err
		})
		if err == nil && n != len(part) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return written, p.writeError(err)
		}
		written += n
	}
	return written, nil
}

func (p *pipe) writeError(err error) error {
	if e := p.ended(err); e != io.EOF {
		return e
	}
	return fmt.Errorf("pipe %s: %w", p.name, io.ErrClosedPipe)
}

// Close lets go of the pipe: the other end sees that it ended.
func (p *pipe) Close() (err error) {
	p.once.Do(func() {
		p.opening.Lock()
		defer p.opening.Unlock()
		close(p.closed)
		ctx, cancel := context.WithTimeout(context.Background(), smbwire.Grace)
		defer cancel()
		err = p.link.run(ctx, p.file.Close)
	})
	return err
}
