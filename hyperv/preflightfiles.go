package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/hikae/hikae/hyperv/cim"
)

const (
	growMost  = 64 << 30 // that one VM is expected to write, where nobody says
	pauseFree = 2 << 30  // below which a host pauses VMs
)

// place is a folder with disks of the VM, and how many bytes they have.
type place struct {
	folder string
	size   int64
	disks  []*Disk
}

// files looks at the folders where disks lie: whether they can be read, what of earlier checkpoints is left, and what is free.
func (f *preflight) files(ctx context.Context) error {
	places := f.places()
	if len(places) == 0 {
		return nil
	}
	store, err := f.site.Store(ctx, f.host)
	if err != nil {
		f.unreached(f.probed.host.Name, err)
		return nil
	}
	known, err := f.knownFiles(ctx)
	if err != nil {
		return err
	}
	for _, p := range places {
		names, err := store.List(ctx, p.folder)
		if err != nil {
			f.unreached(p.folder, err)
			continue
		}
		f.strays(p, names, known)
		free, err := store.Free(ctx, p.folder)
		if err != nil {
			f.unreached(p.folder, err)
			continue
		}
		f.space(p, free)
	}
	return nil
}

func (f *preflight) places() (list []*place) {
	for i := range f.machine.Disks {
		d := &f.machine.Disks[i]
		if d.uncovered() != "" {
			continue
		}
		folder := folderOf(d.Path)
		at := slices.IndexFunc(list, func(p *place) bool { return strings.EqualFold(p.folder, folder) })
		if at < 0 {
			at, list = len(list), append(list, &place{folder: folder})
		}
		list[at].disks, list[at].size = append(list[at].disks, d), list[at].size+d.Size
	}
	return list
}

