package libvirt

import (
	"context"
	"encoding/hex"
	"fmt"
	"io/fs"
	"math"
	"strings"
	"time"
)

// Procedures of libvirt's own program.
const (
	procDomainXML      = 14
	procLookupByName   = 23
	procLookupByUUID   = 24
	procHasSaved       = 183
	procDomainState    = 212
	procListAllDomains = 273
)

// Procedures of the program for QEMU.
const (
	procMonitorCommand = 1
	procAgentCommand   = 3
)

// maxDomains is libvirt's bound for a list.
const maxDomains = 16384

// UUID is a domain's identity, which stays when it is renamed.
type UUID [16]byte

func (u UUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// ParseUUID reads a UUID. Errors wrap fs.ErrInvalid.
func ParseUUID(text string) (u UUID, err error) {
	raw, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(raw) != len(u) {
		return u, fmt.Errorf("%q is no UUID: %w", text, fs.ErrInvalid)
	}
	return UUID(raw), nil
}

// Domain is a machine that libvirt knows.
type Domain struct {
	Name string
	UUID UUID
	ID   int // while it runs; −1 else
}

func (e *encoder) domain(dom Domain) {
	e.text(dom.Name)
	e.fixed(dom.UUID[:])
	e.uint(uint32(int32(dom.ID)))
}

func (d *decoder) domain() (dom Domain) {
	dom.Name = d.text()
	copy(dom.UUID[:], d.fixed(len(dom.UUID)))
	dom.ID = d.int()
	return dom
}

// Domains are all that the daemon knows, running or not.
func (c *Conn) Domains(ctx context.Context) (out []Domain, err error) {
	err = c.do(ctx, call{
		name: "list domains", program: programRemote, procedure: procListAllDomains,
		build: func(e *encoder) {
			e.uint(1) // names too, not only how many
			e.uint(0)
		},
		take: func(d *decoder) {
			for range d.count(maxDomains) {
				out = append(out, d.domain())
			}
			d.uint()
		},
	})
	return out, err
}

// Lookup finds a domain by its UUID. That it is not there is an fs.ErrNotExist.
func (c *Conn) Lookup(ctx context.Context, id UUID) (dom Domain, err error) {
	err = c.do(ctx, call{name: "find domain " + id.String(), program: programRemote, procedure: procLookupByUUID,
		build: func(e *encoder) { e.fixed(id[:]) }, take: func(d *decoder) { dom = d.domain() }})
	return dom, err
}

// LookupName finds a domain by its name.
func (c *Conn) LookupName(ctx context.Context, name string) (dom Domain, err error) {
	err = c.do(ctx, call{name: "find domain " + name, program: programRemote, procedure: procLookupByName,
		build: func(e *encoder) { e.text(name) }, take: func(d *decoder) { dom = d.domain() }})
	return dom, err
}

// State is what a domain does.
type State int

// States of a domain.
const (
	NoState State = iota
	Running
	Blocked
	Paused
	ShuttingDown
	Off
	Crashed
	Suspended
)

// Reasons of a domain that is off.
const (
	OffMigrated = 4 // it runs on another host now
	OffSaved    = 5 // its memory was saved to a file, and it goes on from there
)

var stateNames = [...]string{"without a state", "running", "blocked", "paused", "shutting down", "off", "crashed", "suspended"}

func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return "in an unknown state"
	}
	return stateNames[s]
}

// State asks for a domain's state and, as a number whose meaning depends on it, the reason.
func (c *Conn) State(ctx context.Context, dom Domain) (s State, reason int, err error) {
	err = c.do(ctx, call{
		name: "state of " + dom.Name, program: programRemote, procedure: procDomainState,
		build: func(e *encoder) {
			e.domain(dom)
			e.uint(0)
		},
		take: func(d *decoder) { s, reason = State(d.int()), d.int() },
	})
	return s, reason, err
}

// Saved reports whether libvirt keeps the memory of a domain that is off, and will go on from there when it is started.
func (c *Conn) Saved(ctx context.Context, dom Domain) (saved bool, err error) {
	err = c.do(ctx, call{
		name: "saved memory of " + dom.Name, program: programRemote, procedure: procHasSaved,
		build: func(e *encoder) {
			e.domain(dom)
			e.uint(0)
		},
		take: func(d *decoder) { saved = d.int() > 0 },
	})
	return saved, err
}

// XML is a domain's description, byte for byte: as it runs, or as it will start the next time. Passwords in it are left
// out by libvirt.
func (c *Conn) XML(ctx context.Context, dom Domain, inactive bool) (text []byte, err error) {
	flags := uint32(0)
	if inactive {
		flags = 2
	}
	err = c.do(ctx, call{
		name: "description of " + dom.Name, program: programRemote, procedure: procDomainXML,
		build: func(e *encoder) {
			e.domain(dom)
			e.uint(flags)
		},
		take: func(d *decoder) { text = []byte(d.text()) },
	})
	return text, err
}

// Monitor hands one command to the monitor of a domain's QEMU, in QMP and without an id, and returns its answer, which
// may be a refusal.
func (c *Conn) Monitor(ctx context.Context, dom Domain, command []byte) (answer []byte, err error) {
	err = c.do(ctx, call{
		name: "monitor of " + dom.Name, program: programQEMU, procedure: procMonitorCommand,
		build: func(e *encoder) {
			e.domain(dom)
			e.text(string(command))
			e.uint(0)
		},
		take: func(d *decoder) { answer = []byte(d.text()) },
	})
	return answer, err
}

// Agent hands one command to the agent in a domain's guest, and returns its answer. It waits for as long as the context
// has, in whole seconds and at least one. What the agent refused is an *Error.
func (c *Conn) Agent(ctx context.Context, dom Domain, command []byte) (answer []byte, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	deadline, _ := ctx.Deadline()
	seconds := math.Max(1, math.Floor(time.Until(deadline).Seconds()))
	err = c.do(ctx, call{
		name: "guest agent of " + dom.Name, program: programQEMU, procedure: procAgentCommand,
		build: func(e *encoder) {
			e.domain(dom)
			e.text(string(command))
			e.uint(uint32(math.Min(seconds, 3600)))
			e.uint(0)
		},
		take: func(d *decoder) { answer = []byte(d.optionalText()) },
	})
	return answer, err
}
