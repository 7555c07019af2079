package remote

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Times of a line.
const (
	pingEvery = 10 * time.Second
	deadAfter = 30 * time.Second // without a frame
	writeTime = 30 * time.Second
	firstTime = 10 * time.Second // for the first frame of each side
	lastTime  = 2 * time.Second  // for a last word
)

// line is one connection that carries a task. One goroutine writes and one reads.
type line struct {
	conn   net.Conn
	reader *bufio.Reader
	wake   chan struct{} // of one: there may be something to send

	mu     sync.Mutex
	queue  []frame // goes before the stream
	stream *stream
	number int  // of this line among those that carry the stream
	last   bool // what is queued is the last word

	done chan struct{} // closed: the line is over
	once sync.Once
}

func newLine(conn net.Conn) *line {
	return &line{conn: conn, reader: bufio.NewReaderSize(conn, 32<<10), wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// nudge wakes the writer.
func (l *line) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// maxQueue bounds what waits to be sent besides the stream. A side that sends more than is answered breaks the protocol.
const maxQueue = 64

// send queues a frame.
func (l *line) send(f frame) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) >= maxQueue {
		return fmt.Errorf("%w: too many frames that nobody takes", ErrMalformed)
	}
	l.queue = append(l.queue, f)
	l.nudge()
	return nil
}

// carry lets the line, which is the task's newest, carry a stream from now on.
func (l *line) carry(s *stream) {
	l.mu.Lock()
	if s != nil && l.stream != s {
		l.stream, l.number = s, s.current()
	}
	l.mu.Unlock()
	l.nudge()
}

// finish sends what is queued, and closes the line.
func (l *line) finish() {
	l.mu.Lock()
	l.last = true
	l.mu.Unlock()
	l.nudge()
}

// close ends the line at once.
func (l *line) close() {
	l.once.Do(func() {
		close(l.done)
		_ = l.conn.Close()
	})
}

// next is the frame to send now.
func (l *line) next() (f frame, ok, last bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) > 0 {
		f, l.queue = l.queue[0], l.queue[1:]
		return f, true, false
	}
	if l.stream != nil {
		if f, ok := l.stream.next(l.number); ok {
			return f, true, false
		}
	}
	return frame{}, false, l.last
}

// write sends until the line is over. Where pings is true it keeps the line alive.
func (l *line) write(pings bool) {
	defer l.close()
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		f, ok, last := l.next()
		switch {
		case ok:
			if l.put(f) != nil {
				return
			}
			continue
		case last:
			return
		}
		select {
		case <-l.wake:
		case <-l.done:
			return
		case <-tick.C:
			if pings && l.put(frame{kind: kindPing}) != nil {
				return
			}
		}
	}
}

func (l *line) put(f frame) error {
	if err := l.conn.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return err
	}
	return writeFrame(l.conn, f)
}

// get reads one frame, which must come in time.
func (l *line) get(within time.Duration) (frame, error) {
	if err := l.conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		return frame{}, err
	}
	return readFrame(l.reader)
}

// read hands frames to take until the line is over.
func (l *line) read(take func(frame) error) error {
	defer l.close()
	for {
		f, err := l.get(deadAfter)
		if err == nil {
			err = take(f)
		}
		if err != nil {
			return err
		}
	}
}

// refuse says a last word and closes the connection, so that it arrives.
func (l *line) refuse(f *failure) {
	defer l.close()
	payload, err := encode(f)
	if err != nil {
		return
	}
	_ = l.conn.SetDeadline(time.Now().Add(lastTime))
	if writeFrame(l.conn, frame{kind: kindRefuse, payload: payload}) != nil {
		return
	}
	if half, ok := l.conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		for {
			if _, err := readFrame(l.reader); err != nil {
				return
			}
		}
	}
}

// watch closes the line when ctx ends.
func (l *line) watch(ctx context.Context) (stop func() bool) { return context.AfterFunc(ctx, l.close) }

var errLeft = errors.New("the task was ended")
