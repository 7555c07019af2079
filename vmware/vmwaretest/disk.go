package vmwaretest

import (
	"fmt"
	"io/fs"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"
)

// Disk is a virtual disk of a VM as its guest sees it. Its methods may be called at once.
type Disk struct {
	vm        *VM
	key       int32 // of the device
	uuid      string
	mode      string
	thin      bool
	eager     bool
	top       *layer   // what the guest writes to
	files     []*layer // all that are there: the chain, and what snapshots hold
	tracker   *tracker
	lost      string // the key of the fault that questions about changes meet
	untracked bool   // it is taken out of tracking by itself
	stale     bool   // areas past the end that it had are not tracked
	tracked   int64  // bytes that are, where stale
	crypto    string // the id of the key that it is encrypted with; empty: it is not
	from      *VM    // of a linked clone: whose file it stands on
	on        *layer // that file
}

// Key is the disk's UUID, in lower case: what the product calls it by.
func (d *Disk) Key() string { return strings.ToLower(d.uuid) }

// Device is the key of the device: 2000 …
func (d *Disk) Device() int32 { return d.key }

// Size is the disk's length in bytes.
func (d *Disk) Size() int64 {
	d.vm.mu.Lock()
	defer d.vm.mu.Unlock()
	return d.top.size
}

// File is the descriptor of the file that the guest writes to: "[datastore] folder/file.vmdk".
func (d *Disk) File() string {
	d.vm.mu.Lock()
	defer d.vm.mu.Unlock()
	return d.top.name.String()
}

// Chain are the descriptors of the disk and of all that it stands on, as files of this machine.
func (d *Disk) Chain() (out []string) {
	d.vm.mu.Lock()
	defer d.vm.mu.Unlock()
	for _, l := range d.top.chain() {
		out = append(out, l.local)
	}
	return out
}

// Write writes as the guest does: to the running file, and the change tracker notes it.
func (d *Disk) Write(off int64, p []byte) error {
	d.vm.mu.Lock()
	defer d.vm.mu.Unlock()
	return d.write(off, p)
}

func (d *Disk) write(off int64, p []byte) error {
	if err := d.within(off, int64(len(p))); err != nil {
		return err
	}
	if err := d.top.write(p, off); err != nil {
		return err
	}
	if n := int64(len(p)); d.tracker != nil && n > 0 {
		if d.stale {
			n = min(n, d.tracked-off)
		}
		if n > 0 {
			d.tracker.mark(off, n)
		}
	}
	return nil
}

// Read returns n bytes as the guest sees them.
func (d *Disk) Read(off int64, n int) ([]byte, error) {
	d.vm.mu.Lock()
	defer d.vm.mu.Unlock()
	if err := d.within(off, int64(n)); err != nil {
		return nil, err
	}
	p := make([]byte, n)
	return p, d.top.read(p, off)
}

func (d *Disk) within(off, n int64) error {
	if off < 0 || n < 0 || off > d.top.size || n > d.top.size-off {
		return fmt.Errorf("disk %s: %d bytes at %d leave its %d: %w", d.uuid, n, off, d.top.size, fs.ErrInvalid)
	}
	return nil
}

// independent disks are not covered by snapshots.
func (d *Disk) independent() bool {
	return d.mode == string(types.VirtualDiskModeIndependent_persistent) ||
		d.mode == string(types.VirtualDiskModeIndependent_nonpersistent)
}

// SetIndependent takes the disk out of snapshots. It is an error where there are some.
func (d *Disk) SetIndependent() error {
	d.vm.mu.Lock()
	defer d.vm.mu.Unlock()
	if len(d.vm.roots) > 0 {
		return fmt.Errorf("disk %s: the VM has snapshots: %w", d.uuid, fs.ErrInvalid)
	}
	d.mode, d.tracker = string(types.VirtualDiskModeIndependent_persistent), nil
	d.vm.publish(d.vm.s.context())
	return nil
}

// SetEncrypted makes the disk one that is encrypted with a key of that id. Its backing names it; its files show ciphertext where
// they are read as files, and its content where its host reads it. Empty: it is not.
func (d *Disk) SetEncrypted(keyID string) {
	d.vm.mu.Lock()
	defer d.vm.mu.Unlock()
	d.crypto = keyID
	d.vm.publish(d.vm.s.context())
}

