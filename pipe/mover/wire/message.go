package wire

import "github.com/hikae/hikae/pipe"

// Message is one of the types below; the set is closed.
type Message interface {
	Kind() Kind
	// fields names the message's fields in order, for writing and for reading.
	fields(c *coder)
}

// Version is that of the protocol. There is no other, and none is negotiated.
const Version = 1

// Magic begins every Hello.
const Magic uint64 = 0x48494b41452d4d56 // "HIKAE-MV"

// Bounds of fields. Texts are UTF-8, lengths in bytes.
const (
	MaxName     = 255      // a VM, a disk, a blob, a peer, a point
	MaxText     = 1 << 10  // for people
	MaxFacts    = 256      // pairs
	MaxFact     = 1 << 10  // a fact, a change id
	MaxDisks    = 256      // of a VM
	MaxBlobs    = 256      // of a point
	MaxIDs      = 1024     // in one Query
	MaxExtents  = 4096     // in one ExtentList
	MaxPoints   = 64       // in one PointList
	MaxContent  = 4 << 20  // plain bytes in one message
	MaxStored   = maxData  // encoded bytes in one message
	MaxObject   = 64 << 20 // of a store
	MaxPart     = 1 << 20  // of an object or blob in one message
	MaxPatterns = 256      // of files to exclude
	MaxResult   = 512 << 10
	MaxLanes    = 16  // of one session
	MaxCalls    = 256 // under way at once

	MaxAmounts  = 16 // kinds of absence of a disk
	MaxKindName = 32 // the name of one

	MaxSize = 1 << 62 // of anything that has a size, an offset, or an end
)

// Hello is the first message on a lane, from the side that opened the connection.
type Hello struct {
	Version uint16
	Role    Role
	Session [16]byte // random, chosen by the caller; the collector's own number where Role is Collector
	Lane    uint32   // counts the lanes that the session ever had, from 0

	other []byte // what another version says behind its number: a Hello of any version can be read, so as to be refused
}

// Role says who calls on a lane.
type Role uint8

const (
	Caller    Role = 1 // the side that opened the connection makes calls
	Collector Role = 2 // the side that opened it answers calls: a target that collects from a source
)

func (*Hello) Kind() Kind { return KindHello }
func (m *Hello) fields(c *coder) {
	magic := Magic
	c.u64(&magic)
	if magic != Magic {
		c.fail("it does not begin as a mover does")
	}
	c.u16(&m.Version)
	if m.Version != Version {
		c.rest(&m.other, maxSmall)
		return
	}
	c.u8((*uint8)(&m.Role))
	if m.Role != Caller && m.Role != Collector {
		c.fail("role %d", m.Role)
	}
	c.id16(&m.Session)
	c.u32(&m.Lane)
}

// Welcome accepts a lane.
type Welcome struct {
	Version   uint16
	Resumed   bool   // the session was known: its state is as the caller left it
	MaxCalls  uint32 // calls that may be under way at once
	Window    uint64 // bytes of content that may be under way at once
	Undurable uint64 // bytes of content that may be unsettled at once
	MaxLanes  uint16
	PingEvery uint32 // milliseconds without a word after which a side says Ping
	DeadAfter uint32 // milliseconds without a word after which a side gives the lane up
	Linger    uint32 // seconds that a session without a lane is kept
	Peer      string // the caller's name, as it was enrolled
}

func (*Welcome) Kind() Kind { return KindWelcome }
func (m *Welcome) fields(c *coder) {
	c.u16(&m.Version)
	c.flag(&m.Resumed)
	c.u32(&m.MaxCalls)
	c.u64(&m.Window)
	c.u64(&m.Undurable)
	c.u16(&m.MaxLanes)
	c.u32(&m.PingEvery)
	c.u32(&m.DeadAfter)
	c.u32(&m.Linger)
	c.text(&m.Peer, MaxName)
}

// Refuse is the last message on a lane: the connection is closed after it.
type Refuse struct {
	Code Code
	Text string
}

