package winsvc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

// PipeOptions of ListenPipe. The zero value is welcome.
type PipeOptions struct {
	// Remote lets clients on other machines in, by SMB. They still have to be administrators.
	Remote bool
	// WriteLimit bounds each write: a client that does not read ends its own connection. Zero: one minute.
	WriteLimit time.Duration
}

// access of the pipe: LocalSystem and administrators, nobody else, and nothing inherited.
const access = "D:P(A;;GA;;;SY)(A;;GA;;;BA)"

const (
	rejectRemoteClients = 0x8
	pipeBuffer          = 64 << 10
	defaultWriteLimit   = time.Minute
	flushLimit          = 5 * time.Second
)

// Pipe is a pipe that waits for its client, and then the connection to it. Reads and writes may be called at once, each by
// one goroutine at a time; Close may be called by any.
type Pipe struct {
	handle windows.Handle
	limit  time.Duration
	ending windows.Handle // an event: set when the pipe is being closed

	reading, writing sync.Mutex
	in, out          []byte // the kernel works on these; a caller's slice may move or be used again
	once             sync.Once
	err              error
}

// ListenPipe makes the pipe. That it exists is fs.ErrExist or fs.ErrPermission: somebody else made it.
func ListenPipe(name string, opts *PipeOptions) (*Pipe, error) {
	o := PipeOptions{WriteLimit: defaultWriteLimit}
	if opts != nil {
		o.Remote = opts.Remote
		if opts.WriteLimit > 0 {
			o.WriteLimit = opts.WriteLimit
		}
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	path, err := windows.UTF16PtrFromString(PipePath(name))
	if err != nil {
		return nil, err
	}
	sd, err := windows.SecurityDescriptorFromString(access)
	if err != nil {
		return nil, fmt.Errorf("access to the pipe: %w", err)
	}
	sa := &windows.SecurityAttributes{SecurityDescriptor: sd}
	sa.Length = uint32(unsafe.Sizeof(*sa))
	mode := uint32(windows.PIPE_TYPE_BYTE | windows.PIPE_READMODE_BYTE | windows.PIPE_WAIT)
	if !o.Remote {
		mode |= rejectRemoteClients
	}
	ending, err := windows.CreateEvent(nil, 1, 0, nil)
	if err != nil {
		return nil, os.NewSyscallError("CreateEvent", err)
	}
	h, err := windows.CreateNamedPipe(path, windows.PIPE_ACCESS_DUPLEX|windows.FILE_FLAG_OVERLAPPED|windows.FILE_FLAG_FIRST_PIPE_INSTANCE,
		mode, 1, pipeBuffer, pipeBuffer, 0, sa)
	if err != nil {
		windows.CloseHandle(ending)
		return nil, &os.PathError{Op: "create pipe", Path: PipePath(name), Err: err}
	}
	return &Pipe{handle: h, limit: o.WriteLimit, ending: ending, in: make([]byte, pipeBuffer), out: make([]byte, pipeBuffer)}, nil
}

// Accept waits for the client, until the context ends.
func (p *Pipe) Accept(ctx context.Context) error {
	p.reading.Lock()
	defer p.reading.Unlock()
	stop, err := windows.CreateEvent(nil, 1, 0, nil)
	if err != nil {
		return os.NewSyscallError("CreateEvent", err)
	}
	defer windows.CloseHandle(stop)
	signalled := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() { windows.SetEvent(stop); close(signalled) })
	defer func() {
		if !unhook() {
			<-signalled // the event is closed after it was set
		}
	}()
	_, err = p.overlapped(stop, windows.INFINITE, func(o *windows.Overlapped) error { return windows.ConnectNamedPipe(p.handle, o) })
	switch {
	case err == windows.ERROR_PIPE_CONNECTED: // it came before we waited
		return nil
	case err == errStopped && ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return ended("accept", err)
}

var errStopped = errors.New("stopped")

// overlapped begins an operation and waits for it: for so many milliseconds, until stop is signalled (0: nothing is), or
// until the pipe is closed. It returns after the kernel has let go of the operation, whatever happened.
func (p *Pipe) overlapped(stop windows.Handle, millis uint32, begin func(*windows.Overlapped) error) (int, error) {
	event, err := windows.CreateEvent(nil, 1, 0, nil)
	if err != nil {
		return 0, err
	}
	defer windows.CloseHandle(event)
	o := new(windows.Overlapped)
	pinned.Store(o, p) // keeps both on the heap and alive, whatever the compiler sees
	defer pinned.Delete(o)
	o.HEvent = event
	if err := begin(o); err != nil && err != windows.ERROR_IO_PENDING {
		return 0, err
	}
	events := []windows.Handle{event, p.ending}
	if stop != 0 {
		events = append(events, stop)
	}
	which, err := windows.WaitForMultipleObjects(events, false, millis)
	var stopped error
	switch {
	case err != nil:
		stopped = err
	case which == uint32(windows.WAIT_TIMEOUT):
		stopped = os.ErrDeadlineExceeded
	case which == windows.WAIT_OBJECT_0+1:
		stopped = os.ErrClosed
	case which == windows.WAIT_OBJECT_0+2:
		stopped = errStopped
	}
	if stopped != nil {
		windows.CancelIoEx(p.handle, o)
	}
	var n uint32
	err = windows.GetOverlappedResult(p.handle, o, &n, true)
	if stopped != nil && err != nil {
		return int(n), stopped
	}
	return int(n), err
}

// pinned are the operations under way.
var pinned sync.Map

// ended makes a client's end an io.EOF.
func ended(op string, err error) error {
	switch err {
	case nil:
		return nil
	case windows.ERROR_BROKEN_PIPE, windows.ERROR_PIPE_NOT_CONNECTED, windows.ERROR_NO_DATA, windows.ERROR_HANDLE_EOF:
		return io.EOF
	}
	return fmt.Errorf("pipe: %s: %w", op, err)
}

// Read reads what the client has written. It ends with io.EOF when the client leaves, and when the pipe is closed.
func (p *Pipe) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	p.reading.Lock()
	defer p.reading.Unlock()
	if p.over() {
		return 0, os.ErrClosed
	}
	part := p.in[:min(len(b), len(p.in))]
	n, err := p.overlapped(0, windows.INFINITE, func(o *windows.Overlapped) error { return windows.ReadFile(p.handle, part, nil, o) })
	if n > 0 {
		return copy(b, part[:n]), nil
	}
	if err == nil {
		return 0, io.EOF // an empty message: no client of ours sends one
	}
	return 0, ended("read", err)
}

