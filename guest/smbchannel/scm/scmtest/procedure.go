package scmtest

import (
	"errors"

	"github.com/hikae/hikae/guest/smbchannel/rpc"
	"github.com/hikae/hikae/guest/smbchannel/scm"
)

// call is one call of a procedure.
type call struct {
	*association
	args rpc.Reader
}

// subject is the name of the service that a call is about.
func (c *call) subject(procedure uint16, args []byte) string {
	switch procedure {
	case scm.OpenSCManagerW:
		return ""
	case scm.CreateServiceW:
		created, _ := scm.DecodeCreate(args)
		return created.Name
	case scm.OpenServiceW:
		r := rpc.Reader{Data: args}
		r.Bytes(len(scm.Handle{}))
		return r.String(scm.MaxName + 1)
	}
	var h scm.Handle
	copy(h[:], args)
	if s := c.machine.services[c.open[h]]; s != nil {
		return s.shown
	}
	return ""
}

// hook lets a test answer instead. A code becomes results of the procedure's own shape.
func (c *call) hook(f Hook, procedure uint16, name string) ([]byte, error) {
	if f == nil {
		return nil, nil
	}
	c.machine.mu.Unlock()
	err := f(procedure, name)
	c.machine.mu.Lock()
	var coded *scm.Error
	if errors.As(err, &coded) {
		return shape(procedure, coded.Code), nil
	}
	return nil, err
}

// shape is what a procedure answers with a code and nothing else.
func shape(procedure uint16, code uint32) []byte {
	var w rpc.Writer
	switch procedure {
	case scm.OpenSCManagerW, scm.OpenServiceW, scm.CloseServiceHandle:
		w.Bytes(make([]byte, len(scm.Handle{})))
	case scm.CreateServiceW:
		w.Pointer(false)
		w.Bytes(make([]byte, len(scm.Handle{})))
	case scm.QueryServiceStatus, scm.ControlService:
		scm.Status{}.Put(&w)
	}
	w.Uint32(code)
	return w.Data
}

func (c *call) dispatch(procedure uint16) ([]byte, error) {
	switch procedure {
	case scm.OpenSCManagerW:
		return c.openManager()
	case scm.CreateServiceW:
		return c.create()
	case scm.OpenServiceW:
		return c.openService()
	case scm.CloseServiceHandle:
		return c.closeHandle()
	case scm.StartServiceW:
		return c.start()
	case scm.QueryServiceStatus:
		return c.query()
	case scm.ControlService:
		return c.control()
	case scm.DeleteService:
		return c.delete()
	}
	return nil, &rpc.Fault{Status: rpc.FaultUnknownProcedure}
}

func badStub() error { return &rpc.Fault{Status: rpc.FaultBadStub} }

func (c *call) readHandle() (h scm.Handle) {
	copy(h[:], c.args.Bytes(len(h)))
	return h
}

// service is the one that the call's first argument is a handle of.
func (c *call) service() (*service, error) {
	h := c.readHandle()
	key, ok := c.open[h]
	if !ok || key == managerKey {
		return nil, &rpc.Fault{Status: rpc.FaultContext}
	}
	return c.machine.services[key], nil
}

func opened(h scm.Handle) []byte {
	var w rpc.Writer
	w.Bytes(h[:])
	w.Uint32(0)
	return w.Data
}

func (c *call) openManager() ([]byte, error) {
	c.args.OptionalString(1024) // the machine
	database := c.args.OptionalString(scm.MaxName + 1)
	c.args.Uint32()
	if c.args.End() != nil {
		return nil, badStub()
	}
	if database != "" && database != "ServicesActive" {
		return shape(scm.OpenSCManagerW, 1065), nil // no such database
	}
	return opened(c.handle(managerKey)), nil
}

func (c *call) create() ([]byte, error) {
	args, err := scm.DecodeCreate(c.args.Data)
	if err != nil {
		return nil, badStub()
	}
	if key, ok := c.open[args.Manager]; !ok || key != managerKey {
		return nil, &rpc.Fault{Status: rpc.FaultContext}
	}
	switch s := c.machine.services[key(args.Name)]; {
	case s != nil && s.marked:
		return shape(scm.CreateServiceW, scm.MarkedForDelete), nil
	case s != nil:
		return shape(scm.CreateServiceW, scm.ServiceExists), nil
	case args.Type != 0x10 || args.Start != 3 || args.Control > 3 || args.Name == "" || args.Command == "":
		return shape(scm.CreateServiceW, scm.InvalidParameter), nil
	}
	if c.machine.services == nil {
		c.machine.services = map[string]*service{}
	}
	c.machine.services[key(args.Name)] = &service{name: key(args.Name), shown: args.Name, command: args.Command}
	h := c.handle(key(args.Name))
	var w rpc.Writer
	w.Pointer(false)
	w.Bytes(h[:])
	w.Uint32(0)
	return w.Data, nil
}

func (c *call) openService() ([]byte, error) {
	h := c.readHandle()
	name := c.args.String(scm.MaxName + 1)
	c.args.Uint32()
	if c.args.End() != nil {
		return nil, badStub()
	}
	if key, ok := c.open[h]; !ok || key != managerKey {
		return nil, &rpc.Fault{Status: rpc.FaultContext}
	}
	if c.machine.services[key(name)] == nil {
		return shape(scm.OpenServiceW, scm.NoSuchService), nil
	}
	return opened(c.handle(key(name))), nil
}

func (c *call) closeHandle() ([]byte, error) {
	if !c.close(c.readHandle()) {
		return nil, &rpc.Fault{Status: rpc.FaultContext}
	}
	c.machine.sweep()
	return opened(scm.Handle{}), nil
}

func (c *call) start() ([]byte, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	if arguments := c.args.Uint32(); arguments != 0 || c.args.Pointer() {
		return nil, badStub()
	}
	switch {
	case s.running():
		return shape(scm.StartServiceW, scm.AlreadyRunning), nil
	case s.marked:
		return shape(scm.StartServiceW, scm.MarkedForDelete), nil
	case c.machine.Start == nil:
		return shape(scm.StartServiceW, scm.FileNotFound), nil
	}
	c.machine.mu.Unlock()
	process, err := c.machine.Start(s.command)
	c.machine.mu.Lock()
	if err != nil {
		var coded *scm.Error
		if errors.As(err, &coded) {
			return shape(scm.StartServiceW, coded.Code), nil
		}
		return shape(scm.StartServiceW, scm.Timeout), nil
	}
	s.process, s.ran, s.stopping = process, true, false
	return shape(scm.StartServiceW, 0), nil
}

func (c *call) query() ([]byte, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	return statusOf(s, 0), nil
}

func statusOf(s *service, code uint32) []byte {
	var w rpc.Writer
	s.status().Put(&w)
	w.Uint32(code)
	return w.Data
}

func (c *call) control() ([]byte, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	switch control := c.args.Uint32(); {
	case control != 1:
		return statusOf(s, scm.InvalidParameter), nil
	case !s.running():
		return statusOf(s, scm.NotActive), nil
	}
	s.stopping = true
	s.process.Stop()
	return statusOf(s, 0), nil
}

func (c *call) delete() ([]byte, error) {
	s, err := c.service()
	if err != nil {
		return nil, err
	}
	if s.marked {
		return shape(scm.DeleteService, scm.MarkedForDelete), nil
	}
	s.marked = true
	return shape(scm.DeleteService, 0), nil
}