// keyID is what configurations say of the disk's encryption.
func (d *Disk) keyID() *types.CryptoKeyId {
	if d.crypto == "" {
		return nil
	}
	return &types.CryptoKeyId{KeyId: d.crypto, ProviderId: &types.KeyProviderId{Id: "keys"}}
}

// Extend makes the disk longer. A host refuses where the VM has snapshots, and so is it here.
func (d *Disk) Extend(size int64) error {
	d.vm.mu.Lock()
	defer d.vm.mu.Unlock()
	if f := d.extend(size); f != nil {
		return faultError(f)
	}
	d.vm.publish(d.vm.s.context())
	return nil
}

func (d *Disk) extend(size int64) types.BaseMethodFault {
	refuse := func(what string) types.BaseMethodFault {
		return &types.InvalidDeviceSpec{InvalidVmConfig: types.InvalidVmConfig{Property: "virtualDeviceSpec.device." + what}}
	}
	switch {
	case len(d.vm.roots) > 0 || d.top.parent != nil:
		return refuse("backing.parent")
	case size < d.top.size || size > maxDiskBytes || size%sector != 0:
		return refuse("capacityInKB")
	}
	d.top.size = size
	if d.top.store.resize(size) != nil || d.top.describe() != nil {
		return &types.NoDiskSpace{Datastore: d.top.name.Datastore}
	}
	return nil
}

// The faults of a tracker that questions about changes meet.
const (
	NoTrack          = "vim.hostd.vmsvc.cbt.noTrack"          // the disk is not tracked
	NoEpoch          = "vim.hostd.vmsvc.cbt.noEpoch"          // the change id is of another tracking
	CannotGetChanges = "vim.hostd.vmsvc.cbt.cannotGetChanges" // the file with the changes is damaged
)

// FailTracking makes every question about changes meet a fault, one of NoTrack, NoEpoch and CannotGetChanges. Empty: none.
func (d *Disk) FailTracking(key string) {
	d.vm.mu.Lock()
	defer d.vm.mu.Unlock()
	d.lost = key
}

// OmitChanges makes the tracker leave out the next n areas of 64 KiB that are written to, silently.
func (d *Disk) OmitChanges(n int) {
	d.vm.mu.Lock()
	defer d.vm.mu.Unlock()
	if d.tracker != nil {
		d.tracker.omit = n
	}
}

// LoseExtension makes the tracker miss what is written past the disk's end of now, as old hosts did after an extension.
func (d *Disk) LoseExtension() {
	d.vm.mu.Lock()
	defer d.vm.mu.Unlock()
	d.stale, d.tracked = true, d.top.size
}

// ChangeID is the tracker's id of now, empty where the disk is not tracked.
func (d *Disk) ChangeID() string {
	d.vm.mu.Lock()
	defer d.vm.mu.Unlock()
	if d.tracker == nil {
		return ""
	}
	return d.tracker.id()
}

// base is the last disk of the chain.
func (l *layer) base() *layer {
	for l.parent != nil {
		l = l.parent
	}
	return l
}

// joined is a UUID without the spaces of a descriptor, or empty.
func joined(text string) string {
	h := strings.NewReplacer(" ", "", "-", "").Replace(strings.ToLower(text))
	if len(h) != 32 {
		return ""
	}
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// freeName is a name for the next delta: the first number that no file has.
func (d *Disk) freeName() (object.DatastorePath, string, error) {
	own := d.top.own()
	first := own[len(own)-1].name
	stem := strings.TrimSuffix(first.Path, ".vmdk")
	for i := 1; i < 1_000_000; i++ {
		p := object.DatastorePath{Datastore: first.Datastore, Path: fmt.Sprintf("%s-%06d.vmdk", stem, i)}
		local, err := d.vm.s.local(p)
		if err != nil {
			return p, "", err
		}
		if !exists(local) {
			return p, local, nil
		}
	}
	return object.DatastorePath{}, "", fmt.Errorf("disk %s: no name is left: %w", d.uuid, fs.ErrExist)
}
