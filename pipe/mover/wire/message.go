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
	MaxSessions = 16 // lanes of one session
)

// Hello is the first message on a lane, from the side that opened the connection.
type Hello struct {
	Version uint16
	Role    Role
	Session [16]byte // random, chosen by the caller; the collector's own number where Role is Collector
	Lane    uint32   // counts the lanes that the session ever had, from 0
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
	c.u8((*uint8)(&m.Role))
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
	c.u16((*uint16)(&m.Code))
	c.text(&m.Text, MaxText)
}

// Ping asks whether the other side is there.
type Ping struct{ Nonce uint64 }

func (*Ping) Kind() Kind        { return KindPing }
func (m *Ping) fields(c *coder) { c.u64(&m.Nonce) }

// Pong answers a Ping.
type Pong struct{ Nonce uint64 }

func (*Pong) Kind() Kind        { return KindPong }
func (m *Pong) fields(c *coder) { c.u64(&m.Nonce) }

// Ack says that the caller has the answers of all calls below Below, and will not ask for them again.
type Ack struct{ Below uint64 }

func (*Ack) Kind() Kind        { return KindAck }
func (m *Ack) fields(c *coder) { c.u64(&m.Below) }

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

// Drain says that the answering side is about to end; the caller comes back later.
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
	c.u16((*uint16)(&m.Code))
	c.text(&m.Text, MaxText)
	c.text(&m.Object, MaxName)
	c.size(&m.Offset)
	c.size(&m.Length)
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
	if e.Len > 1<<62-e.Off {
		c.fail("extent of %d bytes at %d", e.Len, e.Off)
	}
}
