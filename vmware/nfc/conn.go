package nfc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hikae/hikae/pipe"
)

// Conn is a session with a host's disk service, for one disk. It begins with [Dial], gets its disk by [Conn.Open], and
// ends with the Close of either. Where [Options.Redial] is set, the session is one for the caller while the connections
// below it come and go.
//
// Its methods may be called at once.
type Conn struct {
	opts   Options
	closed atomic.Bool
	ending sync.Once
	endErr error

	turn   chan struct{} // holds the turn to make a connection or a file
	mu     sync.Mutex
	link   *link
	disk   *Disk
	hangUp context.CancelFunc // ends the making of a new connection
}

const (
	// redials is how often in all a request is made where connections break, and each time a new one is made first.
	redials = 4
	// redialWait is the pause before the second new connection in a row; it doubles up to redialMaxWait.
	redialWait, redialMaxWait = 100 * time.Millisecond, 5 * time.Second
)

// Dial uses a ticket up: it connects to the host that the ticket names, proves that host's certificate, shows the
// session id and opens a session. Errors are [TrustError], [RefusedError], [ProtocolError], [HostError], or wrap [ErrLost]
// or fs.ErrInvalid.
func Dial(ctx context.Context, t Ticket, opts *Options) (*Conn, error) {
	o, err := opts.fill()
	if err != nil {
		return nil, err
	}
	l, err := dialLink(ctx, t, &o)
	if err != nil {
		return nil, err
	}
	return &Conn{opts: o, link: l, turn: make(chan struct{}, 1)}, nil
}

// dialLink makes a connection with an open session.
func dialLink(ctx context.Context, t Ticket, opts *Options) (*link, error) {
	raw, conn, err := connect(ctx, t, opts)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, opts.DialTimeout)
	defer cancel()
	stop := watch(limited, raw)
	err = shakeHands(conn, opts.Client, opts.OpID)
	if !stop() && err == nil {
		err = limited.Err()
	}
	if err != nil {
		raw.Close()
		return nil, cause(ctx, fmt.Errorf("NFC: %s: %w", t.addr(), lost(err)))
	}
	l := newLink(raw, conn, opts)
	for _, c := range []*call{
		newCall(kindOpenSession, openSession(opts.Buffer, opts.InFlight), nil),
		newCall(kindSockOpts, make([]byte, 12), nil),
		newCall(kindResPool, words(1), nil),
	} {
		if err := l.do(limited, c); err != nil {
			l.fail(errClosed)
			<-l.gone
			return nil, cause(ctx, fmt.Errorf("NFC: %s: %w", t.addr(), lost(err)))
		}
	}
	return l, nil
}

// Open opens the disk whose descriptor is at path, "[datastore] folder/file.vmdk", with everything that its chain hangs
// on. The disk that a running VM writes to cannot be opened: a snapshot comes first, and then the file that it pinned is.
//
// Open reads the first sector twice, and compares; the capacity must be [Options.Size] where that is set, or the error
// wraps [ErrChanged]. One session has one disk: a second Open is fs.ErrExist.
func (c *Conn) Open(ctx context.Context, path string, write bool) (*Disk, error) {
	if path == "" || len(path) > longestPath || bytes.IndexByte([]byte(path), 0) >= 0 {
		return nil, fmt.Errorf("NFC: the path %.60q: %w", path, fs.ErrInvalid)
	}
	if err := c.take(ctx); err != nil {
		return nil, err
	}
	defer c.release()
	c.mu.Lock()
	l, disk := c.link, c.disk
	c.mu.Unlock()
	if disk != nil {
		return nil, fmt.Errorf("NFC: the session has a disk, %s: %w", disk.path, fs.ErrExist)
	}
	file, err := openOn(ctx, l, path, write)
	if err != nil {
		return nil, err
	}
	d := &Disk{c: c, path: path, write: write, size: file.size, sector: file.sector, handle: file.handle,
		told: allocation{turn: make(chan struct{}, 1)}}
	c.mu.Lock()
	c.disk = d
	c.mu.Unlock()
	if want := c.opts.Size; want != 0 && want != file.size {
		return nil, d.explain("open", fmt.Errorf("%w: it has %d bytes, not %d", ErrChanged, file.size, want))
	}
	if err := d.selfTest(ctx, l, file.handle); err != nil {
		return nil, d.explain("open", err)
	}
	if c.opts.Redial != nil {
		if d.uuid, err = identify(ctx, l, file.handle); err != nil {
			return nil, d.explain("open", err)
		}
	}
	return d, nil
}

func openOn(ctx context.Context, l *link, path string, write bool) (opened, error) {
	call := newCall(kindOpenFile, openFile(path, write), []byte(path))
	if err := l.do(ctx, call); err != nil {
		return opened{}, fmt.Errorf("%s: %w", path, err)
	}
	file, err := parseOpened(call.reply, write)
	if err != nil {
		l.fail(err) // what it says of content cannot be believed either
		return opened{}, fmt.Errorf("%s: %w", path, err)
	}
	return file, nil
}

