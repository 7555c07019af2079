package scm

import (
	"github.com/hikae/hikae/guest/smbchannel/rpc"
)

// Interface is svcctl: 367abb81-9844-35f1-ad32-98f038001003, version 2.0 (MS-SCMR 1.9).
var Interface = rpc.Interface{Major: 2, UUID: [16]byte{
	0x81, 0xbb, 0x7a, 0x36, 0x44, 0x98, 0xf1, 0x35, 0xad, 0x32, 0x98, 0xf0, 0x38, 0x00, 0x10, 0x03,
}}

// Pipe is its name.
const Pipe = "svcctl"

// Procedures (MS-SCMR 3.1.4).
const (
	CloseServiceHandle = 0
	ControlService     = 1
	DeleteService      = 2
	QueryServiceStatus = 6
	CreateServiceW     = 12
	OpenSCManagerW     = 15
	OpenServiceW       = 16
	StartServiceW      = 19
)

// Rights, as few as will do (MS-SCMR 3.1.4).
const (
	managerConnect = 0x0001
	managerCreate  = 0x0002
	serviceStatus  = 0x0004
	serviceStart   = 0x0010
	serviceStop    = 0x0020
	serviceDelete  = 0x10000
)

// Bounds of MS-SCMR 2.2.
const (
	MaxName    = 256
	MaxCommand = 1024 // characters; the standard's 32 KiB would take more than one fragment
)

// Handle is what the machine calls something that is open.
type Handle [20]byte

// CreateArgs are the arguments of CreateServiceW that we use. The others are null.
type CreateArgs struct {
	Manager Handle
	Name    string
	Display string
	Access  uint32
	Type    uint32
	Start   uint32
	Control uint32 // of errors
	Command string
}

const (
	ownProcess  = 0x10
	demandStart = 3
	ignoreError = 0
)

// Encode writes the arguments as MS-SCMR 3.1.4.12 has them.
func (a CreateArgs) Encode() []byte {
	var w rpc.Writer
	w.Bytes(a.Manager[:])
	w.String(a.Name)
	w.OptionalString(a.Display)
	w.Uint32(a.Access)
	w.Uint32(a.Type)
	w.Uint32(a.Start)
	w.Uint32(a.Control)
	w.String(a.Command)
	w.Pointer(false) // load order group
	w.Pointer(false) // tag
	w.Pointer(false) // dependencies
	w.Uint32(0)
	w.Pointer(false) // account: LocalSystem
	w.Pointer(false) // password
	w.Uint32(0)
	return w.Data
}

// DecodeCreate reads what Encode writes. Other optional arguments than ours are malformed.
func DecodeCreate(b []byte) (a CreateArgs, err error) {
	r := rpc.Reader{Data: b}
	copy(a.Manager[:], r.Bytes(len(a.Manager)))
	a.Name = r.String(MaxName + 1)
	a.Display = r.OptionalString(MaxName + 1)
	a.Access, a.Type, a.Start, a.Control = r.Uint32(), r.Uint32(), r.Uint32(), r.Uint32()
	a.Command = r.String(MaxCommand + 1)
	for _, what := range []string{"load order group", "tag", "dependencies", "size of dependencies", "account", "password", "size of the password"} {
		if r.Uint32() != 0 {
			r.Fail("a %s that is not ours", what)
		}
	}
	return a, r.End()
}

// State says what a service does.
type State uint32

// The states (MS-SCMR 2.2.47).
const (
	Stopped State = iota + 1
	Starting
	Stopping
	Running
	Resuming
	Pausing
	Paused
)

func (s State) String() string {
	names := [...]string{"unknown", "stopped", "starting", "stopping", "running", "resuming", "pausing", "paused"}
	if s >= State(len(names)) {
		s = 0
	}
	return names[s]
}

// Status is how a service is.
type Status struct {
	Type     uint32
	State    State
	Accepted uint32 // controls
	Exit     uint32 // Win32 error of the service; 1066: see Specific
	Specific uint32 // its own exit code
	Check    uint32
	WaitHint uint32 // milliseconds
}

// ExitCode is the service's own code where it gave one, and otherwise the Win32 error that it ended with.
func (s Status) ExitCode() int {
	if s.Exit == serviceSpecific {
		return int(int32(s.Specific))
	}
	return int(s.Exit)
}

// Put writes it as MS-SCMR 2.2.47 has it.
func (s Status) Put(w *rpc.Writer) {
	for _, v := range []uint32{s.Type, uint32(s.State), s.Accepted, s.Exit, s.Specific, s.Check, s.WaitHint} {
		w.Uint32(v)
	}
}

// GetStatus reads what Put writes.
func GetStatus(r *rpc.Reader) (s Status) {
	s.Type, s.State, s.Accepted = r.Uint32(), State(r.Uint32()), r.Uint32()
	s.Exit, s.Specific, s.Check, s.WaitHint = r.Uint32(), r.Uint32(), r.Uint32(), r.Uint32()
	return s
}

// openArgs are those of OpenSCManagerW for the active database of the machine itself.
func openArgs(access uint32) []byte {
	var w rpc.Writer
	w.Pointer(false)
	w.Pointer(false)
	w.Uint32(access)
	return w.Data
}

// openServiceArgs are those of OpenServiceW.
func openServiceArgs(manager Handle, name string, access uint32) []byte {
	var w rpc.Writer
	w.Bytes(manager[:])
	w.String(name)
	w.Uint32(access)
	return w.Data
}

// startArgs are those of StartServiceW: no arguments beyond the command's own.
func startArgs(service Handle) []byte {
	var w rpc.Writer
	w.Bytes(service[:])
	w.Uint32(0)
	w.Pointer(false)
	return w.Data
}

// controlArgs are those of ControlService.
func controlArgs(service Handle, control uint32) []byte {
	var w rpc.Writer
	w.Bytes(service[:])
	w.Uint32(control)
	return w.Data
}

const controlStop = 1
