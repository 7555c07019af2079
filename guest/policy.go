package guest

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest/agent/wire"
)

// Policy says what becomes of a VM's backup when work in its guest fails. The zero value is Require.
type Policy string

// The policies.
const (
	// Require fails the VM's backup.
	Require Policy = "require"
	// Try goes on without: the point is at most crash-consistent, and says why.
	Try Policy = "try"
	// Disable does not begin.
	Disable Policy = "disable"
)

// ParsePolicy reads "require", "try" or "disable". The empty text is Require.
func ParsePolicy(text string) (Policy, error) {
	switch p := Policy(strings.ToLower(strings.TrimSpace(text))); p {
	case "":
		return Require, nil
	case Require, Try, Disable:
		return p, nil
	}
	return "", fmt.Errorf("%.40q is no policy; there are %q, %q and %q: %w", text, Require, Try, Disable, fs.ErrInvalid)
}

func (p Policy) check() error { _, err := ParsePolicy(string(p)); return err }

// off reports whether nothing is to be done.
func (p Policy) off() bool { return p == Disable }

// Judge is what a failure becomes: a warning to be kept with the point, or an error that fails the VM's backup. A nil
// error is neither.
func (p Policy) Judge(err error) (warning string, stop error) {
	switch {
	case err == nil:
		return "", nil
	case p == Try || p == Disable:
		return fmt.Sprintf("failures in the guest are to be ignored: %v", err), nil
	}
	return "", err
}

// CopyMode says whether applications are told that this is a copy beside their own backups.
type CopyMode string

// The modes. The zero value is CopyAuto.
const (
	CopyAuto CopyMode = "auto" // a copy where another backup tool is seen
	CopyOnly CopyMode = "yes"
	CopyFull CopyMode = "no" // this is the backup: histories are kept here, logs may go
)

// RivalSeer sees other backup tools in a guest, which a full backup of ours would take the history or the logs from.
type RivalSeer interface {
	// Sees names a tool, or is empty.
	Sees(guest string, found *wire.InspectAnswer) (tool string)
}

// KnownRivals sees tools by the names that they leave in what a component reports.
type KnownRivals struct{}

var rivals = []string{"veeam", "acronis", "commvault", "netbackup", "backup exec", "rubrik", "cohesity", "networker",
	"nakivo", "bacula", "bareos", "urbackup", "pgbackrest", "barman", "wal-g", "wal-e", "xtrabackup", "sqlbackup"}

// Sees implements [RivalSeer].
func (KnownRivals) Sees(_ string, found *wire.InspectAnswer) string {
	texts := slices.Clone(found.Notes)
	for _, a := range found.Applications {
		texts = append(texts, a.Name, a.State, a.Logs)
	}
	for _, text := range texts {
		text = strings.ToLower(text)
		for _, tool := range rivals {
			if strings.Contains(text, tool) {
				return tool
			}
		}
	}
	return ""
}

// Quiesced is what the steps around one snapshot came to.
type Quiesced struct {
	Found   []wire.Application // that the guest has
	Volumes []wire.Volume      // that the guest had when it was looked at
	Mounts  []string           // that the caller chose; none: all that can freeze
	Skip    []string           // as Kind/Name: left alone because somebody asked for it
	Prepare []wire.Outcome
	Freeze  *wire.FreezeAnswer // nil: not frozen, or its answer was lost
	Thaw    *wire.ThawAnswer   // nil: its answer was lost
}

// inMemory is why a component leaves a file system out that no disk holds.
const inMemory = "in memory"

// harmless are the reasons for which a component leaves a file system out that a snapshot loses nothing by: it is not on
// this VM's disks, or nothing is written to it, or what is lies on others. They are words of the protocol, as package
// freeze of the component says them; any other word is a disk that was written to while the snapshot was taken.
var harmless = []string{inMemory, "read-only", "lives on another machine", "mounted on demand", "no block device",
	"an overlay: its layers lie on other file systems", "served by a program in the guest, which would stand still"}

// moved reports whether a file system that was left out may have changed during the snapshot. FAT cannot freeze at all,
// and the firmware's partition is one: nothing writes to it but a new kernel or boot loader, so it alone is let pass.
func moved(v wire.Volume) bool {
	firmware := v.Type == "vfat" && slices.Contains([]string{"/boot/efi", "/efi", "/boot"}, v.Mount)
	return v.Type == "fuseblk" || !slices.Contains(harmless, v.Skip) && !strings.HasSuffix(v.Skip, harmlessMore) && !firmware
}

// harmlessMore ends the row in place of those that are too many to be named, all of them harmless.
const harmlessMore = "more mounts of such kinds"

// Reached is what a snapshot in between is good for, and every reason why it is not more. Application: the file systems
// were frozen all the time, the guest has applications, and each that was not to be skipped was ready and held, with its
// folders on what was frozen. Filesystem: all that can be written to was frozen all the time, or what the caller chose
// was. Everything else is a crash.
func (q *Quiesced) Reached() (hikae.Consistency, []string) {
	switch {
	case q.Freeze == nil || len(q.Freeze.Frozen) == 0:
		return hikae.Crash, []string{"no file system was frozen"}
	case q.Thaw == nil:
		return hikae.Crash, []string{"whether the file systems were frozen to the end is not known: the answer to thaw was lost"}
	case !q.Thaw.Held:
		return hikae.Crash, []string{"the watchdog thawed before the snapshot was done"}
	}
	lacking := q.lacking()
	why, left := slices.Clone(lacking), q.leftOut()
	for _, v := range q.Freeze.Skipped {
		if v.Skip == inMemory || moved(v) { // a snapshot has nothing of it; or it is among what was left out
			continue
		}
		why = append(why, fmt.Sprintf("%s was not frozen: %s", Printable(v.Mount, maxName), Printable(v.Skip, maxShown)))
	}
	why = atMost(append(left, why...), maxNotes)
	switch {
	case len(left) > 0 && len(q.Mounts) == 0:
		return hikae.Crash, why
	case len(left) > 0 || len(lacking) > 0 || !q.held():
		return hikae.Filesystem, why
	}
	return hikae.Application, why
}

