package vmdk

import "github.com/hikae/hikae/pipe"

// merger joins neighbouring extents of one kind.
type merger struct {
	yield   func(pipe.Extent, error) bool
	last    pipe.Extent
	stopped bool
}

func (m *merger) add(e pipe.Extent) {
	switch {
	case m.stopped || e.Len == 0:
	case m.last.Len > 0 && m.last.Kind == e.Kind:
		m.last.Len += e.Len
	default:
		m.flush()
		m.last = e
	}
}

func (m *merger) flush() {
	if m.last.Len > 0 && !m.stopped {
		m.stopped = !m.yield(m.last, nil)
	}
	m.last = pipe.Extent{}
}

func (m *merger) fail(err error) {
	if m.flush(); !m.stopped {
		m.stopped = true
		m.yield(pipe.Extent{}, err)
	}
}
