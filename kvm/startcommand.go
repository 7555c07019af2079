package kvm

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// Slots in a command that starts a VM.
const (
	diskSlot    = "{disk:" // and a key, and a brace: the path of that disk's file
	disksSlot   = "{disks}"
	monitorSlot = "{monitor}"
)

// StartedDisk is a disk of a VM that is started from a restore point.
type StartedDisk struct {
	Key  string `json:"key"`
	Size int64  `json:"size"`
	Path string `json:"path"` // of the qcow2 file
}

// maxNode is the longest name of a block node.
const maxNode = 31

// maxSerial is the longest serial number of a virtio disk.
const maxSerial = 20

// Options are options for QEMU that attach the disk as a virtio disk, so that a backup knows it again by its key.
func (d StartedDisk) Options() []string {
	node := "disk-" + unplain.ReplaceAllString(d.Key, "-")
	if len(node) > maxNode || node != "disk-"+d.Key { // what is lost of a key may be what tells it from another
		node = fmt.Sprintf("%.22s-%08x", node, crc32.ChecksumIEEE([]byte(d.Key)))
	}
	device := "virtio-blk-pci,drive=" + node
	switch {
	case len(d.Key) <= maxSerial && plainKey.MatchString(d.Key):
		device += ",serial=" + d.Key
	case plainID.MatchString(d.Key):
		device += ",id=" + d.Key
	}
	return []string{
		"-blockdev", "driver=qcow2,node-name=" + node + ",discard=unmap,file.driver=file,file.discard=unmap,file.filename=" + d.Path,
		"-device", device,
	}
}

var (
	unplain = regexp.MustCompile(`[^A-Za-z0-9.-]`)
	plainID = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]{0,63}$`)
)

// monitorOptions make QEMU listen at a monitor's socket.
func monitorOptions(path string) []string {
	return []string{"-qmp", "unix:" + path + ",server=on,wait=off"}
}

// fillCommand puts paths into their slots. A disk that no slot names would not be in the VM, and
// never be copied, so that is an error. Where the command does not say where its monitor is, and nobody else did, QEMU is
// told.
func fillCommand(command []string, disks []StartedDisk, monitor string, tellMonitor bool) ([]string, error) {
	named := map[string]bool{}
	var out []string
	for _, arg := range command {
		if arg == disksSlot {
			for _, d := range disks {
				named[d.Key] = true
				out = append(out, d.Options()...)
			}
			continue
		}
		if strings.Contains(arg, monitorSlot) {
			arg, tellMonitor = strings.ReplaceAll(arg, monitorSlot, monitor), false
		}
		for _, d := range disks {
			if place := diskSlot + d.Key + "}"; strings.Contains(arg, place) {
				arg, named[d.Key] = strings.ReplaceAll(arg, place, d.Path), true
			}
		}
		if at := strings.Index(arg, diskSlot); at >= 0 {
			return nil, fmt.Errorf("%s names no disk of the point: %w", arg[at:], fs.ErrInvalid)
		}
		out = append(out, arg)
	}
	i := slices.IndexFunc(disks, func(d StartedDisk) bool { return !named[d.Key] })
	if i >= 0 {
		return nil, fmt.Errorf("the command attaches no disk %s: write {disk:%s} where QEMU wants its file, or %s for all disks: %w",
			disks[i].Key, disks[i].Key, disksSlot, fs.ErrInvalid)
	}
	if tellMonitor {
		out = append(out, monitorOptions(monitor)...)
	}
	return out, nil
}

// launched is the program that was started. It outlives us: the VM is not ours.
type launched struct {
	ended chan struct{}
	err   error // how it ended, once it has
	log   string
}

// launch starts a command out of reach of what is sent to our terminal. What it prints goes to a file, not to us: the VM
// must not wait for a reader that has been killed.
func launch(command []string, log string) (*launched, error) {
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	detach(cmd)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	l := &launched{ended: make(chan struct{}), log: log}
	go func() {
		l.err = cmd.Wait()
		close(l.ended)
	}()
	return l, nil
}

// endOf is the last of a file, empty where it cannot be read.
func endOf(path string, n int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	text, err := io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-n), n))
	if err != nil {
		return ""
	}
	return string(text)
}

// over reports that the program has ended, and why in its own words.
func (l *launched) over() (bool, error) {
	if l == nil {
		return false, nil
	}
	select {
	case <-l.ended:
	default:
		return false, nil
	}
	said := strings.TrimSpace(endOf(l.log, 1000))
	if said == "" {
		return true, l.err
	}
	return true, errors.Join(l.err, errors.New(said))
}
