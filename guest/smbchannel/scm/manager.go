package scm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"

	"github.com/hikae/hikae/guest/smbchannel/rpc"
)

// Dial opens the pipe named [Pipe]. Each write is one message.
type Dial func(ctx context.Context) (io.ReadWriteCloser, error)

// Manager is a service control manager. Its methods may be called by several goroutines; calls go one at a time. An
// association that broke is made anew for the next call: a call that it broke is not made again, since whether it was
// carried out is not known.
type Manager struct {
	dial Dial

	mu     sync.Mutex
	conn   *rpc.Conn
	handle Handle
}

// Open opens a manager and asks for the right to make services, which machines give to administrators alone.
func Open(ctx context.Context, dial Dial) (*Manager, error) {
	m := &Manager{dial: dial}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.connect(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Manager) connect(ctx context.Context) error {
	if m.conn != nil {
		return nil
	}
	pipe, err := m.dial(ctx)
	if err != nil {
		return fmt.Errorf("service control manager: %w", err)
	}
	if m.conn, err = rpc.Bind(ctx, pipe, Interface); err != nil {
		m.conn = nil
		return fmt.Errorf("service control manager: %w", err)
	}
	if m.handle, err = m.open(ctx, "open the manager", "", OpenSCManagerW, openArgs(managerConnect|managerCreate)); err != nil {
		m.drop()
		return err
	}
	return nil
}

func (m *Manager) drop() {
	if m.conn != nil {
		_ = m.conn.Close()
		m.conn = nil
	}
}

// Service is what is made of a program.
type Service struct {
	Name    string // no slash, backslash, comma or space
	Display string // what people see
	Command string // its program, quoted, and its arguments
}

// Create makes a service that runs as LocalSystem in a process of its own when it is started, and not before.
func (m *Manager) Create(ctx context.Context, s Service) error {
	if err := s.check(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.connect(ctx); err != nil {
		return err
	}
	args := CreateArgs{
		Manager: m.handle, Name: s.Name, Display: s.Display, Access: serviceStatus,
		Type: ownProcess, Start: demandStart, Control: ignoreError, Command: s.Command,
	}
	results, err := m.call(ctx, CreateServiceW, args.Encode())
	if err != nil {
		return fmt.Errorf("create service %s: %w", s.Name, err)
	}
	r := rpc.Reader{Data: results}
	if r.Pointer() { // a tag, where there is a load order group
		r.Uint32()
	}
	service, err := m.opened(&r, "create", s.Name)
	if err != nil {
		return err
	}
	return m.close(ctx, service)
}

func (s Service) check() error {
	switch {
	case !validName(s.Name):
		return fmt.Errorf("not a service's name: %.300q", s.Name)
	case len(s.Display) > MaxName || s.Command == "" || len(s.Command) > MaxCommand:
		return fmt.Errorf("service %s: a command of %d characters, at most %d", s.Name, len(s.Command), MaxCommand)
	case strings.ContainsAny(s.Command+s.Display, "\x00\r\n%"):
		// A command is expanded like a shell's: %SystemRoot% would be something else.
		return fmt.Errorf("service %s: a command with a percent sign or a control character", s.Name)
	}
	return nil
}

func validName(s string) bool {
	return s != "" && len(s) <= MaxName && !strings.ContainsAny(s, "/\\, \x00\r\n")
}

// Start starts a service. It returns when the service's process has answered; some are still Starting then.
func (m *Manager) Start(ctx context.Context, name string) error {
	return m.with(ctx, name, serviceStart, func(h Handle) error {
		results, err := m.call(ctx, StartServiceW, startArgs(h))
		if err != nil {
			return err
		}
		r := rpc.Reader{Data: results}
		return ended(&r, "start", name)
	})
}

// Status asks how a service is.
func (m *Manager) Status(ctx context.Context, name string) (s Status, err error) {
	err = m.with(ctx, name, serviceStatus, func(h Handle) error {
		s, err = m.status(ctx, QueryServiceStatus, "query", name, h[:])
		return err
	})
	return s, err
}

// Stop tells a service to stop, and does not wait for it. One that does not run is [NotActive].
func (m *Manager) Stop(ctx context.Context, name string) error {
	return m.with(ctx, name, serviceStop, func(h Handle) error {
		_, err := m.status(ctx, ControlService, "stop", name, controlArgs(h, controlStop))
		return err
	})
}

// Delete takes a service away: at once where it does not run, and otherwise when its process ends.
func (m *Manager) Delete(ctx context.Context, name string) error {
	return m.with(ctx, name, serviceDelete, func(h Handle) error {
		results, err := m.call(ctx, DeleteService, h[:])
		if err != nil {
			return err
		}
		r := rpc.Reader{Data: results}
		return ended(&r, "delete", name)
	})
}

// Close ends the association.
func (m *Manager) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop()
	return nil
}

// with opens a service for one call.
func (m *Manager) with(ctx context.Context, name string, access uint32, do func(Handle) error) error {
	if !validName(name) {
		return fmt.Errorf("not a service's name: %.300q", name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.connect(ctx); err != nil {
		return err
	}
	h, err := m.open(ctx, "open", name, OpenServiceW, openServiceArgs(m.handle, name, access))
	if err != nil {
		return err
	}
	if err := do(h); err != nil {
		if m.conn != nil {
			_ = m.close(ctx, h) // the first error is the one that counts
		}
		var own *Error
		if errors.As(err, &own) {
			return err
		}
		return fmt.Errorf("service %s: %w", name, err)
	}
	return m.close(ctx, h)
}

// call makes a call. What breaks the association drops it, a fault too: some servers end it after one.
func (m *Manager) call(ctx context.Context, procedure uint16, args []byte) ([]byte, error) {
	results, err := m.conn.Call(ctx, procedure, args)
	if err != nil {
		m.drop()
	}
	return results, err
}

func (m *Manager) open(ctx context.Context, call, name string, procedure uint16, args []byte) (Handle, error) {
	results, err := m.call(ctx, procedure, args)
	if err != nil {
		return Handle{}, fmt.Errorf("%s: %w", (&Error{Call: call, Name: name}).subject(), err)
	}
	r := rpc.Reader{Data: results}
	return m.opened(&r, call, name)
}

func (e *Error) subject() string {
	if e.Name == "" {
		return e.Call
	}
	return e.Call + " service " + e.Name
}

// opened reads a handle and the error behind it. What a call that failed left open is not known, so that the association
// goes, but where it has said that there is no such service, or one already.
func (m *Manager) opened(r *rpc.Reader, call, name string) (h Handle, err error) {
	copy(h[:], r.Bytes(len(h)))
	if err := ended(r, call, name); err != nil {
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
			m.drop()
		}
		return Handle{}, err
	}
	if h == (Handle{}) {
		return h, fmt.Errorf("%s service %s: %w: no handle", call, name, rpc.ErrMalformed)
	}
	return h, nil
}

// close closes a handle. One that stays open keeps a deleted service alive: where that may be, the association goes, and
// all of its handles with it.
func (m *Manager) close(ctx context.Context, h Handle) error {
	results, err := m.call(ctx, CloseServiceHandle, h[:])
	if err != nil {
		return fmt.Errorf("close a service's handle: %w", err)
	}
	r := rpc.Reader{Data: results}
	r.Bytes(len(h))
	if err = ended(&r, "close the handle of", ""); err != nil {
		m.drop()
	}
	return err
}

func (m *Manager) status(ctx context.Context, procedure uint16, call, name string, args []byte) (Status, error) {
	results, err := m.call(ctx, procedure, args)
	if err != nil {
		return Status{}, err
	}
	r := rpc.Reader{Data: results}
	s := GetStatus(&r)
	return s, ended(&r, call, name)
}

// ended reads the error that ends the results of every procedure.
func ended(r *rpc.Reader, call, name string) error {
	code := r.Uint32()
	if err := r.End(); err != nil {
		return fmt.Errorf("%s service %s: %w", call, name, err)
	}
	if code != 0 {
		return &Error{Call: call, Name: name, Code: code}
	}
	return nil
}
