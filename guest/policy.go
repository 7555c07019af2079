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
	Skip    []string           // as Kind/Name: left alone because somebody asked for it
	Prepare []wire.Outcome
	Freeze  *wire.FreezeAnswer // nil: not frozen, or its answer was lost
	Thaw    *wire.ThawAnswer   // nil: its answer was lost
}

// Reached is what a snapshot in between is good for, and every reason why it is not more. Application: the file systems
// were frozen all the time, the guest has applications, and each that was not to be skipped was ready and held.
// Filesystem: they were frozen all the time. Everything else is a crash.
func (q *Quiesced) Reached() (hikae.Consistency, []string) {
	switch {
	case q.Freeze == nil || len(q.Freeze.Frozen) == 0:
		return hikae.Crash, []string{"no file system was frozen"}
	case q.Thaw == nil:
		return hikae.Crash, []string{"whether the file systems were frozen to the end is not known: the answer to thaw was lost"}
	case !q.Thaw.Held:
		return hikae.Crash, []string{"the watchdog thawed before the snapshot was done"}
	}
	why := q.lacking()
	for _, v := range q.Freeze.Skipped {
		why = append(why, fmt.Sprintf("%s was not frozen: %s", Printable(v.Mount, maxName), Printable(v.Skip, maxShown)))
	}
	if held := q.held(); held && len(q.lacking()) == 0 {
		return hikae.Application, why
	}
	return hikae.Filesystem, why
}

// held reports whether there is an application at all that took part.
func (q *Quiesced) held() bool {
	return slices.ContainsFunc(q.Found, func(a wire.Application) bool { return !q.skipped(a.Kind, a.Name) })
}

func (q *Quiesced) skipped(kind, name string) bool { return slices.Contains(q.Skip, kind+"/"+name) }

// lacking are the applications that were not consistent, with what kept each from it.
func (q *Quiesced) lacking() (why []string) {
	steps := []struct {
		name     string
		outcomes []wire.Outcome
		each     bool // every application must have one
	}{
		{"prepare", q.Prepare, true},
		{"hold", q.Freeze.Applications, true},
		{"resume", q.Thaw.Applications, false},
	}
	for _, a := range q.Found {
		if q.skipped(a.Kind, a.Name) {
			continue
		}
		for _, s := range steps {
			i := slices.IndexFunc(s.outcomes, func(o wire.Outcome) bool { return o.Kind == a.Kind && o.Name == a.Name })
			switch {
			case i < 0 && s.each:
				why = append(why, fmt.Sprintf("%s: %s: it did not take part", appName(a.Kind, a.Name), s.name))
			case i >= 0 && !s.outcomes[i].OK:
				why = append(why, fmt.Sprintf("%s: %s: %s", appName(a.Kind, a.Name), s.name, Printable(s.outcomes[i].Problem, maxShown)))
			default:
				continue
			}
			break
		}
	}
	return why
}

func appName(kind, name string) string { return Printable(kind+"/"+name, maxName) }
