package hypervtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/hyperv/helper/requester"
)

// VSSOptions change how the host's Volume Shadow Copy Service behaves. Zero fields are good defaults.
type VSSOptions struct {
	// Recover is how long auto-recovery takes, for each VM. Real ones take up to several minutes (R061).
	Recover time.Duration
	// Gap is how long a guest writes on between its internal snapshot and the host's, where the order has such a gap (R053). Zero:
	// 2 ms.
	Gap time.Duration
	// InGap is called in that gap, for each VM, as something inside the guest would write there. On 2012 R2 it is called after the
	// writers were quiesced and before the backup checkpoint: what no writer holds goes on writing.
	InGap func(g *Guest)
	// HardwareProvider makes transportable shadow copies possible.
	HardwareProvider bool
	// Shares makes shadow copies of shares, for the VMs that lie on them, on hosts from 2012 on. Nil: the host has nobody who does.
	Shares ShareCopier
	// Clones are volumes with the GUID of another: D:\ by C:\.
	Clones map[string]string
}

// SetVSS changes how the service behaves from now on.
func (h *Host) SetVSS(o VSSOptions) {
	v := h.hostVSS()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.opts = o
}

// VSS is the Volume Shadow Copy Service of this host, with the Hyper-V writer of its generation, as a requester that runs on the
// host calls it.
//
// It is strict about order, as the service is: what comes at the wrong time is VSS_E_BAD_STATE. Where the facts leave open what
// a real writer does, it is as follows, and who reads should bear either:
//
//   - A writer that fails leaves DoSnapshotSet without an error: GatherWriterStatus tells, and the shadow copies are as after a
//     power cut. Only auto-recovery fails the call itself.
//   - On 2012 R2 the consistent state of a disk is, in the shadow copy, that of <disk>-AutoRecovery.avhdx, a child of the disk as
//     it was at the backup checkpoint. The file is one of the component's, and is not in the component of a guest that is saved.
//     On the production volume merging the auto-recovery checkpoint leaves what the VM sees as it is.
//   - The backup checkpoint is merged when the backup was completed or aborted and the set is deleted, whichever comes last.
//   - From 2016 on a guest stands still while the volume is pinned, and nothing is recovered afterwards.
//
// [Fault] knows these events besides its own, each with Code for an HRESULT:
//
//	freeze        the guest does not get quiet: the writer's state is 0x800423F2, F3 or F4
//	checkpoint    the backup checkpoint of 2012 R2 cannot be made
//	recover       auto-recovery fails: DoSnapshotSet is 0x800423FB
//	stale         the AutoRecovery files stay where they are
//	vss.gather, vss.prepare, vss.do, vss.volume, vss.complete, vss.delete      the call fails, or the provider's part of it
//	storage.snapshot, storage.mount, storage.unmount, storage.delete            the array fails
func (h *Host) VSS() requester.VSS { return h.hostVSS() }

// hostVSS is the service of one host.
type hostVSS struct {
	h *Host

	mu      sync.Mutex
	opts    VSSOptions
	shadows shadows
	making  *vssBackup // who makes a set now: one at a time on a machine
	made    int
	open    map[*vssBackup]bool
	sets    map[requester.ID]*vssSet
	guests  map[string]VSSGuest // by GUID, in small letters
	storage storage
}

// vssHook is where a host keeps its service, which comes with the first use.
type vssHook struct {
	once sync.Once
	it   *hostVSS
}

// close deletes the shadow copies that are left.
func (k *vssHook) close() error {
	k.once.Do(func() {})
	if k.it == nil {
		return nil
	}
	return k.it.close()
}

func (h *Host) hostVSS() *hostVSS {
	h.vss.once.Do(func() {
		h.vss.it = &hostVSS{h: h, open: map[*vssBackup]bool{}, sets: map[requester.ID]*vssSet{}, guests: map[string]VSSGuest{}}
	})
	return h.vss.it
}

// New implements [requester.VSS].
func (v *hostVSS) New(ctx context.Context) (requester.Backup, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.made++
	b := &vssBackup{v: v, name: fmt.Sprintf("requester %d", v.made)}
	b.life, b.die = context.WithCancel(context.Background())
	v.open[b] = true
	return b, nil
}

// KillRequester ends every requester on the host as the death of its process does: what it was making is aborted, and its shadow
// copies go. It returns when that is done.
func (h *Host) KillRequester() error {
	v := h.hostVSS()
	v.mu.Lock()
	var list []*vssBackup
	for b := range v.open {
		list = append(list, b)
	}
	v.mu.Unlock()
	var errs []error
	for _, b := range list {
		errs = append(errs, b.kill())
	}
	return errors.Join(errs...)
}

