package vmware

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// Severity is how bad a finding is.
type Severity int

const (
	Note Severity = iota // worth knowing
	Weak                 // the backup is possible, but slower, larger or less consistent than it could be
	Stop                 // it will fail, or must not be tried
)

var severityNames = [...]string{"note", "weak", "stop"}

// String is the word in reports and JSON.
func (s Severity) String() string {
	if s < 0 || int(s) >= len(severityNames) {
		return fmt.Sprintf("severity(%d)", int(s))
	}
	return severityNames[s]
}

// MarshalText implements [encoding.TextMarshaler].
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (s *Severity) UnmarshalText(text []byte) error {
	i := slices.Index(severityNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("severity %q is none of %s", text, strings.Join(severityNames[:], ", "))
	}
	*s = Severity(i)
	return nil
}

// Finding is something that stops or weakens a backup.
type Finding struct {
	Severity Severity `json:"severity"`
	Object   string   `json:"object"` // "VM web1 (vm-42)", "datastore fast1 (datastore-7)"
	What     string   `json:"what"`
	Hint     string   `json:"hint,omitempty"` // what a person can do about it

	told bool // a backup finds it out and tells of it by itself
}

// String is one line.
func (f Finding) String() string {
	text := f.Severity.String() + ": " + f.Object + ": " + f.What
	if f.Hint != "" {
		text += " (" + f.Hint + ")"
	}
	return text
}

// Tracking is what can be had of changed-block tracking.
type Tracking string

const (
	TrackingOn         Tracking = "on"
	TrackingPossible   Tracking = "possible"   // it can be enabled
	TrackingBlocked    Tracking = "blocked"    // it must not be enabled now: there are snapshots, or disks of others
	TrackingImpossible Tracking = "impossible" // the VM cannot do it
)

// Preflight is what is known of a VM before anything is touched.
type Preflight struct {
	VM       string         `json:"vm"` // its reference
	Name     string         `json:"name"`
	Disks    []DiskFinding  `json:"disks"`
	Tracking Tracking       `json:"tracking"`
	Findings []Finding      `json:"findings,omitempty"` // the worst first
	Missing  []MissingRight `json:"missing,omitempty"`
}

// DiskFinding is a disk, and whether a snapshot covers it.
type DiskFinding struct {
	Key  string `json:"key"`
	Slot string `json:"slot"`
	File string `json:"file,omitempty"`
	Size int64  `json:"size"`
	Skip string `json:"skip,omitempty"`
}

// MissingRight is a privilege that the user lacks.
type MissingRight struct {
	Privilege string   `json:"privilege"`
	Name      string   `json:"name"`
	Object    string   `json:"object"`
	For       []string `json:"for"`
}

// OK: nothing stops the backup.
func (p *Preflight) OK() bool {
	return !slices.ContainsFunc(p.Findings, func(f Finding) bool { return f.Severity == Stop })
}

// String is for people: a line for each finding.
func (p *Preflight) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "VM %s (%s): %d disks, changed-block tracking: %s\n", p.Name, p.VM, len(p.Disks), p.Tracking)
	for _, f := range p.Findings {
		fmt.Fprintln(&b, "  "+f.String())
	}
	return b.String()
}

// Err is nil where nothing stops the backup, else a *PreflightError.
func (p *Preflight) Err() error {
	if p.OK() {
		return nil
	}
	return &PreflightError{Preflight: p}
}

// PreflightError says why a backup is not tried.
type PreflightError struct{ Preflight *Preflight }

func (e *PreflightError) Error() string {
	var texts []string
	for _, f := range e.Preflight.Findings {
		if f.Severity == Stop {
			texts = append(texts, f.Object+": "+f.What)
		}
	}
	return strings.Join(texts, "; ")
}

