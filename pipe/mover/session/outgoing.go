package session

import (
	"slices"
	"sync"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// outgoing is one frame on its way into one lane's buffer. The content belongs to whoever made the call or the answer,
// and is copied piece by piece; after detach or drop nobody reads it any more.
type outgoing struct {
	mu   sync.Mutex
	sent func() // called once, when all of it was copied or the lane has ended
	head []byte
	body []byte
	off  int // copied so far
}

// frame prepares a message. It fails where a field breaks its bound.
func frame(number uint64, m wire.Message) (*outgoing, error) {
	head, body, err := wire.Split(make([]byte, 0, 128), wire.Frame{Call: number, Message: m})
	if err != nil {
		return nil, err
	}
	return outgoingOf(head, body), nil
}

func outgoingOf(head, body []byte) *outgoing {
	return &outgoing{head: head, body: body}
}

// copyTo copies the next bytes to p, and reports whether there are more.
func (o *outgoing) copyTo(p []byte) (n int, more bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.off < len(o.head) {
		n = copy(p, o.head[o.off:])
	}
	if at := o.off + n - len(o.head); at >= 0 && at < len(o.body) {
		n += copy(p[n:], o.body[at:])
	}
	o.off += n
	return n, o.off < len(o.head)+len(o.body)
}

// detach lets go of the content's memory. A frame that has begun must be said to its end: what is left of it is copied.
func (o *outgoing) detach() {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.off == 0:
		o.head, o.body = nil, nil
	case o.off < len(o.head)+len(o.body):
		o.body = slices.Clone(o.body)
	}
}

// drop ends the frame where it is, because its lane has ended. It reports whether any of it was copied.
func (o *outgoing) drop() (begun bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	begun = o.off > 0
	o.head, o.body = nil, nil
	return begun
}

// finish calls sent, if there is one.
func (o *outgoing) finish() {
	o.mu.Lock()
	sent := o.sent
	o.sent = nil
	o.mu.Unlock()
	if sent != nil {
		sent()
	}
}
