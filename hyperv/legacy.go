package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"

	"github.com/hikae/hikae/hyperv/cim"
)

// Legacy is the namespace of 2008 R2. There a VM's parts have other words, one class, and the file of a disk in another property;
// what the host knows of a file is an object of another class. 2012 has it too, and is asked by the newer one.
const Legacy = "root/virtualization"

// Legacy says that a host has the classes of 2008 R2 alone: no checkpoint of ours can be made there.
func (h *Host) Legacy() bool { return h.legacy }

// space is the namespace of the host's classes.
func (h *Host) space() string {
	if h.legacy {
		return Legacy
	}
	return cim.Virtualization
}

// legacySubs are the words of 2008 R2, by ours.
var legacySubs = map[string]string{
	"Microsoft Virtual Hard Disk":         subFile,
	"Microsoft Physical Disk Drive":       subPhysical,
	"Microsoft Emulated IDE Controller":   subIDE,
	"Microsoft Synthetic SCSI Controller": subSCSI,
}

// legacyCurrent is SettingType of a VM's present settings; those of snapshots are 5.
const legacyCurrent = "3"

// modern says what a part of 2008 R2 is in the words of later hosts.
func (r *resource) modern() {
	if sub := legacySubs[r.Sub]; sub != "" {
		r.Sub = sub
	}
	if len(r.Connection) > 0 {
		r.Host = r.Connection
	}
	if r.At == "" {
		r.At = r.Address // a drive's place on its controller
	}
}

// measureLegacy asks about a file with the method of 2008 R2. A disk has no id there, and is a VHD.
func (h *Host) measureLegacy(ctx context.Context, d *Disk) error {
	out, err := h.client.Run(ctx, h.images, "GetVirtualHardDiskInfo", []cim.Property{{Name: "Path", Value: d.Path}}, nil)
	if d.refused(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var got struct {
		Info *cim.Instance `cim:"Info"`
	}
	if err := out.Out.Decode(&got); err != nil {
		return fmt.Errorf("%s: %w", d.Path, err)
	}
	if got.Info == nil {
		d.Problem = "the host does not tell its size"
		return nil
	}
	var f struct {
		Size   uint64 `cim:"MaxInternalSize"`
		Parent string `cim:"ParentPath,optional"`
	}
	if err := got.Info.Decode(&f); err != nil {
		return fmt.Errorf("%s: %w", d.Path, err)
	}
	if f.Size > math.MaxInt64 {
		return fmt.Errorf("%s: %w: %d bytes", d.Path, cim.ErrMalformed, f.Size)
	}
	d.Size, d.ParentPath, d.SectorSize = int64(f.Size), f.Parent, 512
	return nil
}

// refused: that a file cannot be read is the disk's problem, and not that of the VM or of other disks.
func (d *Disk) refused(err error) bool {
	var job *cim.JobError
	var code *cim.ReturnError
	if errors.As(err, &job) || errors.As(err, &code) {
		d.Problem = "the host cannot read its file: " + err.Error()
		return true
	}
	return false
}

// findImages finds the service for disks' files, in the namespace where it is. Its being nowhere means that there is no Hyper-V, or that
// nothing of it is shown to this account.
func (h *Host) findImages(ctx context.Context, build int) (*cim.Instance, error) {
	const class = "Msvm_ImageManagementService"
	service, err := cim.One(h.client.Query(ctx, cim.Virtualization, "SELECT * FROM "+class, nil))
	if err == nil || build >= build2012 || !errors.Is(err, fs.ErrNotExist) {
		return service, err
	}
	h.legacy = true
	return cim.One(h.client.Query(ctx, Legacy, "SELECT * FROM "+class, nil))
}
