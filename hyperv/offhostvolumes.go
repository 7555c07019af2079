package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// volumePin is a volume, and who pins it.
type volumePin struct {
	by     VolumeSnapshotter
	volume string
}

func (v volumePin) key() string { return v.by.Name() + "\n" + strings.ToLower(v.volume) }

// pinner finds who can pin the volume of a file: the first that does not say that it cannot.
func (p *Provider) pinner(ctx context.Context, h *Host, file string) (volumePin, error) {
	var why []error
	for _, by := range p.opts.Volumes {
		volume, err := by.Volume(ctx, h.Info().Name, file)
		switch {
		case err == nil:
			return volumePin{by, volume}, nil
		case !errors.Is(err, errors.ErrUnsupported):
			return volumePin{}, fmt.Errorf("%s: volume of %s: %w", by.Name(), file, err)
		}
		why = append(why, fmt.Errorf("%s: %w", by.Name(), err))
	}
	return volumePin{}, fmt.Errorf("nobody can pin the volume of %s: %w", file, errors.Join(append(why, errors.ErrUnsupported)...))
}

// pinnedVolumes are the volumes of a group of VMs, pinned and mounted where they are read, and who still reads them (R096, R097,
// R099).
type pinnedVolumes struct {
	p     *Provider
	host  *Host
	snaps map[string]VolumeSnapshot // by their snapshotter's name

	mu      sync.Mutex
	readers map[string]bool // VMs that were not released yet
}

// pinVolumes pins the volumes of files. What one snapshotter pins is of one moment; between two of them only files that nobody
// writes to are the same, and those of checkpoints are.
func (p *Provider) pinVolumes(ctx context.Context, h *Host, mark string, files []string, j hikae.Journal) (_ *pinnedVolumes, err error) {
	v := &pinnedVolumes{p: p, host: h, snaps: map[string]VolumeSnapshot{}, readers: map[string]bool{}}
	by, volumes, err := v.sort(ctx, files)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), setUndo)
			defer cancel()
			err = errors.Join(err, v.remove(ctx))
		}
	}()
	for _, name := range slices.Sorted(maps.Keys(by)) {
		snap, err := by[name].Take(ctx, h.Info().Name, mark, volumes[name], p.onSite(j, h))
		if err != nil {
			return nil, fmt.Errorf("%s: pin %s of %s: %w", name, strings.Join(volumes[name], ", "), h.Info().Name, err)
		}
		v.snaps[name] = snap
	}
	return v, nil
}

// sort sorts the volumes of files by who pins them.
func (v *pinnedVolumes) sort(ctx context.Context, files []string) (map[string]VolumeSnapshotter, map[string][]string, error) {
	by, volumes := map[string]VolumeSnapshotter{}, map[string][]string{}
	for _, f := range files {
		pin, err := v.p.pinner(ctx, v.host, f)
		if err != nil {
			return nil, nil, err
		}
		name := pin.by.Name()
		by[name] = pin.by
		if !slices.ContainsFunc(volumes[name], func(is string) bool { return strings.EqualFold(is, pin.volume) }) {
			volumes[name] = append(volumes[name], pin.volume)
		}
	}
	return by, volumes, nil
}

// Open implements [Files]. A file of a volume that was not pinned is fs.ErrNotExist: it is never read where it lies.
func (v *pinnedVolumes) Open(ctx context.Context, name string) (pipe.Image, error) {
	pin, err := v.p.pinner(ctx, v.host, name)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	snap := v.snaps[pin.by.Name()]
	v.mu.Unlock()
	if snap == nil {
		return nil, fmt.Errorf("%s: its volume %s is not pinned any more, or never was: %w", name, pin.volume, fs.ErrNotExist)
	}
	return snap.Open(ctx, name)
}

// join says that a VM reads from here.
func (v *pinnedVolumes) join(vm string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.readers[vm] = true
}

