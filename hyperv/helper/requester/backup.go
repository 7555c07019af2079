package requester

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// Bounds of what a host tells.
const (
	maxVMs     = 4096 // of a host
	maxSetVMs  = 64   // of a set
	maxVolumes = 64   // of a set
	maxFiles   = 8192 // of a VM
)

// errWriter says that a writer failed.
var errWriter = errors.New("the writer failed")

// vm is what the writer has of one VM.
type vm struct {
	id        string
	writer    Writer
	component Component
	files     []string // patterns among them
	volumes   []Volume
}

// begin goes as far as GatherWriterMetadata.
func begin(ctx context.Context, v VSS, c Context, t BackupType) (Backup, []Writer, error) {
	b, err := v.New(ctx)
	if err != nil {
		return nil, nil, err
	}
	writers, err := gather(ctx, b, c, t)
	if err != nil {
		return nil, nil, errors.Join(err, b.Close())
	}
	return b, writers, nil
}

func gather(ctx context.Context, b Backup, c Context, t BackupType) ([]Writer, error) {
	if err := b.Initialize(ctx); err != nil {
		return nil, err
	}
	if err := b.SetContext(ctx, c); err != nil {
		return nil, err
	}
	if err := b.SetBackupState(ctx, t); err != nil {
		return nil, err
	}
	if err := b.EnableWriterClasses(ctx, HyperVWriter); err != nil {
		return nil, err
	}
	all, err := b.GatherWriterMetadata(ctx)
	if err != nil {
		return nil, err
	}
	ours := slices.DeleteFunc(all, func(w Writer) bool { return !strings.EqualFold(string(w.Class), string(HyperVWriter)) })
	if len(ours) == 0 {
		return nil, fmt.Errorf("Hyper-V's writer is not there: %w", fs.ErrNotExist)
	}
	return ours, nil
}

// vmsOf are the VMs of a host's writers. The host's own configuration, and other components that no VM is, are left out.
func vmsOf(writers []Writer) (all []vm, err error) {
	for _, w := range writers {
		for _, c := range w.Components {
			id := vmID(c.Name)
			if !idRule.MatchString("{" + strings.ToUpper(id) + "}") {
				continue
			}
			if len(all) == maxVMs {
				return nil, fmt.Errorf("more than %d VMs", maxVMs)
			}
			one := vm{id: id, writer: Writer{Instance: w.Instance, Class: w.Class, Name: w.Name}, component: c}
			for _, f := range c.Files {
				one.files = append(one.files, strings.TrimSuffix(f.Path, `\`)+`\`+f.Spec)
			}
			if len(one.files) > maxFiles {
				return nil, fmt.Errorf("VM %s: %d files, at most %d", id, len(one.files), maxFiles)
			}
			all = append(all, one)
		}
	}
	return all, nil
}

// place finds the volumes that a VM lies on. A folder is asked for once, and a file in it is on its volume: one that is not is a
// mounted file, which there is not.
func (m *vm) place(ctx context.Context, v VSS, asked map[string]Volume) error {
	for _, f := range m.component.Files {
		folder := strings.ToLower(strings.TrimSuffix(f.Path, `\`))
		volume, known := asked[folder]
		if !known {
			clean, err := cleanName(strings.TrimSuffix(f.Path, `\`) + `\`)
			if err != nil {
				return fmt.Errorf("VM %s: the writer names a folder: %w", m.id, err)
			}
			if volume, err = v.Volume(ctx, strings.TrimSuffix(clean, `\`)+`\`); err != nil {
				return fmt.Errorf("VM %s: the volume of %s: %w", m.id, clean, err)
			}
			if err := leads(ctx, v, volume); err != nil {
				return fmt.Errorf("VM %s: the volume of %s: %w", m.id, clean, err)
			}
			asked[folder] = volume
		}
		if !slices.Contains(m.volumes, volume) {
			m.volumes = append(m.volumes, volume)
		}
	}
	return nil
}

// choose picks VMs of a host by their ids.
func choose(ctx context.Context, v VSS, writers []Writer, ids []string) ([]vm, error) {
	all, err := vmsOf(writers)
	if err != nil {
		return nil, err
	}
	asked := map[string]Volume{}
	var chosen []vm
	for _, id := range ids {
		at := slices.IndexFunc(all, func(m vm) bool { return m.id == vmID(id) })
		if at < 0 {
			return nil, fmt.Errorf("VM %s: Hyper-V's writer does not have it: %w", id, fs.ErrNotExist)
		}
		one := all[at]
		if err := one.place(ctx, v, asked); err != nil {
			return nil, err
		}
		if len(one.volumes) == 0 {
			return nil, fmt.Errorf("VM %s: the writer names no files of it", id)
		}
		chosen = append(chosen, one)
	}
	return chosen, nil
}

// well asks the writers of VMs how they are.
func well(ctx context.Context, b Backup, vms []vm) error {
	list, err := b.GatherWriterStatus(ctx)
	if err != nil {
		return err
	}
	for _, m := range vms {
		at := slices.IndexFunc(list, func(s Status) bool { return s.Instance == m.writer.Instance })
		if at < 0 {
			return fmt.Errorf("%w: %s does not answer any more", errWriter, m.writer.Name)
		}
		if s := list[at]; s.Err != nil {
			return fmt.Errorf("%w: %s: %w", errWriter, s.State, s.Err)
		}
	}
	return nil
}

// waits between tries while another requester makes a set.
const (
	firstWait = time.Second
	mostWait  = 10 * time.Second
)

// startSet begins a set, as soon as nobody else makes one.
func startSet(ctx context.Context, b Backup, waiting func()) (ID, error) {
	for wait := firstWait; ; wait = min(2*wait, mostWait) {
		id, err := b.StartSnapshotSet(ctx)
		if err == nil && !idRule.MatchString(string(id)) {
			return "", fmt.Errorf("the service calls the set %.40q", string(id))
		}
		if codeOf(err) != SetInProgress {
			return id, err
		}
		waiting()
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return "", err // it says more than that the time is up
		}
	}
}
