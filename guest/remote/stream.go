package remote

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
)

// window is how much of a stream is on its way at most, in bytes: sent and not yet read by the other side. Both sides keep
// that much in memory for each direction.
const window = 1 << 20

// ackEvery is how much is read before the other side is told.
const ackEvery = window / 8

// stream is one side of a byte stream that outlives the connections that carry it. What the other side has not read is
// kept; a new connection goes on where the other side says that it is.
//
// Read, Write and Close are for whoever uses the stream. The rest is for the line that carries it.
type stream struct {
	wake func() // there is something to send

	mu   sync.Mutex
	cond sync.Cond // something has changed

	out      []byte // not read by the other side yet
	acked    uint64 // offset of out's first byte
	sent     uint64 // offset up to which it is on this line
	finished bool   // nothing comes behind out
	reason   string // why
	endSent  bool   // on this line

	in    []byte // arrived and not read
	taken uint64 // offset of in's first byte
	told  uint64 // offset that the other side was told
	ended bool   // nothing comes behind in
	why   error  // io.EOF, or the other side's reason

	reading, writing deadline
	gone             chan struct{} // closed: the end was sent

	broken error // the task is over
	lines  int   // that have carried it: only the newest takes from it
}

func newStream(wake func()) *stream {
	s := &stream{wake: wake, gone: make(chan struct{})}
	s.cond.L = &s.mu
	return s
}

// Read reads what has come from the other side. At its end the error is io.EOF, or says why it ended.
func (s *stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.in) == 0 && !s.ended && s.broken == nil && !s.reading.passed {
		s.cond.Wait()
	}
	switch {
	case s.reading.passed:
		return 0, os.ErrDeadlineExceeded
	case len(s.in) > 0 && s.broken == nil:
		n := copy(p, s.in)
		s.in = s.in[n:]
		s.taken += uint64(n)
		if s.taken-s.told >= ackEvery {
			s.wake()
		}
		return n, nil
	case s.broken != nil:
		return 0, s.broken
	}
	return 0, s.why
}

// Write sends; it waits while the other side does not read.
func (s *stream) Write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(p) > 0 {
		for len(s.out) >= window && s.writable() == nil {
			s.cond.Wait()
		}
		if err := s.writable(); err != nil {
			return n, err
		}
		part := p[:min(len(p), window-len(s.out))]
		s.out = append(s.out, part...)
		p, n = p[len(part):], n+len(part)
		s.wake()
	}
	return n, nil
}

func (s *stream) writable() error {
	switch {
	case s.broken != nil:
		return s.broken
	case s.finished:
		return fmt.Errorf("the stream: %w", fs.ErrClosed)
	case s.writing.passed:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// Close ends both directions: what was written still arrives, what comes is thrown away.
func (s *stream) Close() error {
	s.finish("")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken, s.in = s.taken+uint64(len(s.in)), nil
	if !s.ended {
		s.ended, s.why = true, fmt.Errorf("the stream: %w", fs.ErrClosed)
	}
	s.cond.Broadcast()
	s.wake()
	return nil
}

// finish ends what is sent, with a reason where it is not the good end.
func (s *stream) finish(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.finished {
		s.finished, s.reason = true, reason
		s.cond.Broadcast()
		s.wake()
	}
}

// fail ends everything: the task is over.
func (s *stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken == nil {
		s.broken = err
		s.out, s.in = nil, nil
		s.cond.Broadcast()
	}
}

// received is how much has come.
func (s *stream) received() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken + uint64(len(s.in))
}

// resume begins on a new line, where the other side has received so much. A line before may still be about to send:
// what it took from now on would be missing on the new one.
func (s *stream) resume(received uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if received < s.acked || received > s.acked+uint64(len(s.out)) {
		return fmt.Errorf("%w: %d bytes were received, of %d … %d that were sent", ErrMalformed, received, s.acked, s.acked+uint64(len(s.out)))
	}
	s.sent, s.endSent, s.told = received, false, 0
	s.lines++
	return nil
}

// current is the number of the newest line.
func (s *stream) current() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lines
}

// put takes bytes that have come.
func (s *stream) put(offset uint64, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch at := s.taken + uint64(len(s.in)); {
	case offset != at:
		return fmt.Errorf("%w: data at %d, expected at %d", ErrMalformed, offset, at)
	case len(s.in)+len(data) > window:
		return fmt.Errorf("%w: more data than was asked for", ErrMalformed)
	case s.ended: // nobody reads it
		s.taken += uint64(len(data))
		s.wake()
		return nil
	}
	s.in = append(s.in, data...)
	s.cond.Broadcast()
	return nil
}

// ack takes word of what the other side has read.
func (s *stream) ack(offset uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if offset < s.acked {
		return nil // told twice, on two lines
	}
	if offset > s.sent {
		return fmt.Errorf("%w: %d bytes were read, of %d that were sent", ErrMalformed, offset, s.sent)
	}
	rest := s.out[offset-s.acked:]
	if len(rest) == 0 {
		s.out = nil
	} else {
		s.out = rest
	}
	s.acked = offset
	s.cond.Broadcast()
	return nil
}

// end takes word of the other side's end.
func (s *stream) end(offset uint64, reason string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.taken + uint64(len(s.in)); offset != at {
		return fmt.Errorf("%w: the end at %d, expected at %d", ErrMalformed, offset, at)
	}
	if s.ended {
		return nil
	}
	s.ended, s.why = true, io.EOF
	if reason != "" {
		s.why = &StreamError{Reason: reason}
	}
	s.cond.Broadcast()
	return nil
}

// next is what is to be sent now by a line: word of what was read, bytes, or the end.
func (s *stream) next(line int) (frame, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil || line != s.lines {
		return frame{}, false
	}
	if s.taken-s.told >= ackEvery {
		s.told = s.taken
		return frame{kind: kindAck, number: s.taken}, true
	}
	if at := s.sent - s.acked; at < uint64(len(s.out)) {
		data := s.out[at:min(uint64(len(s.out)), at+maxData)]
		f := frame{kind: kindData, number: s.sent, payload: append([]byte(nil), data...)}
		s.sent += uint64(len(data))
		return f, true
	}
	if s.finished && !s.endSent {
		s.endSent = true
		s.sayGone()
		return frame{kind: kindEnd, number: s.sent, payload: []byte(s.reason)}, true
	}
	return frame{}, false
}

// sayGone closes gone, once.
func (s *stream) sayGone() {
	select {
	case <-s.gone:
	default:
		close(s.gone)
	}
}

// drained is closed when the end was sent on a line, behind everything else.
func (s *stream) drained() <-chan struct{} { return s.gone }