// leave is a VM's release; the last one's deletes the volume snapshots (R099). Where that fails, the next call goes on.
func (v *pinnedVolumes) leave(ctx context.Context, vm string) error {
	v.mu.Lock()
	delete(v.readers, vm)
	last := len(v.readers) == 0
	v.mu.Unlock()
	if !last {
		return nil
	}
	return v.remove(ctx)
}

func (v *pinnedVolumes) remove(ctx context.Context) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(v.snaps)) {
		if err := v.snaps[name].Delete(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: volume snapshot %s: %w", name, v.snaps[name].ID(), err))
			continue
		}
		delete(v.snaps, name)
	}
	return errors.Join(errs...)
}

// transport mounts a set's shadow copies where we read: of all volumes that the writer's files of the VMs lie on, which their
// configuration and their disks' parents may have to themselves. Whoever pins them must be able to, and it must be one: a set is presented
// as a whole.
func (p *Provider) transport(ctx context.Context, v *vssSet, vms []*planned) (VolumeSnapshot, error) {
	var by VolumeSnapshotter
	var volumes []string
	for _, file := range v.filesByFolder(vms) {
		pin, err := p.pinner(ctx, v.host, file)
		switch {
		case err != nil:
			return nil, err
		case by != nil && by.Name() != pin.by.Name():
			return nil, fmt.Errorf("the VMs lie on volumes of %s and of %s: one set cannot be brought elsewhere by both: %w", by.Name(), pin.by.Name(), errors.ErrUnsupported)
		}
		by = pin.by
		if !slices.ContainsFunc(volumes, func(is string) bool { return strings.EqualFold(is, pin.volume) }) {
			volumes = append(volumes, pin.volume)
		}
	}
	t, ok := by.(SetTransporter)
	if !ok {
		return nil, fmt.Errorf("a set that the host's VSS made can be read elsewhere only by a storage's own means, and what was given cannot: %w", errors.ErrUnsupported)
	}
	return t.Transport(ctx, v.host.Info().Name, v.mark, v.set.ID(), volumes, p.onSite(v.opts.Journal, v.host))
}

// filesByFolder are files of the VMs in the set, one of each folder: a volume is mounted in a folder, or above it.
func (v *vssSet) filesByFolder(vms []*planned) (list []string) {
	seen := map[string]bool{}
	add := func(file string) {
		folder := strings.ToLower(file[:strings.LastIndexByte(file, '\\')+1])
		if !seen[folder] {
			seen[folder], list = true, append(list, file)
		}
	}
	for _, vm := range vms {
		for i := range vm.machine.Disks {
			if d := &vm.machine.Disks[i]; d.uncovered() == "" {
				add(d.Path)
			}
		}
		for _, file := range v.set.Outcome(vm.machine.ID).Files {
			add(file)
		}
	}
	return list
}

// onSite is a journal whose effects name the site and the host, so that a sweep knows whom to ask.
func (p *Provider) onSite(j hikae.Journal, h *Host) hikae.Journal {
	if j == nil {
		return nil
	}
	return siteJournal{j, map[string]string{"site": p.site.Address(), "host": h.Info().Name}}
}

type siteJournal struct {
	hikae.Journal
	facts map[string]string
}

func (j siteJournal) Intend(ctx context.Context, e hikae.Effect) (func(context.Context) error, error) {
	facts := maps.Clone(e.Facts)
	if facts == nil {
		facts = map[string]string{}
	}
	maps.Copy(facts, j.facts)
	e.Facts = facts
	return j.Journal.Intend(ctx, e)
}

// kindVolume begins the kinds of effects that snapshotters of volumes have.
const kindVolume = "hyperv.volume."

// undoVolume has a snapshotter undo an effect of its own.
func undoVolume(ctx context.Context, p *Provider, e hikae.Effect) error {
	name := e.Facts["snapshotter"]
	for _, by := range p.opts.Volumes {
		if by.Name() == name {
			return by.Undo(ctx, e)
		}
	}
	return fmt.Errorf("effect %s: it was made by %q, and no such snapshotter was given: %w", e.ID, name, errors.ErrUnsupported)
}