// folderOf keeps the backslash of a drive's or a share's root.
func folderOf(file string) string {
	folder := file[:max(0, strings.LastIndexByte(file, '\\'))]
	if len(folder) == 2 && folder[1] == ':' {
		folder += `\`
	}
	return folder
}

// unreached: an account that may ask the host and may not read its files is the most common mistake.
func (f *preflight) unreached(what string, err error) {
	severity, name, hint := Stop, FindRights, "the account must be an administrator of the host, for C$ and other drives' shares, or may read the share that VMs lie on; SMB (port 445) must be open"
	if f.out.Plan != nil && f.out.Plan.Procedure != Production || f.o.Backup.Mode == OffHost {
		severity = Weak // the data are read elsewhere
	}
	if !errors.Is(err, fs.ErrPermission) {
		name = FindUnknown
	}
	f.found(severity, name, "host "+f.probed.host.Name, fmt.Sprintf("files of %s cannot be read: %s", what, bounded(err.Error())), hint)
}

// knownFiles are those of the VM now and of all its checkpoints, with their parents, in small letters.
func (f *preflight) knownFiles(ctx context.Context) (map[string]bool, error) {
	known := map[string]bool{}
	add := func(disks []Disk) error {
		for _, d := range disks {
			chain, err := f.host.chainOf(ctx, d)
			if err != nil {
				return err
			}
			for _, file := range chain {
				known[strings.ToLower(file)] = true
			}
		}
		return nil
	}
	if err := add(f.machine.Disks); err != nil || f.host.legacy {
		return known, err
	}
	list, err := f.host.checkpoints(ctx, f.machine.ID)
	if err != nil {
		return nil, err
	}
	for _, in := range list {
		ref, err := in.Keyed(cim.Virtualization, "InstanceID")
		if err != nil {
			return nil, err
		}
		disks, err := f.host.disks(ctx, ref)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it just went
		}
		if err == nil {
			err = add(disks)
		}
		if err != nil {
			return nil, err
		}
	}
	return known, nil
}

// A checkpoint's file is called after the disk: disk_GUID.avhdx, and of 2012 R2's writer disk-AutoRecovery.avhdx (R066, R069).
var (
	guidEnding = regexp.MustCompile(`(?i)_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	childFile  = regexp.MustCompile(`(?i)^(.+)\.avhdx?$`)
)

const autoRecovery = "-autorecovery"

// strays are children of this VM's disks that no checkpoint has. Nobody here merges or removes them: what is in them may be all
// that is left of something.
func (f *preflight) strays(p *place, names []string, known map[string]bool) {
	if f.machine.doing(statusSnapshotting, statusDeleting, statusWaiting, statusMerging) {
		return // the host is about to know them, or to remove them
	}
	var strays, recover []string
	for _, name := range names {
		base := childFile.FindStringSubmatch(name)
		if base == nil || known[strings.ToLower(joinFolder(p.folder, name))] {
			continue
		}
		stem := strings.ToLower(base[1])
		switch root := strings.TrimSuffix(stem, autoRecovery); {
		case root != stem && p.has(root):
			recover = append(recover, name)
		case p.has(guidEnding.ReplaceAllString(stem, "")):
			strays = append(strays, name)
		}
	}
	if len(recover) > 0 {
		severity := Weak
		if f.out.Plan != nil && f.out.Plan.Procedure == Writer2012R2 {
			severity = Stop
		}
		f.vm(severity, FindAutoRecovery, "an earlier backup left "+listed(recover)+" in "+p.folder+": the host's writer fails over it (0x800423FB, 0x80070050)",
			"when no backup of the VM runs and no disk of it uses the file, move it away")
	}
	if len(strays) > 0 {
		f.vm(Weak, FindStray, "in "+p.folder+" there are files of checkpoints that are no checkpoint's: "+listed(strays),
			"see the host's log Hyper-V-VMMS-Admin for failed merges (19070, 19080, 19090, 19100); nothing here touches them")
	}
}

// has says whether a disk there is called so, in small letters and without what a checkpoint adds.
func (p *place) has(stem string) bool {
	return slices.ContainsFunc(p.disks, func(d *Disk) bool {
		name := strings.ToLower(fileName(d.Path))
		if dot := strings.LastIndexByte(name, '.'); dot > 0 {
			name = name[:dot]
		}
		return strings.TrimSuffix(guidEnding.ReplaceAllString(name, ""), autoRecovery) == stem
	})
}

func joinFolder(folder, name string) string { return strings.TrimSuffix(folder, `\`) + `\` + name }

// listed names a few.
func listed(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// space: a VM whose volume fills up is paused by its host.
func (f *preflight) space(p *place, free int64) {
	if f.machine.State == Off {
		return // nothing writes
	}
	grow := min(p.size/10, growMost)
	if f.o.GrowBytes > 0 {
		grow = f.o.GrowBytes
	}
	if free >= grow {
		return
	}
	severity := Weak
	if free < min(grow, pauseFree) {
		severity = Stop
	}
	f.vm(severity, FindSpace, fmt.Sprintf("%d bytes are free in %s, and its checkpoint is expected to need %d: a host pauses VMs whose volume is full", free, p.folder, grow), "free some")
}

// volumes looks at the cluster's shared ones that disks lie on.
func (f *preflight) volumes(ctx context.Context) error {
	c := f.cluster
	if c == nil || c.Root == "" {
		return nil
	}
	if c.BackUp {
		f.found(Weak, FindBackup, "cluster "+c.Name, "somebody's backup of its volumes is under way", "let backups of a cluster follow each other")
	}
	root := strings.ToLower(strings.TrimSuffix(c.Root, `\`)) + `\`
	used := map[string]bool{}
	for _, d := range f.machine.Disks {
		if rest, ok := strings.CutPrefix(strings.ToLower(d.Path), root); ok {
			name, _, _ := strings.Cut(rest, `\`)
			used[root+name] = true
		}
	}
	if len(used) == 0 {
		return nil
	}
	ctx, cancel := f.host.bounded(ctx)
	defer cancel()
	list, err := cim.All(f.host.client.Query(ctx, cim.Cluster, "SELECT * FROM MSCluster_ClusterSharedVolume", nil))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, in := range list {
		what, bad := volumeFaults[in.Text("FaultState")]
		if name := in.Text("Name"); bad && used[strings.ToLower(strings.TrimSuffix(name, `\`))] {
			f.found(what.severity, FindVolume, "volume "+name, what.text, what.hint)
		}
	}
	return nil
}

// volumeFaults are a shared volume's FaultState.
var volumeFaults = map[string]struct {
	severity   Severity
	text, hint string
}{
	"1": {Weak, "it is in redirected mode: all its data go over the network", "see the cluster's events for the reason"},
	"2": {Stop, "it cannot be reached", "bring it online"},
	"4": {Stop, "it is in maintenance", "wait for that"},
}
