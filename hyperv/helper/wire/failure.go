package wire

// Code says what kind of failure it is.
type Code uint8

// The codes.
const (
	Failed      Code = iota + 1 // anything else
	Missing                     // no such file, VM, set …
	Denied                      // the service, or a rule, refuses
	Unsupported                 // this host cannot do it
	Late                        // a limit, or the client, ended it
	Invalid                     // arguments out of their bounds
	State                       // not now: out of order
	Busy                        // another requester is at work
	Writer                      // a writer failed
)

// Failure is the end of a call that failed.
type Failure struct {
	Code      Code
	Again     bool // the same may succeed a little later
	Operation string
	Message   string
	Hint      string
}

// Kind implements [Message].
func (*Failure) Kind() byte { return KindFailure }

func (m *Failure) put(e *encoder) {
	e.u8(uint8(m.Code))
	e.yes(m.Again)
	e.text(m.Operation)
	e.text(m.Message)
	e.text(m.Hint)
}

func (m *Failure) take(d *decoder) {
	m.Code, m.Again, m.Operation, m.Message, m.Hint = Code(d.u8()), d.yes(), d.text(), d.text(), d.text()
}

func (m *Failure) Error() string {
	s := m.Message
	if m.Operation != "" {
		s = m.Operation + ": " + s
	}
	if m.Hint != "" {
		s += " (" + m.Hint + ")"
	}
	return s
}