// Requesters are how many have not been released.
func (h *Host) Requesters() int {
	v := h.hostVSS()
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.open)
}

func (v *hostVSS) options() VSSOptions {
	v.mu.Lock()
	defer v.mu.Unlock()
	o := v.opts
	if o.Gap == 0 {
		o.Gap = 2 * time.Millisecond
	}
	return o
}

// Volume implements [requester.VSS].
func (v *hostVSS) Volume(ctx context.Context, file string) (requester.Volume, error) {
	if err := ctx.Err(); err != nil {
		return requester.Volume{}, err
	}
	mount, err := v.h.volumeOf(file)
	if strings.HasPrefix(file, `\\?\`) {
		mount, err = v.mountOf("Volume", file)
	}
	if err != nil {
		return requester.Volume{}, err
	}
	if !v.supported(mount) {
		return requester.Volume{Name: mount, Mount: mount}, nil
	}
	as := mount
	for clone, of := range v.options().Clones {
		if strings.EqualFold(clone, mount) {
			as = of
		}
	}
	return requester.Volume{Name: volumeName(as), Mount: mount, Device: `\Device\` + strings.Trim(strings.ReplaceAll(mount, ":", ""), `\`)}, nil
}

// volumeOf is where the volume of a file is mounted: C:\, a cluster's C:\ClusterStorage\Volume1\, or a share \\fs1\vms\. Its folder must be
// there.
func (h *Host) volumeOf(file string) (string, error) {
	mount := h.volumeAt(file)
	if mount == "" || !h.exists(folderOf(file)+`\`) {
		return "", &fs.PathError{Op: "volume", Path: file, Err: fs.ErrNotExist}
	}
	return mount, nil
}

// volumeAt is the same for a file that may be gone. Empty: there is no such volume.
func (h *Host) volumeAt(file string) (best string) {
	for _, m := range h.hostVSS().mounts() {
		if len(m) > len(best) && len(file) >= len(m)-1 && strings.EqualFold((file + `\`)[:len(m)], m) {
			best = m
		}
	}
	unc, ok := strings.CutPrefix(file, `\\`)
	if parts := strings.SplitN(unc, `\`, 3); ok && len(parts) > 1 && parts[0] != "" && parts[1] != "" && !strings.ContainsAny(parts[0], "?.") {
		best = `\\` + strings.ToLower(parts[0]) + `\` + strings.ToLower(parts[1]) + `\`
	}
	return best
}

// mounts are where the volumes of the host are: its drives, and a cluster's.
func (v *hostVSS) mounts() (list []string) {
	entries, _ := os.ReadDir(v.h.dir) // none: it has no volumes
	for _, e := range entries {
		if len(e.Name()) == 1 && e.IsDir() {
			list = append(list, e.Name()+`:\`)
		}
	}
	v.h.places.Lock()
	defer v.h.places.Unlock()
	for _, m := range v.h.mounts {
		if m.prefix != `c:\clusterstorage\` {
			continue
		}
		shared, _ := os.ReadDir(m.dir)
		for _, e := range shared {
			if e.IsDir() {
				list = append(list, `C:\ClusterStorage\`+e.Name()+`\`)
			}
		}
	}
	return list
}

// volumeName is the name by which the system knows the volume that is mounted somewhere.
func volumeName(mount string) string {
	n := 0
	for _, c := range strings.ToLower(mount) {
		n = (n*131 + int(c)) & 0xffffff
	}
	return `\\?\Volume{` + strings.ToLower(guid("F0A", n)) + `}\`
}

// Open implements [requester.VSS].
func (v *hostVSS) Open(ctx context.Context, device, path string) (requester.File, error) {
	img, err := v.h.OpenShadow(ctx, device+`\`+path)
	if err != nil {
		return nil, err
	}
	return vssFile{img.(*shadowFile)}, nil
}

// vssFile reads with no context, as its interface has none.
type vssFile struct{ *shadowFile }

func (f vssFile) ReadAt(p []byte, off int64) (int, error) {
	return f.shadowFile.ReadAt(context.Background(), p, off)
}

var _ io.ReaderAt = vssFile{}

// List implements [requester.VSS].
func (v *hostVSS) List(ctx context.Context, device, path string) (list []requester.Entry, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, rest, err := v.h.inShadow(device + `\` + path)
	if err != nil {
		return nil, err
	}
	dir, err := below(s.dir, rest)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if len(entries) > requester.MaxEntries {
		return nil, fmt.Errorf("%s\\%s: %d entries, at most %d are listed", device, path, len(entries), requester.MaxEntries)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		one := requester.Entry{Name: e.Name(), Dir: e.IsDir()}
		if !one.Dir {
			one.Size = info.Size()
		}
		list = append(list, one)
	}
	return list, nil
}
