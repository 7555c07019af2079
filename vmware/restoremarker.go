package vmware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
)

// kindRestore is a VM that is being made, or written over.
const (
	kindRestore   = "vmware.restore"
	restoresNew   = "new"
	restoresPlace = "place"
)

// Settings of a VM that tell of restores. They are the VM's own, so they go where it goes.
const (
	keyUnfinished = "hikae.restore.new"   // mark: the VM is being made
	keyFiles      = "hikae.restore.files" // of the disks that were made with it
	keyPlacing    = "hikae.restore.place" // it is written over: see placing
	keyRestored   = "hikae.restored"      // time: it was written over, and what is tracked from before says nothing of that: see moment
)

// IncompleteError says that a restore of a VM was begun and did not come to its end: what its disks hold is of no one moment.
// Restoring a point in place again makes it whole; one that was being made is destroyed by a sweep.
type IncompleteError struct {
	VM    string
	Mark  string
	Since string // RFC 3339; empty: not known
	New   bool   // it is a new VM
}

func (e *IncompleteError) Error() string {
	if e.New {
		return fmt.Sprintf("VM %s is being made by a restore that has not ended; what is in it is not whole (its setting %s says so)", e.VM, keyUnfinished)
	}
	return fmt.Sprintf("VM %s: a restore in place was begun and did not end; restore a point in place again to make it whole (its setting %s says so)", e.VM, keyPlacing)
}

// unfinishedLine stands above a VM's notes until it is whole, so that a person who is about to start it sees it.
func unfinishedLine(mark string) string {
	return "[hikae " + mark + "] A restore of this VM has not ended. Do not start it.\n"
}

// withoutLine is a VM's notes without such lines.
func withoutLine(annotation string) string {
	for strings.HasPrefix(annotation, "[hikae ") {
		line, rest, found := strings.Cut(annotation, "\n")
		if !found || !strings.HasSuffix(line, "Do not start it.") {
			break
		}
		annotation = rest
	}
	return annotation
}

// annotationOf is a VM's notes as they can be set: the library leaves an empty text out of the call, and the old one would stay.
func annotationOf(text string) string {
	if text == "" {
		return " "
	}
	return text
}

// settingOf is a setting of a VM; empty where it has none of that key.
func settingOf(config *types.VirtualMachineConfigInfo, key string) string {
	if config == nil {
		return ""
	}
	for _, o := range config.ExtraConfig {
		if o == nil {
			continue
		}
		if v := o.GetOptionValue(); v.Key == key {
			text, _ := v.Value.(string)
			return text
		}
	}
	return ""
}

// unfinished refuses a VM that a restore has not made whole.
func unfinished(name string, config *types.VirtualMachineConfigInfo) error {
	if mark := settingOf(config, keyUnfinished); mark != "" {
		return &IncompleteError{VM: name, Mark: mark, New: true}
	}
	if p, ok := placingOf(config); ok {
		return &IncompleteError{VM: name, Mark: p.mark, Since: p.since}
	}
	return nil
}

// restoredMark is what a VM says of when a restore last wrote over it.
func restoredMark(config *types.VirtualMachineConfigInfo) string {
	text := settingOf(config, keyRestored)
	return text[:min(len(text), maxRestored)]
}

const maxRestored = 64 // bytes; a time has 35 at most

// placing is what the setting of a VM that is being written over holds:
//
//	MARK TIME [on=MACHINE] [tracked]
type placing struct {
	mark, since string
	by          string // the machine that does it, empty: not said
	tracked     bool   // tracking is to be turned on again
}

func (p placing) String() string {
	text := p.mark + " " + p.since
	if p.by != "" {
		text += " on=" + p.by
	}
	if p.tracked {
		text += " tracked"
	}
	return text
}

func placingOf(config *types.VirtualMachineConfigInfo) (placing, bool) {
	text := settingOf(config, keyPlacing)
	if text == "" {
		return placing{}, false
	}
	var p placing
	words := strings.Fields(text[:min(len(text), 200)])
	if len(words) > 0 {
		p.mark = words[0]
	}
	if len(words) > 1 {
		p.since = words[1]
	}
	for _, word := range words[min(2, len(words)):] {
		if by, ok := strings.CutPrefix(word, "on="); ok {
			p.by = by
		}
		p.tracked = p.tracked || word == "tracked"
	}
	return p, true
}

// undoRestore destroys a VM that was never whole. A restore in place cannot be undone: until another one made the VM whole it
// is an *IncompleteError.
func undoRestore(ctx context.Context, c *Client, e hikae.Effect, _ []hikae.ChangeID) error {
	mark := e.Facts["mark"]
	if !goodMark.MatchString(mark) {
		return fmt.Errorf("effect %s: mark %.40q: %w", e.ID, mark, fs.ErrInvalid)
	}
	switch e.Facts["what"] {
	case restoresNew:
		return c.destroyUnfinished(ctx, unfinishedVM{mark: mark, instance: e.Facts["uuid"], name: e.Facts["name"],
			folder: types.ManagedObjectReference{Type: "Folder", Value: e.Facts["folder"]}})
	case restoresPlace:
		return c.undoPlace(ctx, e, mark)
	}
	return fmt.Errorf("effect %s: %.40q is no kind of restore: %w", e.ID, e.Facts["what"], fs.ErrInvalid)
}

