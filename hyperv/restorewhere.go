package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/vhdx"
)

// hostFor is the host that a new VM is made on.
func (r *Restorer) hostFor(ctx context.Context) (*Host, error) {
	h, err := r.site.first.get(ctx, r.site)
	if r.opts.Host != "" {
		h, err = r.site.HostNamed(ctx, r.opts.Host)
	}
	if err != nil {
		return nil, err
	}
	return h, h.canRestore()
}

// canRestore: planned VMs, and disks of the format VHDX, are since 2012.
func (h *Host) canRestore() error {
	if h.legacy || h.info.Build < build2012 {
		return fmt.Errorf("host %s: a restore to Hyper-V before 2012: %w; restore the disks to files, or to a newer host", h.info.Name, errors.ErrUnsupported)
	}
	return nil
}

// homeOf is the folder in which a new VM gets one of its own.
func (r *Restorer) homeOf(ctx context.Context, h *Host, rec *record, was string) (string, error) {
	if r.opts.Path != "" {
		return r.opts.Path, nil
	}
	if rec.system != nil {
		root, err := vhdx.WindowsPath(strings.TrimRight(rec.system.Text("ConfigurationDataRoot"), `\`) + `\`)
		if root = strings.TrimRight(root, `\`); err == nil && strings.Contains(root, `\`) {
			if own := folderName(was); own != "" && strings.EqualFold(fileName(root), own) {
				root = strings.TrimSuffix(root, `\`+fileName(root))
			}
			return root, nil
		}
	}
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	in, err := cim.One(h.client.Query(ctx, cim.Virtualization, "SELECT * FROM Msvm_VirtualSystemManagementServiceSettingData", nil))
	if err == nil {
		if root, bad := vhdx.WindowsPath(strings.TrimRight(in.Text("DefaultVirtualHardDiskPath"), `\`)); bad == nil {
			return root, nil
		}
	}
	if ctx.Err() != nil {
		return "", err
	}
	return "", &AbsentError{What: "folder", Hint: "name the path in which the VM gets its folder"}
}

// folderName is a VM's name as a folder can have it; empty where it cannot.
func folderName(name string) string {
	ok := strings.Map(func(r rune) rune {
		if strings.ContainsRune(`\/:*?"<>|`, r) || r < ' ' {
			return '_'
		}
		return r
	}, name)
	ok = strings.Trim(ok, ". ")
	if len(ok) > 100 {
		return ""
	}
	if clean, err := vhdx.WindowsPath(`C:\` + ok); err != nil || clean != `C:\`+ok {
		return ""
	}
	return ok
}

// folderFor chooses a new VM's folder: one in which nothing is.
func folderFor(ctx context.Context, store Store, home, name, mark string) (*newFolder, error) {
	f := &newFolder{mark: mark}
	own := folderName(name)
	for _, try := range []string{own, own + "-" + mark[:8]} {
		if try == "" {
			continue
		}
		path, err := vhdx.WindowsPath(home + `\` + strings.TrimPrefix(try, "-"))
		if err != nil {
			return nil, err
		}
		fresh, err := isFresh(ctx, store, path)
		if err != nil {
			return nil, fmt.Errorf("folder %s: %w", path, err)
		}
		if fresh {
			f.path = path
			return f, f.findMade(ctx, store)
		}
	}
	return nil, fmt.Errorf("folder %s\\%s: %w", home, own, fs.ErrExist)
}

// findMade finds out which folders are not there yet.
func (f *newFolder) findMade(ctx context.Context, store Store) error {
	for at := f.path; strings.Count(at, `\`) > strings.Count(rootOf(f.path), `\`); at = at[:strings.LastIndexByte(at, '\\')] {
		_, err := store.List(ctx, at)
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("folder %s: %w", at, err)
		}
		f.made = append(f.made, at)
	}
	return nil
}

// rootOf is the drive or share that a path is on: C: and \\fs1\vms.
func rootOf(path string) string {
	rest, unc := strings.CutPrefix(path, `\\`)
	parts := strings.SplitN(rest, `\`, 3)
	if unc && len(parts) > 1 {
		return `\\` + parts[0] + `\` + parts[1]
	}
	return parts[0]
}

// netSwitch is a virtual switch of a host.
type netSwitch struct {
	Name  string `cim:"Name"` // GUID
	Title string `cim:"ElementName,optional"`
	ref   cim.Ref
}

func (h *Host) switches(ctx context.Context) (out []netSwitch, err error) {
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	list, err := cim.All(h.client.Query(ctx, cim.Virtualization, "SELECT * FROM Msvm_VirtualEthernetSwitch", nil))
	if err != nil {
		return nil, fmt.Errorf("switches of %s: %w", h.info.Name, err)
	}
	for _, in := range list {
		var s netSwitch
		if err := in.Decode(&s); err != nil {
			return nil, err
		}
		if s.ref, err = in.Keyed(cim.Virtualization, "CreationClassName", "Name"); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// plugs chooses a switch for each recorded card; nil: it stays unplugged.
func (r *Restorer) plugs(there []netSwitch, cards []*recordedCard) (to []*netSwitch, notes []string, err error) {
	used := map[string]bool{}
	for _, c := range cards {
		s, note, err := r.plug(there, c, used)
		if err != nil {
			return nil, nil, err
		}
		if to = append(to, s); note != "" {
			notes = append(notes, note)
		}
	}
	for key := range r.opts.Switches {
		if !used[key] {
			return nil, nil, fmt.Errorf("a switch was named for %q, and no card of the VM is called so, or was plugged into that: %w", key, fs.ErrInvalid)
		}
	}
	return to, notes, nil
}

func (r *Restorer) plug(there []netSwitch, c *recordedCard, used map[string]bool) (*netSwitch, string, error) {
	for key, want := range r.opts.Switches {
		if key == "" || !strings.EqualFold(key, c.swtch) && !strings.EqualFold(key, c.called) && !strings.EqualFold(key, c.name) {
			continue
		}
		used[key] = true
		if want == NoSwitch || r.opts.NoNetwork {
			return nil, "", nil
		}
		s, err := switchNamed(there, want)
		return s, "", err
	}
	if r.opts.NoNetwork || c.swtch == "" {
		return nil, "", nil
	}
	for i := range there {
		if strings.EqualFold(there[i].Name, c.swtch) {
			return &there[i], "", nil
		}
	}
	if s, err := switchNamed(there, c.called); err == nil {
		return s, "", nil
	}
	return nil, fmt.Sprintf("network card %q is not plugged in: switch %s (%s) is not on this host", c.name, c.called, c.swtch), nil
}

// switchNamed is the only switch of a name, or that of a GUID.
func switchNamed(there []netSwitch, name string) (*netSwitch, error) {
	var found []*netSwitch
	var names []string
	for i := range there {
		if strings.EqualFold(there[i].Name, name) || there[i].Title == name {
			found = append(found, &there[i])
		}
		names = append(names, there[i].Title)
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		slices.Sort(names)
		return nil, &AbsentError{What: "switch", Name: name, There: names[:min(len(names), 50)]}
	}
	return nil, fmt.Errorf("%d switches are called %q: name one by its GUID: %w", len(found), name, fs.ErrInvalid)
}
