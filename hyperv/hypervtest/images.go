package hypervtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hikae/hikae/hyperv/vhdx"
)

var errNoFile = errors.New("the system cannot find the file specified")

// errTracking is ERROR_VHD_MISSING_CHANGE_TRACKING_INFORMATION.
var errTracking = &FaultError{Code: 0xC03A0030, Reason: "the change tracking information of the virtual disk is missing or does not match (0xC03A0030)"}

// imageInfo is what a file says, whoever has it open.
func (h *Host) imageInfo(name string) (vhdx.Info, int64, error) {
	if g := h.ownerOf(name); g != nil { // what it wrote goes to the file first
		g.mu.Lock()
		defer g.mu.Unlock()
		if d, _ := g.driveOf(name); d != nil && d.file != nil {
			if err := d.file.Flush(context.Background()); err != nil {
				return vhdx.Info{}, 0, err
			}
		}
	}
	path, err := h.volumePath(name)
	if err != nil {
		return vhdx.Info{}, 0, errNoFile
	}
	img, err := vhdx.Open(context.Background(), path, h.openOptions(path))
	if os.IsNotExist(err) || errors.Is(err, os.ErrNotExist) {
		return vhdx.Info{}, 0, errNoFile
	}
	if err != nil {
		return vhdx.Info{}, 0, err
	}
	defer img.Close()
	return img.Info(), img.Size(), nil
}

// diskID is a file's VirtualDiskId, in capital letters.
func (h *Host) diskID(name string) (string, error) {
	path, err := h.volumePath(name)
	if err != nil {
		return "", err
	}
	img, err := vhdx.Open(context.Background(), path, h.openOptions(path))
	if err != nil {
		return "", err
	}
	defer img.Close()
	return strings.ToUpper(strings.Trim(img.Info().DiskID.String(), "{}")), nil
}

// ownerOf is the VM of which a file is a part of a disk.
func (h *Host) ownerOf(name string) *Guest {
	for _, g := range h.guests {
		g.mu.Lock()
		d, _ := g.driveOf(name)
		g.mu.Unlock()
		if d != nil {
			return g
		}
	}
	return nil
}

// driveOf finds the disk and the file of it. It is called under g.mu.
func (g *Guest) driveOf(name string) (*drive, *node) {
	for _, d := range g.drives {
		for _, n := range d.nodes {
			if strings.EqualFold(n.name, name) {
				return d, n
			}
		}
	}
	return nil, nil
}

// diskSettings is GetVirtualHardDiskSettingData.
func diskSettings(c *Call) (uint32, []any) {
	h, name := c.Host, c.text("Path")
	info, size, err := h.imageInfo(name)
	if err != nil {
		return 4096, []any{"Job", h.StartJob("Reading the disk", h.opts.JobTime, func() error { return err })}
	}
	format, kind := uint16(3), uint16(3)
	if info.Format == "vhd" {
		format = 2
	}
	switch info.Type {
	case vhdx.Fixed:
		kind = 2
	case vhdx.Differencing:
		kind = 4
	}
	set := NewObject("Msvm_VirtualHardDiskSettingData", "Path", name, "Format", format, "Type", kind, "ParentPath", nil,
		"MaxInternalSize", uint64(size), "BlockSize", uint32(info.BlockSize), "LogicalSectorSize", uint32(info.SectorSize), "PhysicalSectorSize", uint32(info.PhysicalSector))
	if info.Type == vhdx.Differencing {
		set.Set("ParentPath", h.parentOf(name, info))
	}
	if h.gen.since("2016") && format == 3 {
		set.Set("VirtualDiskId", strings.ToUpper(strings.Trim(info.DiskID.String(), "{}")))
	}
	return 0, []any{"SettingData", Embedded{set}, "Job", nil}
}