func (*Refuse) Kind() Kind { return KindRefuse }
func (m *Refuse) fields(c *coder) {
	c.code(&m.Code)
	c.prose(&m.Text, MaxText)
}

// code is one of the codes that there are. A failure that has none is written as CodeFailed.
func (c *coder) code(v *Code) {
	u := *v
	if c.writing && u == 0 {
		u = CodeFailed
	}
	c.u16((*uint16)(&u))
	if u < CodeFailed || u > codeLast {
		c.fail("code %d", u)
	}
	if !c.writing {
		*v = u
	}
}

// Ping asks whether the other side is there.
type Ping struct{ Nonce uint64 }

func (*Ping) Kind() Kind        { return KindPing }
func (m *Ping) fields(c *coder) { c.u64(&m.Nonce) }

// Pong answers a Ping.
type Pong struct{ Nonce uint64 }

func (*Pong) Kind() Kind        { return KindPong }
func (m *Pong) fields(c *coder) { c.u64(&m.Nonce) }

// Ack says that the caller needs no answer of any call below Below that is not in Open: it has it, or gave the call up.
// The other side forgets those calls; one that is still under way is ended. An Ack says all of it again, so that one
// that is lost does no harm, and one that comes late changes nothing.
type Ack struct {
	Below uint64
	Open  []uint64 // calls below Below that wait for their answers, ascending
}

func (*Ack) Kind() Kind { return KindAck }
func (m *Ack) fields(c *coder) {
	c.u64(&m.Below)
	list(c, &m.Open, MaxCalls, 8, c.u64)
	last := uint64(0)
	for _, n := range m.Open {
		if n <= last || n >= m.Below {
			c.fail("call %d is out of order", n)
		}
		last = n
	}
}

// Durable says that what the calls below Below brought for a writer survives the end of the target's process.
type Durable struct {
	Writer uint32
	Below  uint64
}

func (*Durable) Kind() Kind { return KindDurable }
func (m *Durable) fields(c *coder) {
	c.u32(&m.Writer)
	c.u64(&m.Below)
}

// Credit replaces the limits of Welcome.
type Credit struct {
	MaxCalls  uint32
	Window    uint64
	Undurable uint64
}

func (*Credit) Kind() Kind { return KindCredit }
func (m *Credit) fields(c *coder) {
	c.u32(&m.MaxCalls)
	c.u64(&m.Window)
	c.u64(&m.Undurable)
}

// Drain says that the answering side is about to end, in at most Seconds, or 0 where it does not say; the caller comes
// back later.
type Drain struct{ Seconds uint32 }

func (*Drain) Kind() Kind        { return KindDrain }
func (m *Drain) fields(c *coder) { c.u32(&m.Seconds) }

// OK is the answer that says nothing more.
type OK struct{}

func (*OK) Kind() Kind      { return KindOK }
func (*OK) fields(c *coder) {}

// Fail is the answer of a call that failed. It is an error.
type Fail struct {
	Code   Code
	Text   string
	Object string // what it is about: a point, an object of the store; may be empty
	Offset int64
	Length int64
}

func (*Fail) Kind() Kind { return KindFail }
func (m *Fail) fields(c *coder) {
	c.code(&m.Code)
	c.prose(&m.Text, MaxText)
	c.prose(&m.Object, MaxName)
	c.place(&m.Offset)
	c.place(&m.Length)
}

// place is a size that is made to fit when it is written, as prose is.
func (c *coder) place(v *int64) {
	if !c.writing {
		c.size(v)
		return
	}
	n := min(max(*v, 0), MaxSize)
	c.size(&n)
}

// Ref is a handle of the answering side: of a writer, a disk, an image, a blob, an object. It is good in its session.
type Ref = uint32

// extent writes a range with its kind.
func (c *coder) extent(e *pipe.Extent) {
	c.size(&e.Off)
	c.size(&e.Len)
	c.u8((*uint8)(&e.Kind))
	if e.Kind > pipe.Unchanged {
		c.fail("extent of kind %d", e.Kind)
	}
	c.span(e.Off, e.Len)
}
