package hyperv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
)

// verdict is what a procedure says of a VM's part in a set.
type verdict struct {
	level    hikae.Consistency
	warnings []string
}

func (v *verdict) warn(text string) { v.warnings = append(v.warnings, text) }

// adoption is how a procedure takes a VM's part.
type adoption struct {
	reached  func(vm *planned, o SetOutcome, off bool) (verdict, error)
	recovery bool // a disk may be in the set as the file of an auto-recovery checkpoint (R069)
}

// writerVerdict is what the writer's method is good for, where its part went well. Writers have one word for what is off and for
// what they save for a moment; before 2012 R2 it is saved, later offline. What the VM was tells them apart.
func writerVerdict(vm *planned, o SetOutcome, off bool) (got verdict, err error) {
	if o.Err != nil {
		return got, fmt.Errorf("its part in the set of shadow copies failed: %w%s", o.Err, hintOf(o))
	}
	apart := o.Method == MethodSaved || o.Method == MethodOffline
	switch {
	case o.Method == MethodOnline:
		got.level = hikae.Application
	case apart && off:
		got.level = hikae.Offline
	case apart && vm.machine.runs():
		got.level = hikae.Crash // what the guest had written and not yet put on disk is in its memory, which nobody restores
		got.warn("the VM stood still for a moment: its writer put it into saved state, because the integration components could not take a snapshot inside it; its memory is not in the point, and its disks are as after a power cut" + hintOf(o))
	case apart:
		got.level = hikae.Crash
		got.warn(fmt.Sprintf("the VM was %s, and its memory is not in the point: its disks are as after a power cut%s", vm.machine.State, hintOf(o)))
	default:
		got.level = hikae.Crash
		got.warn("the writer does not say how it got the VM consistent: it is taken for one as after a power cut" + hintOf(o))
	}
	return got, nil
}

// off says whether a VM was off from right before the set was made until right after.
func (v *vssSet) off(vm *planned) bool {
	then := v.then[vm.machine.ID]
	return then.err == nil && stoodStill(vm.machine, then.machine)
}

func hintOf(o SetOutcome) string {
	if o.Hint == "" {
		return ""
	}
	return " (" + o.Hint + ")"
}

// writerSnapshot is one VM in a set of shadow copies. Its methods are called one at a time, but for OpenDisk and the images.
type writerSnapshot struct {
	set         *vssSet
	planned     *planned
	vm          hikae.VM
	consistency hikae.Consistency
	disks       map[string]string // by key: the file in the set

	since, past map[string]hikae.ChangeID // see hikae.SnapshotOptions
	base        *pastBase                 // from Prepare on

	mu        sync.Mutex
	warnings  []string
	open      map[*setImage]bool
	released  bool
	committed bool
}

