package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/vhdx"
)

// kindRestore is a VM that is being made, or written over.
const (
	kindRestore   = "hyperv.restore"
	restoresNew   = "new"
	restoresPlace = "place"

	plannedKind = "Microsoft:Hyper-V:System:Planned"
	classVM     = "Msvm_ComputerSystem"
	classPlan   = "Msvm_PlannedComputerSystem"
	fileMarker  = `\hikae-restore-` // and the mark, in a new VM's folder
)

// unfinishedNote is the line of a VM's notes by which a restore that has not ended is known. People see it too:
//
//	[hikae MARK new|place TIME MACHINE] A restore of this VM has not ended. Do not start it.
type unfinishedNote struct{ mark, what, since, by string }

const (
	noteBegins = "[hikae "
	noteEnds   = "] A restore of this VM has not ended. Do not start it."
)

func newNoteOf(mark, what string) unfinishedNote {
	return unfinishedNote{mark: mark, what: what, since: time.Now().UTC().Format(time.RFC3339), by: machineName()}
}

func (n unfinishedNote) String() string {
	return noteBegins + strings.Join([]string{n.mark, n.what, n.since, n.by}, " ") + noteEnds
}

// parseNote reads such a line.
func parseNote(line string) (n unfinishedNote, ok bool) {
	line = strings.TrimSpace(line)
	inner, ok := strings.CutPrefix(line, noteBegins)
	inner, ends := strings.CutSuffix(inner, noteEnds)
	words := strings.Fields(inner)
	if !ok || !ends || len(inner) > 256 || len(words) < 2 || !goodMark.MatchString(words[0]) {
		return n, false
	}
	words = append(words, "", "")
	return unfinishedNote{mark: words[0], what: words[1], since: words[2], by: words[3]}, true
}

// unfinishedOf finds it in a VM's notes.
func unfinishedOf(notes []string) (n unfinishedNote, ok bool) {
	for _, note := range notes {
		for line := range strings.Lines(note) {
			if n, ok := parseNote(line); ok {
				return n, true
			}
		}
	}
	return n, false
}

// withoutLines are a VM's notes without the lines of a kind. Others stay as they are.
func withoutLines(notes []string, drop func(line string) bool) []string {
	out := []string{}
	for _, note := range notes {
		kept, dropped := strings.Builder{}, false
		for line := range strings.Lines(note) {
			if drop(line) {
				dropped = true
				continue
			}
			kept.WriteString(line)
		}
		if text := kept.String(); text != "" || !dropped {
			out = append(out, text)
		}
	}
	return out
}

func isUnfinishedLine(line string) bool { _, ok := parseNote(line); return ok }
func isRestoredLine(line string) bool {
	return strings.HasPrefix(strings.TrimSpace(line), RestoredNote)
}

// atTop puts lines above a VM's notes, into the first of them: hosts show that one.
func atTop(notes []string, lines ...string) []string {
	text := strings.Join(lines, "\n")
	if len(notes) == 0 {
		return []string{text}
	}
	out := slices.Clone(notes)
	if out[0] != "" {
		text += "\n" + out[0]
	}
	out[0] = text
	return out
}

// unfinishedError refuses a VM that a restore has not made whole; nil where none is at work.
func unfinishedError(name string, notes []string) error {
	if n, ok := unfinishedOf(notes); ok {
		return &IncompleteError{VM: name, Mark: n.mark, Since: n.since, New: n.what == restoresNew}
	}
	return nil
}

// machineName is what this machine is called, as one word.
func machineName() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "unknown"
	}
	name = strings.Map(func(r rune) rune {
		if unicode.IsGraphic(r) && !unicode.IsSpace(r) {
			return r
		}
		return '_'
	}, name)
	return strings.ToValidUTF8(name[:min(len(name), 64)], "")
}

// vmSettings are what a VM, or a planned one, is called and says of itself.
type vmSettings struct {
	ID    string   `cim:"InstanceID"`
	VM    string   `cim:"VirtualSystemIdentifier"`
	Name  string   `cim:"ElementName,optional"`
	Type  string   `cim:"VirtualSystemType"`
	Notes []string `cim:"Notes"`
}