// Write writes all of b, or fails within the limit.
func (p *Pipe) Write(b []byte) (int, error) {
	p.writing.Lock()
	defer p.writing.Unlock()
	written := 0
	for written < len(b) {
		if p.over() {
			return written, os.ErrClosed
		}
		part := p.out[:copy(p.out, b[written:])]
		n, err := p.overlapped(0, uint32(p.limit.Milliseconds()), func(o *windows.Overlapped) error { return windows.WriteFile(p.handle, part, nil, o) })
		written += n
		if err != nil {
			if err = ended("write", err); err == io.EOF {
				err = io.ErrClosedPipe
			}
			return written, err
		}
	}
	return written, nil
}

// over reports whether the pipe is closed. The caller holds one of the locks, so that the handle stays.
func (p *Pipe) over() bool {
	e, err := windows.WaitForSingleObject(p.ending, 0)
	return err != nil || e == windows.WAIT_OBJECT_0
}

// Close lets the client read what was written to it, for flushLimit at most, and ends what waits.
func (p *Pipe) Close() error {
	p.once.Do(func() {
		p.flush()
		windows.SetEvent(p.ending)
		p.reading.Lock()
		defer p.reading.Unlock()
		p.writing.Lock()
		defer p.writing.Unlock()
		p.err = windows.CloseHandle(p.handle)
		// The event stays set for whoever still asks; there is one in a process.
	})
	return p.err
}

// flush waits until the client has read everything, which a client that hangs never does.
func (p *Pipe) flush() {
	if !p.writing.TryLock() {
		return // a write is stuck: nothing to be polite about
	}
	defer p.writing.Unlock()
	done := make(chan struct{})
	go func() { windows.FlushFileBuffers(p.handle); close(done) }()
	select {
	case <-done:
	case <-time.After(flushLimit):
	}
}