// snapshot makes one of a VM's part, from what is in the set alone: the VM itself has gone on.
func (v *vssSet) snapshot(ctx context.Context, vm *planned, how adoption) (*writerSnapshot, error) {
	outcome := v.set.Outcome(vm.machine.ID)
	got, err := how.reached(vm, outcome, v.off(vm))
	if err != nil {
		return nil, err
	}
	if outcome.Method == MethodOnline && got.level == hikae.Application && v.host.guestIsLinux(ctx, vm.machine.ID) {
		got.level = hikae.Filesystem // R083: it was frozen, and there are no writers in it that would be asked
	}
	s := &writerSnapshot{set: v, planned: vm, since: v.opts.Since, past: v.opts.Past, vm: vm.machine.VM(v.host.Info()), disks: map[string]string{}, open: map[*setImage]bool{}}
	for k, text := range map[string]string{"procedure": string(v.procedure), "mode": string(vm.plan.Mode), "set": v.set.ID(), "method": string(outcome.Method),
		"reasons": vm.plan.why()} {
		s.vm.Facts[k] = text
	}
	if err := v.unchanged(ctx, vm, outcome.Files); err != nil {
		return nil, err
	}
	how.recovery = how.recovery && outcome.Method == MethodOnline
	bare, err := s.adoptDisks(ctx, vm, outcome.Files, how)
	if err != nil {
		return nil, err
	}
	if build := v.host.Info().Build; len(bare) > 0 && how.recovery && build < build2016 {
		got.level = hikae.Crash
		got.warn(fmt.Sprintf("the set has no file of the auto-recovery checkpoint of %s (R069, R075): the VM is in it as after a power cut%s", strings.Join(bare, ", "), hintOf(outcome)))
	}
	if got.level == hikae.Crash && v.p.opts.Quiesce == RequireQuiesce {
		return nil, &hikae.QuiesceError{Stage: "snapshot", Err: errors.New(strings.Join(got.warnings, "; "))}
	}
	s.consistency, s.warnings = got.level, got.warnings
	if v.p.opts.Quiesce == NoQuiesce && outcome.Method == MethodOnline {
		s.warn(unheeded(v.procedure))
	}
	if v.opts.Quiescer != nil {
		s.warn("what was brought along to freeze the guest was not used: by this procedure its host's writer asks the guest itself")
	}
	if s.vm.Config, err = v.config(ctx, outcome.Files); err != nil {
		return nil, err
	}
	if len(s.vm.Config) == 0 {
		s.warn("the writer lists no configuration file of this VM: the point has none")
	}
	return s, s.record(ctx)
}

// record puts our own record of the VM's settings beside its configuration files, for a restore to a host that cannot import those. They
// are the present ones: nothing in the set tells of settings. Hosts whose classes are those of 2008 R2 have none that fit.
func (s *writerSnapshot) record(ctx context.Context) error {
	h := s.set.host
	if h.Legacy() {
		return nil
	}
	in, err := h.presentSettings(ctx, s.vm.ID)
	if err != nil {
		return err
	}
	ref, err := in.Keyed(cim.Virtualization, "InstanceID")
	if err != nil {
		return err
	}
	settings, err := h.settings(ctx, s.vm.ID, in, ref)
	if err != nil {
		return err
	}
	s.vm.Config[SettingsFile], err = json.Marshal(settings)
	return err
}

// adoptDisks finds the file of each disk in the set. The writer's own list decides: what it does not name was not prepared by
// it. Sizes come from the files: the VM may have been extended since it was looked at. Bare are the disks, by key, that have no file of
// an auto-recovery checkpoint.
func (s *writerSnapshot) adoptDisks(ctx context.Context, vm *planned, files []string, how adoption) (bare []string, err error) {
	named := map[string]bool{}
	for _, f := range files {
		named[strings.ToLower(f)] = true
	}
	for i := range s.vm.Disks {
		d := &s.vm.Disks[i]
		if d.Skip != "" {
			continue
		}
		path := vm.machine.Disks[i].Path
		if !named[strings.ToLower(path)] {
			return nil, fmt.Errorf("disk %s: %s is not among the %d files that the writer names for this VM", d.Key, path, len(files))
		}
		img, file, err := s.set.openAdopted(ctx, path, how)
		if err != nil {
			return nil, fmt.Errorf("disk %s in the set: %w", d.Key, err)
		}
		d.Size, s.disks[d.Key] = img.Size(), file
		if file == path {
			bare = append(bare, d.Key)
		}
		if err := img.Close(); err != nil {
			return nil, fmt.Errorf("disk %s in the set: %w", d.Key, err)
		}
	}
	if len(s.disks) == 0 {
		return nil, errors.New("it has no disk that could be backed up")
	}
	return bare, nil
}