// leftOut are the file systems that may have changed during the snapshot. Those that the caller did not choose are known
// from when the guest was looked at.
func (q *Quiesced) leftOut() (why []string) {
	for _, v := range q.Freeze.Skipped {
		if moved(v) {
			why = append(why, fmt.Sprintf("%s was not frozen: %s", volumeName(v), Printable(v.Skip, maxShown)))
		}
	}
	if len(q.Mounts) == 0 {
		return why
	}
	named := func(point string) bool {
		return slices.ContainsFunc(q.Freeze.Frozen, func(f wire.Frozen) bool { return f.Mount == point }) ||
			slices.ContainsFunc(q.Freeze.Skipped, func(v wire.Volume) bool { return v.Mount == point }) || slices.Contains(q.Mounts, point)
	}
	for _, v := range q.Volumes {
		if v.Skip == "" && !named(v.Mount) {
			why = append(why, fmt.Sprintf("%s was not frozen: it was not among those that were to be", volumeName(v)))
		}
	}
	return why
}

func volumeName(v wire.Volume) string {
	if v.Mount == "" {
		return Printable(v.Device, maxName)
	}
	return Printable(v.Mount, maxName)
}

// held reports whether there is an application at all that took part.
func (q *Quiesced) held() bool { return len(q.taking()) > 0 }

func (q *Quiesced) skipped(kind, name string) bool { return slices.Contains(q.Skip, kind+"/"+name) }

// taking are the applications that were to take part: those that were found, and those that came up in any step.
func (q *Quiesced) taking() (all []wire.Application) {
	known := map[[2]string]bool{}
	add := func(a wire.Application) {
		if id := [2]string{a.Kind, a.Name}; !known[id] && !q.skipped(a.Kind, a.Name) {
			known[id], all = true, append(all, a)
		}
	}
	for _, a := range q.Found {
		add(a)
	}
	for _, list := range [][]wire.Outcome{q.Prepare, q.Freeze.Applications, q.Thaw.Applications} {
		for _, o := range list {
			add(wire.Application{Kind: o.Kind, Name: o.Name})
		}
	}
	return all
}

// lacking are the applications that were not consistent, with what kept each from it.
func (q *Quiesced) lacking() []string { return q.lackingOf(q.taking()) }

func (q *Quiesced) lackingOf(applications []wire.Application) (why []string) {
	steps := []step{
		{"prepare", byName(q.Prepare), true},
		{"hold", byName(q.Freeze.Applications), true},
		{"resume", byName(q.Thaw.Applications), false},
	}
	for _, a := range applications {
		problem := q.unfrozen(a)
		for _, s := range slices.Backward(steps) { // the first one that failed is what is told
			if p := s.problem(a); p != "" {
				problem = p
			}
		}
		if problem != "" {
			why = append(why, appName(a.Kind, a.Name)+": "+problem)
		}
	}
	return why
}

// step is what became of applications in one step.
type step struct {
	name     string
	outcomes map[[2]string]wire.Outcome
	each     bool // every application must have one
}

// byName finds outcomes; of two for one application the one that is not well counts.
func byName(list []wire.Outcome) map[[2]string]wire.Outcome {
	all := map[[2]string]wire.Outcome{}
	for _, o := range list {
		id := [2]string{o.Kind, o.Name}
		if known, ok := all[id]; !ok || known.OK {
			all[id] = o
		}
	}
	return all
}

func (s step) problem(a wire.Application) string {
	o, ok := s.outcomes[[2]string{a.Kind, a.Name}]
	switch {
	case !ok && s.each:
		return s.name + ": it did not take part"
	case ok && !o.OK:
		return s.name + ": " + Printable(o.Problem, maxShown)
	}
	return ""
}

// unfrozen says which of an application's folders did not lie on what was frozen; empty: they all did.
func (q *Quiesced) unfrozen(a wire.Application) string {
	for _, folder := range a.Folders {
		best, frozen := "", false
		consider := func(point string, is bool) {
			if lies(folder, point) && len(point) >= len(best) {
				best, frozen = point, is
			}
		}
		for _, v := range q.Volumes {
			consider(v.Mount, false)
		}
		for _, v := range q.Freeze.Skipped {
			consider(v.Mount, false)
		}
		for _, f := range q.Freeze.Frozen {
			consider(f.Mount, true)
		}
		if !frozen {
			return fmt.Sprintf("%s does not lie on what was frozen", Printable(folder, maxName))
		}
	}
	return ""
}

// lies reports whether a path lies at or below a mount point.
func lies(path, point string) bool {
	if point == "" {
		return false
	}
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(point, "/"))
	return ok && (rest == "" || rest[0] == '/')
}

// atMost keeps a report short.
func atMost(list []string, limit int) []string {
	if len(list) <= limit {
		return list
	}
	return append(slices.Clip(list[:limit]), fmt.Sprintf("and %d more", len(list)-limit))
}

func appName(kind, name string) string { return Printable(kind+"/"+name, maxName) }
