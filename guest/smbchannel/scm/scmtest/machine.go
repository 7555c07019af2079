package scmtest

import (
	"encoding/binary"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hikae/hikae/guest/smbchannel/rpc"
	"github.com/hikae/hikae/guest/smbchannel/scm"
)

// Process is what runs for a service.
type Process interface {
	// Stop asks it to end.
	Stop()
	// Done is closed when it has ended, Code is what it ended with.
	Done() <-chan struct{}
	Code() int
}

// Machine is the manager and its services. The zero value has none and lets everything be done.
type Machine struct {
	// Start starts a command for a service and returns when the service would have said that it runs. nil: nothing can
	// be started.
	Start         func(command string) (Process, error)
	mu            sync.Mutex
	before, after Hook
	services      map[string]*service
	handles       uint64
}

type service struct {
	name, shown string
	command     string
	process     Process
	ran, marked bool
	stopping    bool
	open        int // handles
}

// Hook is called with the number of a procedure, and with the service's name where it has one. What it returns is the
// answer instead: an *scm.Error with its code, a *rpc.Fault, or an error that ends the association.
type Hook func(procedure uint16, name string) error

// Intercept has hooks called before each procedure and when it was carried out; nil is none.
func (m *Machine) Intercept(before, after Hook) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.before, m.after = before, after
}

// Services lists the names of all services, and of each the command.
func (m *Machine) Services() map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweep()
	list := map[string]string{}
	for _, s := range m.services {
		list[s.shown] = s.command
	}
	return list
}

// Names are the names of all services, in order.
func (m *Machine) Names() []string { return slices.Sorted(maps.Keys(m.Services())) }

// Serve is one association, until the pipe ends.
func (m *Machine) Serve(pipe io.ReadWriter) error {
	a := association{machine: m, open: map[scm.Handle]string{}}
	defer a.end()
	return rpc.Serve(pipe, `\PIPE\`+scm.Pipe, scm.Interface, a.call)
}

// sweep forgets services that were deleted and are no more in use.
func (m *Machine) sweep() {
	for key, s := range m.services {
		if s.marked && s.open == 0 && !s.running() {
			delete(m.services, key)
		}
	}
}

func (s *service) running() bool {
	if s.process == nil {
		return false
	}
	select {
	case <-s.process.Done():
		return false
	default:
		return true
	}
}

func (s *service) status() scm.Status {
	st := scm.Status{Type: 0x10, State: scm.Stopped, Exit: 1077} // never started
	switch {
	case s.running() && s.stopping:
		st.State, st.Exit, st.WaitHint = scm.Stopping, 0, 1000
	case s.running():
		st.State, st.Accepted, st.Exit = scm.Running, 1, 0
	case s.ran && s.process != nil && s.process.Code() != 0:
		st.Exit, st.Specific = 1066, uint32(int32(s.process.Code()))
	case s.ran:
		st.Exit = 0
	}
	return st
}

// association is one caller: its handles go with it.
type association struct {
	machine *Machine
	open    map[scm.Handle]string // the service's key; empty for the manager
}

const managerKey = ""

func (a *association) end() {
	a.machine.mu.Lock()
	defer a.machine.mu.Unlock()
	for h := range a.open {
		a.close(h)
	}
	a.machine.sweep()
}

func (a *association) close(h scm.Handle) bool {
	key, ok := a.open[h]
	if !ok {
		return false
	}
	delete(a.open, h)
	if s := a.machine.services[key]; s != nil {
		s.open--
	}
	return true
}

func (a *association) handle(key string) (h scm.Handle) {
	a.machine.handles++
	binary.LittleEndian.PutUint64(h[4:], a.machine.handles)
	binary.LittleEndian.PutUint64(h[12:], 0x5eed)
	a.open[h] = key
	if s := a.machine.services[key]; s != nil {
		s.open++
	}
	return h
}

// call carries out a procedure. The lock is let go while a program starts.
func (a *association) call(procedure uint16, args []byte) ([]byte, error) {
	m := a.machine
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweep()
	c := call{association: a, args: rpc.Reader{Data: args}}
	name := c.subject(procedure, args)
	if answer, err := c.hook(m.before, procedure, name); answer != nil || err != nil {
		return answer, err
	}
	results, err := c.dispatch(procedure)
	if err != nil {
		return nil, err
	}
	if answer, err := c.hook(m.after, procedure, name); answer != nil || err != nil {
		return answer, err
	}
	return results, nil
}

func key(name string) string { return strings.ToLower(name) }