// openAdopted opens a disk in the set: the file of an auto-recovery checkpoint where there is one that stands on it. Whether the
// writer names that file is its own affair: it tells its files before it makes the set.
func (v *vssSet) openAdopted(ctx context.Context, path string, how adoption) (*vhdx.Image, string, error) {
	img, err := v.openDisk(ctx, path)
	if err != nil || !how.recovery {
		return img, path, err
	}
	for _, file := range recoveryFiles(img.Files()) {
		recovered, err := v.openDisk(ctx, file)
		if parent := (*vhdx.ParentError)(nil); errors.Is(err, fs.ErrNotExist) && !errors.As(err, &parent) {
			continue
		}
		if err == nil && !standsOn(recovered, path) {
			err = errors.Join(fmt.Errorf("%s does not stand on %s", file, path), recovered.Close())
		}
		if err != nil {
			return nil, "", errors.Join(fmt.Errorf("of the auto-recovery checkpoint: %w", err), img.Close())
		}
		return recovered, file, img.Close()
	}
	return img, path, nil
}

// standsOn says whether a disk's parent is a file.
func standsOn(img *vhdx.Image, path string) bool {
	files := img.Files()
	return len(files) > 1 && strings.EqualFold(files[1], path)
}

// recoveryFiles are where the file of an auto-recovery checkpoint may be, for a disk with these files (R069): it is called after the
// disk, which with checkpoints of users is the last of them.
func recoveryFiles(chain []string) (list []string) {
	for _, path := range slices.Backward(chain) {
		ending := ".avhdx"
		if dot := strings.LastIndexByte(path, '.'); dot > strings.LastIndexByte(path, '\\') {
			if strings.HasSuffix(strings.ToLower(path), "vhd") {
				ending = ".avhd"
			}
			path = path[:dot]
		}
		list = append(list, path+"-AutoRecovery"+ending)
	}
	return list
}

func (v *vssSet) openDisk(ctx context.Context, file string) (*vhdx.Image, error) {
	return vhdx.OpenIn(ctx, v.files, file, nil)
}

const (
	maxConfigFile = 64 << 20  // bytes of one file: what is larger holds memory, and no configuration
	maxConfig     = 128 << 20 // bytes of a VM's files together
)

// configFiles are the endings of a VM's own files: R103.
var configFiles = []string{".xml", ".vmcx", ".vmrs", ".vmgs"}

// config reads the VM's configuration from the set, byte for byte, by the files' names without their folders.
func (v *vssSet) config(ctx context.Context, files []string) (map[string][]byte, error) {
	out, total := map[string][]byte{}, int64(0)
	for _, name := range files {
		lower := strings.ToLower(name)
		if !slices.ContainsFunc(configFiles, func(end string) bool { return strings.HasSuffix(lower, end) }) {
			continue
		}
		data, err := readConfigFile(ctx, v.files, name)
		if errors.Is(err, errConfigLarge) || errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(lower, ".vmrs") {
			continue // the VM's memory, which a restored VM begins without
		}
		if err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
		if total += int64(len(data)); total > maxConfig {
			return nil, fmt.Errorf("configuration: %s: the files are longer than %d bytes together", name, maxConfig)
		}
		base := name[strings.LastIndexByte(name, '\\')+1:]
		if _, twice := out[base]; twice {
			return nil, fmt.Errorf("configuration: two files are called %s", base)
		}
		out[base] = data
	}
	return out, nil
}

var errConfigLarge = errors.New("it is too long for a configuration")

func readConfigFile(ctx context.Context, files Files, name string) ([]byte, error) {
	img, err := files.Open(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer img.Close()
	if img.Size() > maxConfigFile {
		return nil, fmt.Errorf("%s: %w: %d bytes", name, errConfigLarge, img.Size())
	}
	data := make([]byte, img.Size())
	if n, err := img.ReadAt(ctx, data, 0); n < len(data) {
		return nil, fmt.Errorf("%s: read at %d: %w", name, n, err)
	}
	return data, nil
}

func (s *writerSnapshot) warn(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.warnings = append(s.warnings, text)
}

// VM, Consistency and Warnings say what was pinned, and how.
func (s *writerSnapshot) VM() hikae.VM                   { return s.vm }
func (s *writerSnapshot) Consistency() hikae.Consistency { return s.consistency }
func (s *writerSnapshot) Warnings() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.warnings)
}