func (c *Client) undoPlace(ctx context.Context, e hikae.Effect, mark string) error {
	vm, found, err := c.sameVM(ctx, e)
	if err != nil || !found {
		return err
	}
	m, err := c.machine(ctx, vm)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if p, ok := placingOf(m.Config); ok && p.mark == mark {
		return &IncompleteError{VM: m.Name, Mark: mark, Since: p.since}
	}
	return nil
}

// unfinishedVM is how a VM that is being made is found again.
type unfinishedVM struct {
	mark, instance, name string
	folder               types.ManagedObjectReference
}

// destroyUnfinished destroys a VM that bears the mark, and nothing else. One that is being made is waited for.
func (c *Client) destroyUnfinished(ctx context.Context, u unfinishedVM) error {
	if u.folder.Value == "" || u.instance == "" {
		return fmt.Errorf("which VM is not said: %w", fs.ErrInvalid)
	}
	m, err := c.findUnfinished(ctx, u)
	if err != nil || m == nil {
		return err
	}
	if m.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		return &hikae.BusyError{What: "VM " + m.Name + ", which a restore never made whole,", Owner: "its guest: somebody started it"}
	}
	if err := c.detachForeign(ctx, m); err != nil {
		return err
	}
	res, err := methods.Destroy_Task(ctx, c.vim, &types.Destroy_Task{This: m.Self})
	if err == nil {
		_, err = c.Wait(ctx, res.Returnval)
	}
	if isGone(err) {
		return nil
	}
	var lost *TaskLostError
	if err == nil || !errors.As(err, &lost) && isAnswer(err) {
		return err
	}
	if left, lookErr := c.findUnfinished(ctx, u); lookErr == nil && left == nil {
		return nil
	}
	return err
}

// findUnfinished is nil where no VM bears the mark any more: it is gone, or whole.
func (c *Client) findUnfinished(ctx context.Context, u unfinishedVM) (*machine, error) {
	for pause := firstPause; ; pause = min(2*pause, pollEvery) {
		var f mo.Folder
		err := c.properties(ctx, u.folder, []string{"recentTask"}, &f)
		if err != nil && !isGone(err) {
			return nil, fmt.Errorf("folder %s: %w", u.folder.Value, err)
		}
		m, err := c.marked(ctx, u)
		if err != nil || m != nil {
			return m, err
		}
		making, err := c.underWay(ctx, f.RecentTask, "createvm")
		if err != nil || making == nil {
			return nil, err
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, fmt.Errorf("a VM is being made by task %s: %w", making.Key, err)
		}
	}
}

// marked looks for the VM by the instance UUID that it was given, and by its name where the server gave it another one.
func (c *Client) marked(ctx context.Context, u unfinishedVM) (*machine, error) {
	ref, found, err := c.byInstance(ctx, u.instance)
	if err == nil && !found && u.name != "" {
		ref, found, err = c.byName(ctx, u.folder, u.name)
		if isGone(err) {
			return nil, nil
		}
	}
	if err != nil || !found || ref.Type != "VirtualMachine" {
		return nil, err
	}
	m, err := c.machine(ctx, ref)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if settingOf(m.Config, keyUnfinished) != u.mark {
		return nil, nil
	}
	return m, nil
}

// detachForeign takes disks away that were not made with the VM: somebody attached them, and to destroy a VM destroys the files
// of its disks.
func (c *Client) detachForeign(ctx context.Context, m *machine) error {
	list := settingOf(m.Config, keyFiles)
	if list == "" { // the session died at once after it was made: nobody can have known it
		return nil
	}
	own := strings.Split(list, filesBetween)
	var spec types.VirtualMachineConfigSpec
	for _, d := range m.disks {
		if d.File != "" && !slices.Contains(own, snapshotNumber.ReplaceAllString(d.File, ".vmdk")) {
			spec.DeviceChange = append(spec.DeviceChange, &types.VirtualDeviceConfigSpec{
				Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: d.Virtual,
			})
		}
	}
	if spec.DeviceChange == nil {
		return nil
	}
	if err := c.reconfigure(ctx, m.Self, spec); err != nil {
		return fmt.Errorf("detach disks that are not its own: %w", err)
	}
	return nil
}

const filesBetween = "|"

// snapshotNumber is what a file's name gets at its end when its VM has a snapshot.
var snapshotNumber = regexp.MustCompile(`-[0-9]{6}\.vmdk$`)

// ownFiles writes down which disks were made with the VM.
func (d *newVM) ownFiles(ctx context.Context) error {
	var files []string
	for _, disk := range d.machine.disks {
		files = append(files, disk.File)
	}
	return d.restorer.client.reconfigure(ctx, d.ref, types.VirtualMachineConfigSpec{
		ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: keyFiles, Value: strings.Join(files, filesBetween)}},
	})
}
