package vss

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"
)

// Bounds of what writers say. They run as the guest's own services; a broken one must not eat the component's memory.
const (
	maxWriters    = 512
	maxComponents = 16384 // of one writer
	maxFolders    = 64    // that are told of one writer
	maxFileSets   = 8192  // of one component
	maxText       = 512   // runes of a name that is shown
)

// Writer is an application that takes part in shadow copies.
type Writer struct {
	Instance   GUID
	Class      GUID // the same for all writers of its kind
	Name       string
	Usage      uint32 // VSS_USAGE_TYPE
	Components []Component
	Document   string // its metadata in XML
}

// ComponentType says what a component is made of.
type ComponentType uint32

// The component types.
const (
	Database  ComponentType = 1
	FileGroup ComponentType = 2
)

// Component is a part of a writer's data that is backed up as one.
type Component struct {
	Type       ComponentType
	Path, Name string // Path is empty for those at the top; its parts are parted by backslashes
	Caption    string // for people
	Selectable bool
	Folders    []string
	Files      []FileSet // of writers that were asked for them: see [Backup]
}

// FileSet is one of a component's file descriptions.
type FileSet struct {
	Path      string // of the folder
	Spec      string // a file's name, or a pattern with * and ?
	Recursive bool
}

// full is the path that components below this one have.
func (c Component) full() string {
	if c.Path == "" {
		return c.Name
	}
	return strings.TrimSuffix(c.Path, `\`) + `\` + c.Name
}

// String is for people.
func (c Component) String() string { return shown(c.full()) }

// explicit are the components that a requester adds: those without a selectable component above them. The others come
// along with that one, and adding them is an error.
func explicit(all []Component) []Component {
	selectable := map[string]bool{}
	for _, c := range all {
		if c.Selectable {
			selectable[strings.ToLower(c.full())] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(c Component) bool {
		above := strings.ToLower(strings.Trim(c.Path, `\`))
		for above != "" {
			if selectable[above] {
				return true
			}
			at := strings.LastIndexByte(above, '\\')
			above = above[:max(at, 0)]
		}
		return false
	})
}

// folders are where a writer's data is, each once.
func (w Writer) folders() []string {
	var out []string
	seen := map[string]bool{}
	for _, c := range w.Components {
		for _, f := range c.Folders {
			key := strings.ToLower(strings.TrimSuffix(f, `\`))
			if f != "" && !seen[key] && len(out) < maxFolders {
				seen[key] = true
				out = append(out, shown(f))
			}
		}
	}
	return out
}

// named gives each writer a name of its own: two instances of one kind have the same.
func named(writers []Writer) []Writer {
	slices.SortStableFunc(writers, func(a, b Writer) int { return strings.Compare(a.Name, b.Name) })
	used := map[string]int{}
	for i := range writers {
		name := shown(writers[i].Name)
		if name == "" {
			name = writers[i].Class.String()
		}
		used[name]++
		if n := used[name]; n > 1 {
			name = fmt.Sprintf("%s #%d", name, n)
			used[name]++
		}
		writers[i].Name = name
	}
	return writers
}

// shown makes a name fit to be printed: no control characters, nothing that turns the line around, no end of it.
func shown(s string) string {
	out := make([]rune, 0, min(len(s), maxText))
	for _, r := range s {
		if len(out) == maxText {
			return string(out) + "…"
		}
		if !unicode.IsPrint(r) {
			r = '·'
		}
		out = append(out, r)
	}
	return string(out)
}

// skipped reports whether a list of Kind/Name names an application.
func skipped(list []string, kind, name string) bool {
	return slices.ContainsFunc(list, func(s string) bool {
		return strings.EqualFold(s, path.Join(kind, name)) || strings.EqualFold(s, kind+"/"+name)
	})
}

// State is what a writer does at the moment.
type State uint32

// The states.
const (
	Stable State = iota + 1
	WaitingForFreeze
	WaitingForThaw
	WaitingForPostSnapshot
	WaitingForBackupComplete
	FailedAtIdentify
	FailedAtPrepareBackup
	FailedAtPrepareSnapshot
	FailedAtFreeze
	FailedAtThaw
	FailedAtPostSnapshot
	FailedAtBackupComplete
	FailedAtPreRestore
	FailedAtPostRestore
	FailedAtBackupShutdown
)

var stateWords = [...]string{"unknown", "stable", "waiting for the freeze", "waiting for the thaw", "waiting for the end of the snapshot",
	"waiting for the end of the backup", "failed when asked who it is", "failed when preparing the backup",
	"failed when preparing the snapshot", "failed to freeze", "failed to thaw", "failed after the snapshot",
	"failed at the end of the backup", "failed before a restore", "failed after a restore", "failed when the backup was shut down"}

// String is the state in words.
func (s State) String() string {
	if int(s) < len(stateWords) {
		return stateWords[s]
	}
	return fmt.Sprintf("state %d", uint32(s))
}

// failed reports whether a writer in this state cannot be counted on.
func (s State) failed() bool { return s >= FailedAtIdentify || s == 0 }

// Status is a writer's state and how its last step ended.
type Status struct {
	Instance GUID
	Name     string
	State    State
	Code     HResult
}

// Err is nil for a writer that is well.
func (s Status) Err() error {
	switch {
	case s.Code.Failed():
		return &Error{Op: "writer " + shown(s.Name) + " " + s.State.String(), Code: s.Code}
	case s.State.failed():
		return fmt.Errorf("writer %s: %v", shown(s.Name), s.State)
	}
	return nil
}