// bearing are the VMs and planned VMs of a host whose notes bear a mark.
func (h *Host) bearing(ctx context.Context, mark string) (found []vmSettings, err error) {
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	for _, kind := range []string{plannedKind, realized} {
		list, err := cim.All(h.client.Query(ctx, cim.Virtualization, "SELECT * FROM "+settingClass+" WHERE VirtualSystemType = "+cim.Quote(kind), nil))
		if err != nil {
			return nil, err
		}
		for _, in := range list {
			var s vmSettings
			if err := in.Decode(&s); err != nil {
				return nil, err
			}
			if n, ok := unfinishedOf(s.Notes); ok && n.mark == mark {
				found = append(found, s)
			}
		}
	}
	return found, nil
}

// systemOf is the object of a VM, or of a planned one.
func (h *Host) systemOf(ctx context.Context, s vmSettings) (*cim.Instance, cim.Ref, error) {
	class := classVM
	if s.Type == plannedKind {
		class = classPlan
	}
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	in, err := cim.One(h.client.Query(ctx, cim.Virtualization, "SELECT * FROM "+class+" WHERE Name = "+cim.Quote(s.VM), nil))
	if err != nil {
		return nil, cim.Ref{}, err
	}
	ref, err := in.Keyed(cim.Virtualization, "CreationClassName", "Name")
	return in, ref, err
}

// destroyMarked destroys the VM, or planned VM, that bears a mark, and nothing else. One that is just being changed is waited for. Its
// files stay: see clearFolder.
func (h *Host) destroyMarked(ctx context.Context, mark string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, undoLimit, fmt.Errorf("no end within %v: %w", undoLimit, context.DeadlineExceeded))
	defer cancel()
	var errs []error
	wait := firstPause
	for try := 0; try < removals; wait = min(2*wait, pollEvery) {
		found, err := h.bearing(ctx, mark)
		if err == nil && len(found) == 0 {
			return nil
		}
		for _, s := range found {
			err = errors.Join(err, h.destroyOne(ctx, s))
		}
		var busy *hikae.BusyError
		switch {
		case errors.As(err, &busy):
			return err
		case err == nil: // it is looked for once more
			try++
		case !errors.Is(err, errState) && !errors.Is(err, cim.ErrBusy):
			errs = append(errs, err)
			try++
		}
		if paused := pause(ctx, wait); paused != nil {
			return errors.Join(append(errs, paused, err)...)
		}
	}
	return fmt.Errorf("a VM that a restore never made whole is still there: %w", errors.Join(errs...))
}