// take waits for the turn to make a connection or a file; release gives it back.
func (c *Conn) take(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.closed.Load() {
		c.release()
		return errClosed
	}
	return nil
}

func (c *Conn) release() { <-c.turn }

// current is the connection that stands and the file's handle on it. A connection that is lost is replaced, where the
// caller gave a way to.
func (c *Conn) current(ctx context.Context) (*link, uint64, error) {
	if l, handle, err := c.standing(); err == nil || c.opts.Redial == nil || !errors.Is(err, ErrLost) {
		return l, handle, err
	}
	if err := c.take(ctx); err != nil {
		return nil, 0, err
	}
	defer c.release()
	if l, handle, err := c.standing(); err == nil { // somebody else did it meanwhile
		return l, handle, nil
	}
	return c.redial(ctx)
}

func (c *Conn) standing() (*link, uint64, error) {
	if c.closed.Load() {
		return nil, 0, errClosed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link, c.disk.handle, c.link.failure()
}

// redial opens the same file over a new connection. The caller has the turn.
func (c *Conn) redial(ctx context.Context) (*link, uint64, error) {
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, 2*c.opts.DialTimeout)
	defer cancel()
	c.mu.Lock()
	c.hangUp = cancel
	c.mu.Unlock()
	ticket, err := c.opts.Redial(ctx)
	if err != nil {
		return nil, 0, cause(caller, fmt.Errorf("NFC: a new ticket: %w", lost(timeless(err))))
	}
	l, err := dialLink(ctx, ticket, &c.opts)
	if err != nil {
		return nil, 0, cause(caller, lost(timeless(err)))
	}
	file, err := c.disk.again(ctx, l)
	if err != nil {
		l.fail(errClosed)
		<-l.gone
		return nil, 0, cause(caller, timeless(err))
	}
	if !c.install(l, file.handle) {
		l.goodbye(ctx)
		return nil, 0, errClosed
	}
	return l, file.handle, nil
}

// again opens the disk's file once more, and makes sure that it is the same disk.
func (d *Disk) again(ctx context.Context, l *link) (opened, error) {
	file, err := openOn(ctx, l, d.path, d.write)
	if err != nil {
		return file, err
	}
	if file.size != d.size || file.sector != d.sector {
		return file, d.explain("open", fmt.Errorf("%w: it has %d bytes in sectors of %d now, and had %d in %d",
			ErrChanged, file.size, file.sector, d.size, d.sector))
	}
	uuid, err := identify(ctx, l, file.handle)
	if err == nil && uuid != d.uuid {
		err = d.explain("open", fmt.Errorf("%w: its UUID is %.60q now, and was %.60q", ErrChanged, uuid, d.uuid))
	}
	return file, err
}

// install has a new connection take the place of the lost one, unless the session has ended meanwhile.
func (c *Conn) install(l *link, handle uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return false
	}
	c.link, c.disk.handle = l, handle
	return true
}

// timeless hides the end of a time limit of ours, which is none of the caller's.
func timeless(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return errors.New(err.Error())
	}
	return err
}

// request makes a request, again over new connections where they break. Each call is made anew: nothing of an answer that
// was cut off is kept.
func (c *Conn) request(ctx context.Context, build func(handle uint64) *call) error {
	wait := redialWait
	for try := 1; ; try++ {
		l, handle, err := c.current(ctx)
		if err == nil {
			err = l.do(ctx, build(handle))
		}
		if err == nil || ctx.Err() != nil || try >= redials || c.opts.Redial == nil || c.closed.Load() || !mayRepeat(err) {
			return err
		}
		if try > 1 {
			if err := pause(ctx, wait); err != nil {
				return err
			}
			wait = min(2*wait, redialMaxWait)
		}
	}
}

// mayRepeat reports whether a new connection may do better: not where the host answered, or is not who it should be.
func mayRepeat(err error) bool { return errors.Is(err, ErrLost) && pipe.WorthRetry(err) }

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d - rand.N(d/2+1))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close ends the session: it waits for requests under way, closes the file, then the session, then the connection, all
// within [Options.CloseTimeout], and cuts the connection after that. An error is the host's, about a file that was open
// for writing: what was written last may not be there. Further calls do nothing and return the same.
func (c *Conn) Close() error {
	c.ending.Do(func() {
		c.closed.Store(true)
		c.mu.Lock()
		if c.hangUp != nil {
			c.hangUp()
		}
		c.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), c.opts.CloseTimeout)
		defer cancel()
		c.endErr = c.end(ctx)
	})
	return c.endErr
}

func (c *Conn) end(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
		defer c.release()
	case <-ctx.Done():
	}
	c.mu.Lock()
	l, disk, handle := c.link, c.disk, uint64(0)
	if disk != nil {
		handle = disk.handle
	}
	c.mu.Unlock()
	var err error
	if disk != nil && !disk.isShut() && l.failure() == nil {
		err = disk.shut(ctx, l, handle)
	}
	l.goodbye(ctx)
	if disk == nil || !disk.write {
		return nil // nothing of a disk that was only read depends on how its file was closed
	}
	return err
}
