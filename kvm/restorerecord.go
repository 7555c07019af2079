package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
)

// record is what a point's configuration keeps beside QEMU's own words, so that the machine can be made again: which
// file was which disk, and the contents of small files that are part of the machine and are no disks.
type record struct {
	Folder   string           `json:"folder,omitempty"` // that QEMU was started in, which relative paths begin at
	Disks    []recordedDisk   `json:"disks"`
	Firmware []recordedMemory `json:"firmware,omitempty"`
}

// recordedDisk is one disk, also one that is not in the point.
type recordedDisk struct {
	DiskImage        // Format is QEMU's driver, whatever it is
	Size      int64  `json:"size"`
	Node      string `json:"node"`
	Device    string `json:"device"` // the path of the device in QEMU's object tree
	Skip      string `json:"skip,omitempty"`
}

// recordedMemory is a variable store of the machine's firmware: boot entries, keys of secure boot.
type recordedMemory struct {
	Path string `json:"path"`
	Blob string `json:"blob"` // of the configuration, with its content; empty: it could not be read
}

const (
	recordBlob = "machine.json"
	maxRecord  = 1 << 20
	// maxFirmware bounds one variable store. Those of PC firmware have half a MiB, of ARM firmware 64 MiB.
	maxFirmware = 64 << 20
)

// blockDevice is an entry of query-block.
type blockDevice struct {
	QDev     string `json:"qdev"`
	Inserted *struct {
		Node     string `json:"node-name"`
		ReadOnly bool   `json:"ro"`
		Driver   string `json:"drv"`
		File     string `json:"file"`
	} `json:"inserted"`
}

// recordMachine adds to the configuration what restoring it needs. What cannot be found out is left out, never an error of
// the backup: the disks are what matters.
func (s *snapshot) recordMachine(ctx context.Context, inv *inventory) error {
	var devices []blockDevice
	if err := s.mon.Execute(ctx, "query-block", nil, &devices); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	r, config := record{}, s.vm.Config
	if p, ok := base(s.mon).(interface{ PeerPID() (int, bool) }); ok {
		r.Folder = processFolder(p.PeerPID())
	}
	for _, d := range devices {
		if d.Inserted != nil {
			r.take(d, inv, config)
		}
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	config[recordBlob] = append(text, '\n')
	return s.compare(r)
}

// compare notes in which files bitmaps are going to be, looks whether a disk is half restored, and whether the images
// that are read while the machine is off are disks that it has.
func (s *snapshot) compare(r record) error {
	for _, was := range r.Disks {
		if i := slices.IndexFunc(s.Disks, func(d disk) bool { return d.Key == was.Key }); i >= 0 {
			if !filepath.IsAbs(was.Path) {
				continue // options of QEMU's, and no path
			}
			s.Disks[i].File, s.Disks[i].Format = was.Path, was.Format
			if err := unbroken(was.Path); err != nil {
				return fmt.Errorf("disk %s: %w", was.Key, err)
			}
		}
	}
	for _, image := range s.machine.Disks {
		if !slices.ContainsFunc(r.Disks, func(d recordedDisk) bool { return d.Key == image.Key }) {
			s.warn("disk %s is named for when the VM is off, but while it runs it has none of that key", image.Key)
		}
	}
	return nil
}

// take records one device.
func (r *record) take(d blockDevice, inv *inventory, config map[string][]byte) {
	file := r.absolute(d.Inserted.File)
	if isFlash(d.QDev) {
		if !d.Inserted.ReadOnly {
			r.takeFirmware(file, config)
		}
		return
	}
	i := slices.IndexFunc(inv.disks, func(k disk) bool { return d.QDev != "" && k.QDev == fullPath(d.QDev) })
	if i < 0 {
		return
	}
	k := inv.disks[i]
	r.Disks = append(r.Disks, recordedDisk{DiskImage: DiskImage{Key: k.Key, Path: file, Format: d.Inserted.Driver},
		Size: k.Size, Node: k.Node, Device: k.QDev, Skip: k.skip})
}

func isFlash(qdev string) bool {
	ok, _ := path.Match("/machine/system.flash*", qdev)
	return ok
}

// absolute is a path as another process would have to name it. What is no path (nbd:, json:) stays.
func (r *record) absolute(file string) string {
	if filepath.IsAbs(file) || r.Folder == "" || file == "" || hasScheme(file) {
		return file
	}
	return filepath.Join(r.Folder, file)
}

// hasScheme reports whether QEMU takes a file's name for something else than a path.
func hasScheme(file string) bool {
	for i, c := range file {
		switch {
		case c == ':':
			return i > 0
		case c == '/':
			return false
		}
	}
	return false
}

func (r *record) takeFirmware(file string, config map[string][]byte) {
	content, err := readStill(file)
	if err != nil {
		r.Firmware = append(r.Firmware, recordedMemory{Path: file}) // that it was there must be known
		return
	}
	blob := fmt.Sprintf("firmware/%d-%s", len(r.Firmware), filepath.Base(file))
	if !plainBlob(blob) {
		blob = fmt.Sprintf("firmware/%d", len(r.Firmware))
	}
	config[blob] = content
	r.Firmware = append(r.Firmware, recordedMemory{Path: file, Blob: blob})
}

func plainBlob(name string) bool {
	return len(name) < 200 && plainKey.MatchString(path.Base(name)) && path.Dir(name) == "firmware"
}

// readStill reads a small file that somebody may be writing to: until it reads the same twice.
func readStill(file string) ([]byte, error) {
	last, err := readSmall(file, maxFirmware)
	for range 3 {
		if err != nil {
			return nil, err
		}
		var again []byte
		if again, err = readSmall(file, maxFirmware); err == nil && string(again) == string(last) {
			return again, nil
		}
		last = again
	}
	return nil, errors.New("it changes all the time")
}

// readSmall reads a regular file of at most max bytes.
func readSmall(file string, max int64) ([]byte, error) {
	if fi, err := os.Stat(file); err != nil || !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", file, fs.ErrInvalid)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(content)) > max {
		err = fmt.Errorf("%s: %w: more than %d bytes", file, fs.ErrInvalid, max)
	}
	return content, err
}

// readRecord finds the record in a point's configuration; ok is false where the point was made without one.
func readRecord(config map[string][]byte) (r record, ok bool, err error) {
	text, ok := config[recordBlob]
	if !ok {
		return r, false, nil
	}
	if len(text) > maxRecord {
		return r, false, fmt.Errorf("%s: %w: %d bytes", recordBlob, fs.ErrInvalid, len(text))
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, false, fmt.Errorf("%s: %w", recordBlob, err)
	}
	if len(r.Disks) > maxDisks {
		return r, false, fmt.Errorf("%s: %w: %d disks", recordBlob, fs.ErrInvalid, len(r.Disks))
	}
	return r, true, nil
}

// RecordedDisks are the images that a machine's disks were in when a point was made, by the point's configuration. With
// them a machine that is off can be backed up and restored in place. It is empty where the point does not tell, or a
// disk was in no file that can be read without a running QEMU.
func RecordedDisks(config map[string][]byte) ([]DiskImage, error) {
	r, ok, err := readRecord(config)
	if err != nil || !ok {
		return nil, err
	}
	var images []DiskImage
	for _, d := range r.Disks {
		if d.Skip != "" {
			continue
		}
		if d.Format != formatRaw && d.Format != formatQcow2 || !filepath.IsAbs(d.Path) {
			return nil, nil
		}
		images = append(images, d.DiskImage)
	}
	return images, checkImages(images)
}