func (h *Host) destroyOne(ctx context.Context, s vmSettings) error {
	in, ref, err := h.systemOf(ctx, s)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var now struct {
		State uint16 `cim:"EnabledState"`
	}
	if err := in.Decode(&now); err != nil {
		return err
	}
	if s.Type == realized && State(now.State) != Off {
		return &hikae.BusyError{What: "VM " + s.Name + ", which a restore never made whole,", Owner: "its guest: somebody started it"}
	}
	_, err = h.manage(ctx, "DestroySystem", cim.Property{Name: "AffectedSystem", Value: ref})
	var refused *cim.ReturnError
	if errors.As(err, &refused) && refused.Code == 32775 {
		return fmt.Errorf("%w: %w", errState, err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// filesOfVMs are the files that VMs of a host name, in small letters: checkpoints' and planned VMs' too.
func (h *Host) filesOfVMs(ctx context.Context) (map[string]bool, error) {
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	list, err := cim.All(h.client.Query(ctx, cim.Virtualization, "SELECT * FROM "+classStorage, nil))
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, in := range list {
		var r resource
		if err := in.Decode(&r); err != nil {
			return nil, err
		}
		for _, name := range r.Host {
			used[strings.ToLower(name)] = true
		}
	}
	return used, nil
}

// newFolder is what a restore makes in a new VM's folder. The file with the mark is made first and goes last: where it is not there,
// nothing in the folder is ours.
type newFolder struct {
	path  string
	mark  string
	made  []string // folders that were not there, the deepest first
	files []string // of disks, and of what is to be imported
}

// Folders that a host makes in a VM's, and ours.
const (
	folderDisks  = `\Virtual Hard Disks`
	folderImport = `\Import`
)

var foldersOfVM = []string{folderDisks, folderImport, `\Virtual Machines`, `\Snapshots`}

func (f *newFolder) marker() string { return f.path + fileMarker + f.mark + ".txt" }

// clear removes what a restore made, and no file that a VM uses.
func (f *newFolder) clear(ctx context.Context, h *Host, store Store) error {
	here, err := exists(ctx, store, f.marker())
	if err != nil {
		return err
	}
	if here {
		used, err := h.filesOfVMs(ctx)
		if err != nil {
			return err
		}
		for _, name := range f.files {
			if used[strings.ToLower(name)] {
				continue // the VM was whole, and the session died as it was about to say so
			}
			if err := store.Remove(ctx, name); err != nil {
				return err
			}
		}
		for _, sub := range foldersOfVM {
			if err := removeEmpty(ctx, store, f.path+sub); err != nil {
				return err
			}
		}
		if err := store.Remove(ctx, f.marker()); err != nil {
			return err
		}
	}
	for _, folder := range f.made {
		if err := removeEmpty(ctx, store, folder); err != nil {
			return err
		}
	}
	return nil
}

func exists(ctx context.Context, store Store, name string) (bool, error) {
	img, err := store.Open(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, img.Close()
}

// removeEmpty removes a folder with nothing in it, and leaves any other.
func removeEmpty(ctx context.Context, store Store, folder string) error {
	names, err := store.List(ctx, folder)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(names) > 0 {
		return nil
	}
	if err != nil {
		return err
	}
	return store.Remove(ctx, folder)
}

func (f *newFolder) facts() map[string]string {
	return map[string]string{"folder": f.path, "made": strings.Join(f.made, "\n"), "files": strings.Join(f.files, "\n")}
}

// undoRestore destroys a VM that was never whole. A restore in place cannot be undone once something was written: until another
// one made the VM whole it is an *IncompleteError.
func undoRestore(ctx context.Context, p *Provider, e hikae.Effect, _ []hikae.ChangeID) error {
	mark := e.Facts["mark"]
	if !goodMark.MatchString(mark) {
		return fmt.Errorf("effect %s: mark %.40q: %w", e.ID, mark, fs.ErrInvalid)
	}
	switch e.Facts["what"] {
	case restoresNew:
		return undoNew(ctx, p.site, e, mark)
	case restoresPlace:
		return undoPlace(ctx, p.site, e, mark)
	}
	return fmt.Errorf("effect %s: %.40q is no kind of restore: %w", e.ID, e.Facts["what"], fs.ErrInvalid)
}

func undoNew(ctx context.Context, s *Site, e hikae.Effect, mark string) error {
	f := &newFolder{mark: mark, path: e.Facts["folder"], made: linesOf(e.Facts["made"]), files: linesOf(e.Facts["files"])}
	if clean, err := vhdx.WindowsPath(f.path); err != nil || clean != f.path {
		return fmt.Errorf("effect %s: folder %.200q: %w", e.ID, f.path, fs.ErrInvalid)
	}
	for _, name := range f.files {
		if clean, err := vhdx.WindowsPath(name); err != nil || clean != name || !strings.HasPrefix(name, f.path+`\`) {
			return fmt.Errorf("effect %s: file %.200q: %w", e.ID, name, fs.ErrInvalid)
		}
	}
	for _, name := range f.made {
		if !strings.HasPrefix(f.path+`\`, name+`\`) {
			return fmt.Errorf("effect %s: folder %.200q: %w", e.ID, name, fs.ErrInvalid)
		}
	}
	h, err := s.HostNamed(ctx, e.Facts["host"])
	if err != nil {
		return err
	}
	if err := errors.Join(h.destroyMarked(ctx, mark), destroyFresh(ctx, h, e.Facts)); err != nil {
		return err
	}
	if server := serverOf(f.path); server != "" {
		s.TrustServer(server) // our own journal names it
	}
	store, err := s.Store(ctx, h)
	if err != nil {
		return err
	}
	return f.clear(ctx, h, store)
}