// parentOf is where the host finds a file's parent.
func (h *Host) parentOf(name string, info vhdx.Info) any {
	if p := info.Locator["absolute_win32_path"]; p != "" {
		return p
	}
	if p := info.Locator["relative_path"]; p != "" {
		return folderOf(name) + `\` + strings.TrimPrefix(p, `.\`)
	}
	return nil
}

// diskState is GetVirtualHardDiskState.
func diskState(c *Call) (uint32, []any) {
	h, name := c.Host, c.text("Path")
	info, size, err := h.imageInfo(name)
	var stat os.FileInfo
	if err == nil {
		path, _ := h.volumePath(name)
		stat, err = os.Stat(path)
	}
	if err != nil {
		return 4096, []any{"Job", h.StartJob("Reading the disk", h.opts.JobTime, func() error { return err })}
	}
	set := NewObject("Msvm_VirtualHardDiskState", "FileSize", uint64(stat.Size()), "InUse", h.inUse(name), "MinInternalSize", uint64(size),
		"PhysicalSectorSize", uint32(info.PhysicalSector), "Alignment", uint32(0), "FragmentationPercentage", uint32(0), "Timestamp", stat.ModTime().UTC().Truncate(time.Microsecond))
	return 0, []any{"State", Embedded{set}, "Job", nil}
}

// inUse says that a VM has a file open now, or a merge goes into it.
func (h *Host) inUse(name string) bool {
	g := h.ownerOf(name)
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	d, n := g.driveOf(name)
	return d != nil && (n == d.tip && g.on || n.merging)
}

// createDisk is CreateVirtualHardDisk: empty ones, dynamic or fixed, or a child of another.
func createDisk(c *Call) (uint32, []any) {
	h := c.Host
	in, err := parseEmbedded(c.text("VirtualDiskSettingData"))
	if err != nil || !strings.EqualFold(in.Class, "Msvm_VirtualHardDiskSettingData") {
		return 32773, nil
	}
	number := func(name string) int64 {
		v, _ := in.text(name)
		n, _ := strconv.ParseInt(v, 10, 64)
		return n
	}
	path, _ := in.text("Path")
	d := Disk{Path: path, Size: number("MaxInternalSize"), BlockSize: number("BlockSize"), SectorSize: number("LogicalSectorSize"), Format: "vhdx", Fixed: number("Type") == 2}
	if number("Format") == 2 {
		d.Format = "vhd"
	}
	if path == "" || number("Type") != 2 && number("Type") != 3 || number("Format") != 2 && number("Format") != 3 || d.Size <= 0 {
		return 32773, nil
	}
	if id, ok := in.text("VirtualDiskId"); ok && h.gen.since("2016") {
		d.ID = id
	}
	return 4096, []any{"Job", h.startJob(c.Method, "", "Creating a virtual disk", h.opts.JobTime, func() error {
		if h.exists(path) {
			return fmt.Errorf("the file exists: %s (0x80070050)", path)
		}
		return h.newDisk(&d)
	}, nil)}
}

// diskChanges is GetVirtualDiskChanges. An answer has a number of ranges at most, and says how far it got.
func diskChanges(c *Call) (uint32, []any) {
	h, name := c.Host, c.text("Path")
	off, err1 := strconv.ParseInt(c.text("ByteOffset"), 10, 64)
	length, err2 := strconv.ParseInt(c.text("ByteLength"), 10, 64)
	id := c.text("LimitId")
	if name == "" || id == "" || err1 != nil || err2 != nil || off < 0 || length < 0 {
		return 32773, nil
	}
	fail := func(err error) (uint32, []any) {
		return 4096, []any{"Job", h.StartJob("Reading changes", h.opts.JobTime, func() error {
			return fmt.Errorf("the changes of '%s' cannot be read: %w", name, err)
		})}
	}
	g := h.ownerOf(name)
	if g == nil || !h.exists(name) {
		return fail(errNoFile)
	}
	if err := h.jobFault(g.id, c.Method).err(); err != nil {
		return fail(err)
	}
	if err := h.eventFault(g.id, "changes").err(); err != nil {
		return fail(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	d, n := g.driveOf(name)
	if d == nil || d.vhd {
		return fail(&FaultError{Code: 0xC03A001B, Reason: "the virtual disk is of a type that cannot do this (0xC03A001B)"})
	}
	if off+length > d.size || off+length < off {
		return 32773, nil
	}
	if n != d.tip && n.mark == "" {
		return fail(errTracking)
	}
	list, ok := d.track.since(id, n.mark, d.size)
	if !ok || !h.tracked(d) {
		return fail(errTracking)
	}
	offsets, lengths, done := cut(list, off, length, h.opts.Changes)
	return 0, []any{"ProcessedByteLength", uint64(done), "ChangedByteOffsets", offsets, "ChangedByteLengths", lengths, "Job", nil}
}

// cut takes the ranges within some bytes, as many as an answer may have, and says how many bytes it is about then.
func cut(list []span, off, length int64, most int) (offsets, lengths []uint64, done int64) {
	for _, s := range list {
		from, to := max(s.off, off), min(s.off+s.len, off+length)
		if from >= to {
			continue
		}
		if len(offsets) == most {
			return offsets, lengths, from - off
		}
		offsets, lengths = append(offsets, uint64(from)), append(lengths, uint64(to-from))
	}
	return offsets, lengths, length
}
