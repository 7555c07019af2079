package guest

import (
	"context"
	"io"

	"github.com/hikae/hikae"
)

// Kind names a kind of channel. It is what people write in an order of channels.
type Kind string

// The kinds of channel.
const (
	SSH      Kind = "ssh"
	SMB      Kind = "smb"
	WinRM    Kind = "winrm"
	VSphere  Kind = "vsphere"
	PSDirect Kind = "psdirect"
	QGA      Kind = "qga"
	// Direct is the port of a persistent component.
	Direct Kind = "direct"
)

// Networkless reports whether a kind reaches guests that no network leads to.
func (k Kind) Networkless() bool { return k == VSphere || k == PSDirect || k == QGA }

// Way is one kind of channel, set up for one guest and not yet opened. It may be used by several goroutines.
type Way interface {
	Kind() Kind
	// Probe finds out whether this way is open, within the context's deadline (10 s where it has none). It leaves
	// nothing in the guest. A way that is closed is a Finding, not an error.
	Probe(ctx context.Context) Finding
	// Open opens it. An error is a *WayError that says in words what to change.
	Open(ctx context.Context) (Channel, error)
}

// Channel is an open way into a guest. Paths are absolute, in the guest's own notation. The methods may be called by
// several goroutines. Every wait ends with the context; what a program prints is bounded.
type Channel interface {
	hikae.GuestChannel
	Kind() Kind
	// System is what the channel learned of the guest when it was opened.
	System() System
	// MakeDir makes a folder that only this account (on Windows: SYSTEM and administrators) can enter. That it exists
	// is fs.ErrExist: a folder that somebody else made is not ours.
	MakeDir(ctx context.Context, path string) error
	// Remove removes a file, or a folder and all in it, following no link. What is not there is no error.
	Remove(ctx context.Context, path string) error
}

// Launcher is an optional ability of a channel: it starts a program and connects to it, so that frames need no
// process of their own. See [Connect].
type Launcher interface {
	// Launch starts a program that was uploaded. What is written to the stream it reads, what it writes is read.
	// Close ends the program's input and, within 5 s, the program. The stream's reads end with io.EOF when the program
	// or the link ends. The context bounds the start alone.
	Launch(ctx context.Context, p Program) (io.ReadWriteCloser, error)
}

// Program is a component that lies ready in the guest.
type Program struct {
	Path string   // of its file
	Args []string // before those that the channel adds
	Name string   // [a-z0-9-], unique to this deployment: what a service or a pipe is called
}

// System is what is known of a guest's operating system.
type System struct {
	OS   string // "linux", "windows", or what else the guest calls itself, in lower case
	Arch string // as Go calls it: "amd64", "arm64"
	Name string // host name
	User string // whom the channel acts as
	// Admin says that the account may do what the component needs: root or passwordless sudo; a member of
	// Administrators that remote UAC does not cut down.
	Admin bool
	// Elevate is put before a command to run it as root: empty, or {"sudo", "-n"}.
	Elevate []string
	// Temp are folders for the component, best first: each is there, can be written to and lets programs run.
	Temp []string
}

// Finding is the answer of a probe.
type Finding struct {
	Kind    Kind   `json:"kind"`
	Open    bool   `json:"open"`              // a component can be brought in by this way
	Reached bool   `json:"reached"`           // something answered
	Step    string `json:"step,omitempty"`    // where it ended: resolve, connect, host key, login, rights, temp …
	Problem string `json:"problem,omitempty"` // in words
	Hint    string `json:"hint,omitempty"`    // what to change
	System  System `json:"system,omitzero"`
	Millis  int64  `json:"millis"` // that it took
}

// Err is nil for a way that is open, and otherwise a *WayError.
func (f Finding) Err() error {
	if f.Open {
		return nil
	}
	return &WayError{Kind: f.Kind, Step: f.Step, Problem: f.Problem, Hint: f.Hint}
}