// PreflightOptions say what is to be done with the VM. Nil and zero fields are good defaults.
type PreflightOptions struct {
	// Transports are those that may be used. Empty: hotadd, nbdssl, https, export.
	Transports []string
	// For is what else is asked for: ForRestore, ForGuest.
	For     []string
	Quiesce Quiesce
	// KeepTracking: it will not be enabled.
	KeepTracking bool
	// Proxy is the VM that disks are attached to. Empty: it is not looked at.
	Proxy types.ManagedObjectReference
	// DeltaBytes is how much the VM is expected to write while it is backed up. Zero: a tenth of its disks, at most 64 GiB
	// on one datastore.
	DeltaBytes int64
	// FreePercent is how much of each datastore must be free. Zero: 10. Below zero: it does not matter.
	FreePercent int
}

func (o *PreflightOptions) defaults() {
	if len(o.Transports) == 0 {
		o.Transports = preflightTransports
	}
	if o.FreePercent == 0 {
		o.FreePercent = freePercent
	}
}

var preflightTransports = []string{HotAdd, NBDSSL, HTTPS, Export}

// Preflight looks for all that would stop or weaken a backup of a VM. It changes nothing on the server. What cannot be looked
// at is a finding, not an error; an error means that nothing is known.
func (c *Client) Preflight(ctx context.Context, vm types.ManagedObjectReference, opts *PreflightOptions) (*Preflight, error) {
	var o PreflightOptions
	if opts != nil {
		o = *opts
	}
	o.defaults()
	m, err := c.machine(ctx, vm)
	if err != nil {
		return nil, fmt.Errorf("%s: preflight: %w", c.Address(), err)
	}
	f := &preflight{c: c, m: m, o: o, out: &Preflight{VM: vm.Value, Name: m.Name}}
	if err := f.look(ctx); err != nil {
		return nil, err
	}
	return f.out, nil
}

const preflightTime = 30 * time.Second // for all that is looked at

// look looks at everything. What takes too long, or cannot be asked for, is a finding as well.
func (f *preflight) look(ctx context.Context) error {
	timed, cancel := context.WithTimeout(ctx, preflightTime)
	defer cancel()
	for _, part := range []struct {
		what string
		look func(context.Context) error
	}{
		{"state", f.state}, {"disks", f.disks}, {"tracking", f.tracking}, {"snapshots", f.snapshots}, {"quiescing", f.quiescing},
		{"datastores", f.stores}, {"licence", f.licence}, {"proxy", f.proxy}, {"privileges", f.rights},
	} {
		err := part.look(timed)
		if ctx.Err() != nil {
			return fmt.Errorf("%s: preflight of %s: %w", f.c.Address(), f.object(), ctx.Err())
		}
		if err != nil {
			f.vm(Weak, "its "+part.what+" could not be looked at: "+bounded(err.Error()), "")
		}
	}
	slices.SortStableFunc(f.out.Findings, func(a, b Finding) int { return int(b.Severity) - int(a.Severity) })
	return nil
}

// preflight is one look at one VM.
type preflight struct {
	c   *Client
	m   *machine
	o   PreflightOptions
	out *Preflight
}

func (f *preflight) object() string { return fmt.Sprintf("VM %s (%s)", f.m.Name, f.m.Self.Value) }

func (f *preflight) found(s Severity, object, what, hint string) {
	f.out.Findings = append(f.out.Findings, Finding{Severity: s, Object: object, What: what, Hint: hint})
}

func (f *preflight) vm(s Severity, what, hint string) { f.found(s, f.object(), what, hint) }

// told marks what was found last.
func (f *preflight) told() { f.out.Findings[len(f.out.Findings)-1].told = true }

var _ json.Marshaler = (*Preflight)(nil)

// MarshalJSON adds whether the backup may be tried.
func (p *Preflight) MarshalJSON() ([]byte, error) {
	type plain Preflight
	return json.Marshal(struct {
		OK bool `json:"ok"`
		*plain
	}{p.OK(), (*plain)(p)})
}