// OpenDisk implements [hikae.Snapshot]. What is read is in the set, also below it: a set that goes away while it is read is an
// error of that read, never the production volume's content.
func (s *writerSnapshot) OpenDisk(ctx context.Context, key string) (pipe.Image, error) {
	file, ok := s.disks[key]
	if !ok {
		return nil, fmt.Errorf("disk %q of VM %s: %w", key, s.vm.ID, fs.ErrNotExist)
	}
	img, err := s.set.openDisk(ctx, file)
	if err != nil {
		return nil, fmt.Errorf("set %s: %w", s.vm.Facts["set"], err)
	}
	opened := &setImage{Image: img, of: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.released {
		return nil, errors.Join(fmt.Errorf("VM %s was released: %w", s.vm.ID, fs.ErrClosed), img.Close())
	}
	s.open[opened] = true
	return opened, nil
}

// setImage is a disk that is read. Its snapshot closes it where its reader did not.
type setImage struct {
	*vhdx.Image
	of   *writerSnapshot
	once sync.Once
	err  error
}

// Unwrap implements [pipe.Wrapper].
func (i *setImage) Unwrap() pipe.Image { return i.Image }

func (i *setImage) Close() error {
	i.once.Do(func() {
		i.of.mu.Lock()
		delete(i.of.open, i)
		i.of.mu.Unlock()
		i.err = i.Image.Close()
	})
	return i.err
}

// Changed implements [hikae.Snapshot]: this way nobody tracks.
func (s *writerSnapshot) Changed(context.Context, string, hikae.ChangeID) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		yield(pipe.Extent{}, untrackedError{fmt.Sprintf("procedure %s reads a shadow copy, and keeps no record of changes", s.set.procedure)})
	}
}

// WillAsk and WillReplace implement [job.LateSince] and [job.LatePast].
func (s *writerSnapshot) WillAsk(since map[string]hikae.ChangeID)    { s.since = since }
func (s *writerSnapshot) WillReplace(past map[string]hikae.ChangeID) { s.past = past }

// Prepare implements [hikae.Snapshot]. There are no change ids, and what an earlier procedure's rest on is left behind by this point. It
// fails where the set went away meanwhile: a host deletes shadow copies when it has no room for them.
func (s *writerSnapshot) Prepare(ctx context.Context) (map[string]hikae.ChangeID, error) {
	for key, file := range s.disks {
		img, err := s.set.files.Open(ctx, file)
		if err != nil {
			return nil, fmt.Errorf("VM %s: disk %s: the set of shadow copies was lost while it was read: %w", s.vm.ID, key, err)
		}
		if err := img.Close(); err != nil {
			return nil, err
		}
	}
	if s.base == nil {
		bases := basesOf(s.vm.ID, s.set.opts.Repository, s.since, s.past)
		base, err := s.set.p.leaveBase(ctx, s.set.opts.Journal, s.planned, s.set.opts.Repository, bases)
		if err != nil {
			return nil, err
		}
		s.base = base
	}
	return map[string]hikae.ChangeID{}, nil
}

// Commit implements [hikae.Snapshot].
func (s *writerSnapshot) Commit(ctx context.Context) error {
	s.committed = true
	s.set.commit(s.vm.ID)
	return s.base.commit(ctx)
}

// Release implements [hikae.Snapshot]. The set goes with the last VM that is in it.
func (s *writerSnapshot) Release(ctx context.Context) error {
	s.mu.Lock()
	s.released = true
	var left []*setImage
	for img := range s.open {
		left = append(left, img)
	}
	s.mu.Unlock()
	var errs []error
	for _, img := range left {
		errs = append(errs, img.Close())
	}
	if !s.committed {
		errs = append(errs, s.base.abandon(ctx))
	}
	warnings, err := s.set.p.tellPending(s.set.leave(ctx, s.vm.ID))
	for _, text := range warnings {
		s.warn(text)
	}
	return errors.Join(append(errs, err)...)
}
