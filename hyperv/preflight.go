package hyperv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae/hyperv/cim"
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

// Names of findings.
const (
	FindProcedure    = "procedure"      // a condition of the procedure is not met: R085 to R089
	FindTracking     = "tracking"       // changes are not tracked, or not of every disk
	FindMode         = "mode"           // files cannot be read where they were to be
	FindPassThrough  = "pass-through"   // a physical disk
	FindShared       = "shared-disk"    // a disk that VMs share, or a VHD set
	FindGuestCluster = "guest-cluster"  // the VM is in a collection
	FindUnreadable   = "unreadable"     // the host cannot read a disk's file
	FindVHD          = "vhd"            // a disk of the older format
	FindSector       = "sector-4k"      // a disk with sectors of 4096 bytes
	FindHalfRestored = "half-restored"  // a restore in place did not end
	FindNotPinned    = "not-pinned"     // nobody can pin the volume that off-host is read from
	FindNoDisk       = "no-disk"        // nothing to back up
	FindState        = "state"          // what the VM is or does
	FindMerging      = "merging"        // the host merges disks, or is about to
	FindMigrating    = "migrating"      // the VM is on its way to another host
	FindReplica      = "replica"        // Hyper-V Replica is at work
	FindShielded     = "shielded"       // nobody looks into it
	FindTPM          = "vtpm"           // it has a virtual TPM
	FindOwn          = "own-checkpoint" // a checkpoint of ours is there
	FindForeign      = "other-checkpoint"
	FindUser         = "user-checkpoint"
	FindStray        = "stray-file"    // a file of a checkpoint that nobody knows
	FindAutoRecovery = "auto-recovery" // such a file of the host's writer
	FindIntegration  = "integration"   // the guest cannot be quiesced
	FindController   = "controller"    // a VM without a SCSI controller
	FindSpace        = "space"         // little is free
	FindRights       = "rights"        // the account may not
	FindVolume       = "shared-volume" // a cluster's volume is not as it should be
	FindBackup       = "backup"        // somebody else's is under way
	FindUnknown      = "unknown"       // it could not be looked at
)

// Finding is something that stops or weakens a backup.
type Finding struct {
	Severity Severity `json:"severity"`
	Name     string   `json:"name"`
	Object   string   `json:"object"` // "VM web1 (…)", "host HV1"
	What     string   `json:"what"`
	Hint     string   `json:"hint,omitempty"` // what a person can do about it
}

// String is one line.
func (f Finding) String() string {
	text := f.Severity.String() + ": " + f.Object + ": " + f.What
	if f.Hint != "" {
		text += " (" + f.Hint + ")"
	}
	return text
}

// Preflight is what is known of a VM before anything is touched.
type Preflight struct {
	VM       string        `json:"vm"`
	Name     string        `json:"name"`
	Host     string        `json:"host"`
	Plan     *Plan         `json:"plan,omitempty"` // nil: there is no way
	Disks    []DiskFinding `json:"disks"`
	Findings []Finding     `json:"findings,omitempty"` // the worst first
}

// DiskFinding is a disk, and whether it is backed up.
type DiskFinding struct {
	Key    string `json:"key"`
	Place  string `json:"place"`
	File   string `json:"file,omitempty"`
	Format Format `json:"format,omitempty"`
	Size   int64  `json:"size"`
	Skip   string `json:"skip,omitempty"`
}

// OK: nothing stops the backup.
func (p *Preflight) OK() bool {
	return !slices.ContainsFunc(p.Findings, func(f Finding) bool { return f.Severity == Stop })
}

// String is for people: a line for each finding.
func (p *Preflight) String() string {
	var b strings.Builder
	way := "no procedure"
	if p.Plan != nil {
		way = fmt.Sprintf("procedure %s, %s", p.Plan.Procedure, p.Plan.Mode)
	}
	fmt.Fprintf(&b, "VM %s (%s) on %s: %d disks, %s\n", p.Name, p.VM, p.Host, len(p.Disks), way)
	for _, f := range p.Findings {
		fmt.Fprintln(&b, "  "+f.String())
	}
	return b.String()
}

// MarshalJSON adds whether the backup may be tried.
func (p *Preflight) MarshalJSON() ([]byte, error) {
	type plain Preflight
	return json.Marshal(struct {
		OK bool `json:"ok"`
		*plain
	}{p.OK(), (*plain)(p)})
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
	Backup ProviderOptions
	// GrowBytes is how much the VM is expected to write while it is backed up. Zero: a tenth of its disks, at most 64 GiB.
	GrowBytes int64
}

