package smbstore

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/cloudsoda/go-smb2"
)

// errGuest says that the server let somebody in whom it does not know. Asked to require signatures, the library refuses
// a guest only where the first answer to a logon says so; where the last one does, as Samba's, it goes on without any
// signature, sent or checked, and so would anybody be let in who changes that one answer on the way.
var errGuest = fmt.Errorf("%w: only as a guest, who cannot sign", ErrLogon)

// errKilled ends the calls on a connection that was given up.
var errKilled = errors.New("the connection was given up")

// grace is how long a request may go on whose caller has left. Most are answered by then, and the connection lives.
const grace = 2 * time.Second

// link is one connection: a session, and the share mounted in it.
type link struct {
	wire    *wire
	session *smb2.Session
	share   *smb2.Share
	timeout time.Duration
	done    context.Context // not a call's: ends what waits inside the library when the connection is given up
	end     context.CancelFunc
	users   int // the pool's
}

// connect logs on and mounts the share.
func connect(ctx context.Context, at Address, creds CredentialsFunc, o Options) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	c, err := creds(ctx)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w: %w", ErrLogon, err)
	}
	initiator, err := c.initiator()
	if err != nil {
		return nil, err
	}
	hostPort, host := at.hostPort()
	conn, err := o.Dial(ctx, "tcp", hostPort)
	if err != nil {
		return nil, err
	}
	l := &link{wire: newWire(conn, o.Timeout), timeout: o.Timeout}
	l.done, l.end = context.WithCancel(context.Background())
	if err := l.logon(ctx, initiator, host, at.Share); err != nil {
		l.close()
		if guest(err) {
			err = errGuest
		}
		return nil, fmt.Errorf("log on to %s as %s: %w", at, c, translate(err))
	}
	if o.RequireEncryption && !l.wire.encrypted.Load() {
		l.close()
		return nil, ErrNotEncrypted
	}
	return l, nil
}

func (l *link) logon(ctx context.Context, initiator smb2.Initiator, host, share string) error {
	dialer := smb2.Dialer{Negotiator: smb2.Negotiator{RequireMessageSigning: true}, Initiator: initiator}
	return l.run(ctx, func() error {
		session, err := dialer.DialConn(ctx, l.wire, host)
		if err != nil {
			return err
		}
		l.session = session.WithContext(l.done)
		mounted, err := l.session.Mount(`\\` + host + `\` + share)
		if l.wire.bare.Load() {
			return errGuest
		}
		if err != nil {
			return err
		}
		l.wire.strict.Store(true)
		l.share = mounted.WithContext(l.done)
		_, err = l.share.Stat("") // so that a request of the share itself was seen on the wire
		return err
	})
}

// run makes one call of the library. It ends in time: a connection on which it does not is given up, and so is one
// whose caller left and that still did not answer after a moment. The library takes a server's word for sizes here and
// there; a panic over that is an answer that makes no sense, and no reason for the program to end.
func (l *link) run(ctx context.Context, call func() error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	if l.dead() {
		return errKilled
	}
	var answered atomic.Bool
	timer := time.AfterFunc(l.timeout, func() {
		if !answered.Load() {
			l.kill()
		}
	})
	stop := context.AfterFunc(ctx, func() { timer.Reset(min(grace, l.timeout)) })
	defer func() {
		answered.Store(true)
		stop()
		timer.Stop()
		if p := recover(); p != nil {
			l.kill()
			err = &smb2.InvalidResponseError{Message: fmt.Sprint("the answer makes no sense: ", p)}
		}
	}()
	return call()
}

func (l *link) dead() bool { return l.done.Err() != nil || l.wire.broken.Load() }

// kill gives the connection up. What the server has open for it, it closes.
func (l *link) kill() {
	l.end()
	_ = l.wire.Close()
}

// close logs off where that still can be done.
func (l *link) close() {
	if l.session != nil && !l.dead() {
		ctx, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		_ = l.run(ctx, l.session.Logoff) // whether it is heard makes no difference: the connection ends
	}
	l.kill()
}

// wire is a TCP connection with a deadline for what is written, that sends a message and its length in one piece, and
// sees whether messages are encrypted or at least signed.
type wire struct {
	net.Conn
	in        *bufio.Reader
	timeout   time.Duration
	head      []byte // the length of the message that comes next
	encrypted atomic.Bool
	bare      atomic.Bool // the last message was neither signed nor encrypted
	strict    atomic.Bool // nothing bare is sent any more
	broken    atomic.Bool
}

func newWire(conn net.Conn, timeout time.Duration) *wire {
	return &wire{Conn: conn, in: bufio.NewReaderSize(conn, 64<<10), timeout: timeout}
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.in.Read(p)
	if err != nil {
		w.broken.Store(true)
	}
	return n, err
}

// A message is an SMB 2 header, with a flag that says that it is signed (MS-SMB2 2.2.1.2), or a transform header around
// an encrypted one (MS-SMB2 2.2.41).
var transform = []byte{0xfd, 'S', 'M', 'B'}

const (
	flagsAt    = 16
	flagSigned = 0x08
)

// Write keeps the four bytes of a length back until the message comes: the library writes them alone, and two small
// segments for each request cost more than one.
func (w *wire) Write(p []byte) (int, error) {
	if w.head == nil && len(p) == 4 {
		w.head = bytes.Clone(p)
		return len(p), nil
	}
	encrypted := bytes.HasPrefix(p, transform)
	bare := !encrypted && (len(p) <= flagsAt || p[flagsAt]&flagSigned == 0)
	w.encrypted.Store(encrypted)
	w.bare.Store(bare)
	if bare && w.strict.Load() {
		w.broken.Store(true)
		return 0, errGuest
	}
	if err := w.Conn.SetWriteDeadline(time.Now().Add(w.timeout)); err != nil {
		return 0, err
	}
	buffers := net.Buffers{w.head, p}
	head := int64(len(w.head))
	w.head = nil
	n, err := buffers.WriteTo(w.Conn)
	if err != nil {
		w.broken.Store(true)
	}
	return int(max(n-head, 0)), err
}
