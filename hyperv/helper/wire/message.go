package wire

import "fmt"

// Message is one of the structs of this package that have a kind.
type Message interface {
	Kind() byte
	put(*encoder)
	take(*decoder)
}

// Encode makes a frame of a message.
func Encode(call uint32, m Message) (Frame, error) {
	e := &encoder{}
	m.put(e)
	if e.err != nil {
		return Frame{}, fmt.Errorf("kind %d: %w", m.Kind(), e.err)
	}
	f := Frame{Kind: m.Kind(), Call: call, Payload: e.b}
	return f, check(f.Kind, f.Call, int64(len(f.Payload)))
}

// Decode decodes a frame into the message that it must be.
func Decode(f Frame, into Message) error {
	if f.Kind != into.Kind() {
		return fmt.Errorf("%w: kind %d where %d belongs", ErrMalformed, f.Kind, into.Kind())
	}
	d := &decoder{b: f.Payload}
	into.take(d)
	if err := d.end(); err != nil {
		return fmt.Errorf("kind %d: %w", f.Kind, err)
	}
	return nil
}

// New is an empty message of a kind; nil where there is none.
func New(kind byte) Message {
	if empty := messages[kind]; empty != nil {
		return empty()
	}
	return nil
}

var messages = map[byte]func() Message{
	KindHello:                   func() Message { return &Hello{} },
	KindComponents:              func() Message { return &Components{} },
	KindTake:                    func() Message { return &Take{} },
	KindOpen:                    func() Message { return &Open{} },
	KindRead:                    func() Message { return &ReadAt{} },
	KindShut:                    func() Message { return &Shut{} },
	KindList:                    func() Message { return &List{} },
	KindFinish:                  func() Message { return &Finish{} },
	KindDelete:                  func() Message { return &Delete{} },
	KindSweep:                   func() Message { return &Sweep{} },
	KindPing:                    func() Message { return &Ping{} },
	KindCancel:                  func() Message { return &Cancel{} },
	KindBye:                     func() Message { return &Bye{} },
	KindProgress:                func() Message { return &Progress{} },
	KindFailure:                 func() Message { return &Failure{} },
	KindHello + KindAnswer:      func() Message { return &HelloAnswer{} },
	KindComponents + KindAnswer: func() Message { return &ComponentsAnswer{} },
	KindTake + KindAnswer:       func() Message { return &TakeAnswer{} },
	KindOpen + KindAnswer:       func() Message { return &OpenAnswer{} },
	KindRead + KindAnswer:       func() Message { return &ReadAnswer{} },
	KindShut + KindAnswer:       func() Message { return &Done{Of: KindShut} },
	KindList + KindAnswer:       func() Message { return &ListAnswer{} },
	KindFinish + KindAnswer:     func() Message { return &Done{Of: KindFinish} },
	KindDelete + KindAnswer:     func() Message { return &Done{Of: KindDelete} },
	KindSweep + KindAnswer:      func() Message { return &SweepAnswer{} },
	KindPing + KindAnswer:       func() Message { return &Done{Of: KindPing} },
	KindBye + KindAnswer:        func() Message { return &Done{Of: KindBye} },
}

const magic = "HKHV"

// Hello begins a session.
type Hello struct {
	Version     uint16
	LeaseMillis uint32 // without a word from the client the session ends. Zero: a minute
	Session     string // for whoever reads logs of the host
}

// Kind implements [Message].
func (*Hello) Kind() byte { return KindHello }

func (m *Hello) put(e *encoder) {
	e.b = append(e.b, magic...)
	e.u16(m.Version)
	e.u32(m.LeaseMillis)
	e.text(m.Session)
}

func (m *Hello) take(d *decoder) {
	if string(d.take(len(magic))) != magic {
		d.fail("no Hello of this protocol")
	}
	m.Version, m.LeaseMillis, m.Session = d.u16(), d.u32(), d.text()
}

// HelloAnswer says who is there.
type HelloAnswer struct {
	Version    uint16
	Product    string
	Host       string
	Unverified string // what was never run on a real system of this kind, for users
}

// Kind implements [Message].
func (*HelloAnswer) Kind() byte { return KindHello + KindAnswer }

func (m *HelloAnswer) put(e *encoder) {
	e.u16(m.Version)
	e.text(m.Product)
	e.text(m.Host)
	e.text(m.Unverified)
}

func (m *HelloAnswer) take(d *decoder) {
	m.Version, m.Product, m.Host, m.Unverified = d.u16(), d.text(), d.text(), d.text()
}

// Components asks for what Hyper-V's writer has.
type Components struct{}

// Kind implements [Message].
func (*Components) Kind() byte    { return KindComponents }
func (*Components) put(*encoder)  {}
func (*Components) take(*decoder) {}

// Component is a VM as the writer has it.
type Component struct {
	VM      string
	Caption string
	Files   []string
	Volumes []string
}

// ComponentsAnswer has all of them.
type ComponentsAnswer struct{ Components []Component }

// Kind implements [Message].
func (*ComponentsAnswer) Kind() byte { return KindComponents + KindAnswer }

func (m *ComponentsAnswer) put(e *encoder) {
	e.count(len(m.Components))
	for _, c := range m.Components {
		e.text(c.VM)
		e.text(c.Caption)
		e.texts(c.Files)
		e.texts(c.Volumes)
	}
}

func (m *ComponentsAnswer) take(d *decoder) {
	for range d.count(12) {
		m.Components = append(m.Components, Component{d.text(), d.text(), d.texts(), d.texts()})
	}
}

// Done is the answer that has nothing to say.
type Done struct{ Of byte }

// Kind implements [Message].
func (m *Done) Kind() byte  { return m.Of + KindAnswer }
func (*Done) put(*encoder)  {}
func (*Done) take(*decoder) {}

// Ping lengthens the lease. Every other frame does so too.
type Ping struct{}

// Kind implements [Message].
func (*Ping) Kind() byte    { return KindPing }
func (*Ping) put(*encoder)  {}
func (*Ping) take(*decoder) {}

// Cancel ends a call that is open: its answer comes when what it had begun is taken back.
type Cancel struct{}

// Kind implements [Message].
func (*Cancel) Kind() byte    { return KindCancel }
func (*Cancel) put(*encoder)  {}
func (*Cancel) take(*decoder) {}

// Bye ends the session. Its answer comes when everything is taken back.
type Bye struct{}

// Kind implements [Message].
func (*Bye) Kind() byte    { return KindBye }
func (*Bye) put(*encoder)  {}
func (*Bye) take(*decoder) {}