// Preflight looks for all that would stop or weaken a backup of a VM. It changes nothing. What cannot be looked at is a finding, not
// an error; an error means that nothing is known.
func (s *Site) Preflight(ctx context.Context, vm string, opts *PreflightOptions) (*Preflight, error) {
	f := &preflight{site: s}
	if opts != nil {
		f.o = *opts
	}
	var err error
	if f.probed, f.host, err = s.probe(ctx, vm); err != nil {
		return nil, fmt.Errorf("%s: preflight: %w", s.name, err)
	}
	m := f.machine
	f.out = &Preflight{VM: m.ID, Name: m.Name, Host: f.probed.host.Name}
	if err := f.look(ctx); err != nil {
		return nil, err
	}
	return f.out, nil
}

// Preflight looks for all that would stop or weaken a backup of a VM with these options: see [Site.Preflight].
func (p *Provider) Preflight(ctx context.Context, vm string) (*Preflight, error) {
	return p.site.Preflight(ctx, vm, &PreflightOptions{Backup: p.opts})
}

// preflight is one look at one VM.
type preflight struct {
	*probed
	site *Site
	host *Host
	o    PreflightOptions
	out  *Preflight
	set  cim.Ref // the VM's present settings
}

const preflightTime = time.Minute // for all that is looked at

// look looks at everything. What takes too long, or cannot be asked for, is a finding as well.
func (f *preflight) look(ctx context.Context) error {
	timed, cancel := context.WithTimeout(ctx, preflightTime)
	defer cancel()
	for _, part := range []struct {
		what string
		look func(context.Context) error
	}{
		{"plan", f.plan}, {"disks", f.disks}, {"state", f.state}, {"settings", f.settings}, {"checkpoints", f.checkpoints},
		{"integration services", f.integration}, {"cluster", f.volumes}, {"files", f.files},
	} {
		err := part.look(timed)
		if ctx.Err() != nil {
			return fmt.Errorf("%s: preflight of %s: %w", f.site.name, f.object(), context.Cause(ctx))
		}
		if err != nil {
			f.vm(Weak, FindUnknown, "its "+part.what+" could not be looked at: "+bounded(err.Error()), "")
		}
	}
	slices.SortStableFunc(f.out.Findings, func(a, b Finding) int { return int(b.Severity) - int(a.Severity) })
	return nil
}

// bounded is text of a host for people to read, of a length that they can.
func bounded(text string) string {
	const most = 300
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

func (f *preflight) object() string { return fmt.Sprintf("VM %s (%s)", f.machine.Name, f.machine.ID) }

func (f *preflight) found(s Severity, name, object, what, hint string) {
	f.out.Findings = append(f.out.Findings, Finding{Severity: s, Name: name, Object: object, What: what, Hint: hint})
}

func (f *preflight) vm(s Severity, name, what, hint string) { f.found(s, name, f.object(), what, hint) }

func (f *preflight) disk(s Severity, name string, d *Disk, what, hint string) {
	f.found(s, name, fmt.Sprintf("%s, disk %s (%s)", f.object(), d.place(), d.Key), what, hint)
}

// plan tells of conditions: what leaves no way stops, what only rules a better way out weakens. Disks have findings of their own.
func (f *preflight) plan(context.Context) error {
	p, err := f.choose(&f.o.Backup)
	var refused *PlanError
	switch {
	case errors.As(err, &refused):
		for _, r := range refused.Unmet {
			if r.About != aboutDisks {
				f.vm(Stop, findingOf[r.About], "not met: "+r.Rule+": "+r.Found, r.Hint)
			}
		}
		return nil
	case err != nil:
		return err
	}
	f.out.Plan = p
	for _, r := range p.Reasons {
		if r.Met || r.About == aboutTracking && strings.HasPrefix(r.Rule, "disk ") {
			continue
		}
		severity := Weak
		if f.probed.host.Build < build2016 { // how such a host is: nobody can do anything about it today
			severity = Note
		}
		f.vm(severity, findingOf[r.About], fmt.Sprintf("not met: %s: %s, so that procedure %s reads all each time", r.Rule, r.Found, p.Procedure), r.Hint)
	}
	return nil
}

var findingOf = map[string]string{aboutProcedure: FindProcedure, aboutMode: FindMode, aboutTracking: FindTracking}
