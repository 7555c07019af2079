package vmware

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// hotGuest is what the Linux of this machine shows of its disks.
//
//	sys/class/scsi_disk/3:0:3:0/device/wwid            naa.6000c29…: the disk's UUID
//	                           /device/block/sdc
//	sys/class/scsi_host/host3/proc_name                vmw_pvscsi
//	sys/block/sdc/size                                 in 512 bytes
type hotGuest struct{ root string }

const (
	maxSysText = 4096
	maxSysList = 4096 // disks of one machine
)

func (g hotGuest) path(name ...string) string {
	return filepath.Join(append([]string{g.root}, name...)...)
}

// text reads a small file.
func (g hotGuest) text(name ...string) (string, error) {
	f, err := os.Open(g.path(name...))
	if err != nil {
		return "", err
	}
	defer f.Close()
	p, err := io.ReadAll(io.LimitReader(f, maxSysText))
	return strings.TrimSpace(string(p)), err
}

// uuids are the UUID of this machine as its firmware tells it, and as it is with its first three fields the other way round:
// versions of SMBIOS differ in that, and hosts in which of them they show.
func (g hotGuest) uuids() ([]string, error) {
	text, err := g.text("sys/class/dmi/id/product_uuid")
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, hotUnfit("run it as root, or name the VM (proxy=)", "root alone may read the UUID of this machine")
	case err != nil:
		return nil, hotUnfit("name the VM (proxy=)", "the UUID of this machine cannot be read: %v", err)
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(raw) != 16 {
		return nil, hotUnfit("name the VM (proxy=)", "the firmware of this machine tells %.40q, which is no UUID", text)
	}
	out := []string{uuidText(raw)}
	slices.Reverse(raw[0:4])
	slices.Reverse(raw[4:6])
	slices.Reverse(raw[6:8])
	return append(out, uuidText(raw)), nil
}

func uuidText(raw []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", raw[:4], raw[4:6], raw[6:8], raw[8:10], raw[10:])
}

// isVMware reports whether this machine is a VM of VMware, which everyone may read.
func (g hotGuest) isVMware() bool {
	vendor, err := g.text("sys/class/dmi/id/sys_vendor")
	return err == nil && strings.HasPrefix(vendor, "VMware")
}

// seenDisk is a SCSI disk of this machine.
type seenDisk struct {
	host, channel, target, lun int
	name                       string // sdc
	uuid                       string // 32 hexadecimal digits; empty: it does not tell
	driver                     string
}

func (d seenDisk) String() string {
	return fmt.Sprintf("%s (%d:%d:%d:%d)", d.name, d.host, d.channel, d.target, d.lun)
}

var (
	goodAddress = regexp.MustCompile(`^(\d{1,5}):(\d{1,5}):(\d{1,5}):(\d{1,5})$`)
	goodDevice  = regexp.MustCompile(`^sd[a-z]{1,7}$`)
)

// disks are the SCSI disks that are there now. One that goes while it is looked at is left out.
func (g hotGuest) disks() ([]seenDisk, error) {
	all, err := os.ReadDir(g.path("sys/class/scsi_disk"))
	if err != nil {
		return nil, err
	}
	if len(all) > maxSysList {
		return nil, fmt.Errorf("%d SCSI disks", len(all))
	}
	var out []seenDisk
	for _, e := range all {
		m := goodAddress.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		var n [4]int
		for i := range n {
			n[i], _ = strconv.Atoi(m[i+1]) // five digits
		}
		d := seenDisk{host: n[0], channel: n[1], target: n[2], lun: n[3]}
		at := filepath.Join("sys/class/scsi_disk", e.Name(), "device")
		names, err := os.ReadDir(g.path(at, "block"))
		if err != nil || len(names) != 1 || !goodDevice.MatchString(names[0].Name()) {
			continue
		}
		d.name, d.uuid = names[0].Name(), g.identity(at)
		d.driver, _ = g.text("sys/class/scsi_host", "host"+strconv.Itoa(d.host), "proc_name")
		out = append(out, d)
	}
	return out, nil
}

// identity is the UUID that a disk tells, by the name that the kernel made of it or by the page that the kernel keeps of its
// answer.
func (g hotGuest) identity(device string) string {
	if text, err := g.text(device, "wwid"); err == nil {
		if id, ok := strings.CutPrefix(text, "naa."); ok {
			return strings.ToLower(id)
		}
		return ""
	}
	f, err := os.Open(g.path(device, "vpd_pg83"))
	if err != nil {
		return ""
	}
	defer f.Close()
	page, err := io.ReadAll(io.LimitReader(f, maxSysText))
	if err != nil {
		return ""
	}
	return naaOf(page)
}

// naaOf finds the extended NAA name of a disk in its vital product data page 83h (SCSI Primary Commands, device identification):
//
//	0  type   1  83h   2  length, two bytes, big-endian   4  designators:
//	0  code set in the low half, 1 is binary   1  type in the low half, 3 is NAA, and what it names above: 0 is the disk
//	3  length   4  the name: 16 bytes for VMware's disks
func naaOf(page []byte) string {
	if len(page) < 4 || page[1] != 0x83 {
		return ""
	}
	rest := page[4:]
	rest = rest[:min(len(rest), int(page[2])<<8|int(page[3]))]
	for len(rest) >= 4 && len(rest) >= 4+int(rest[3]) {
		name := rest[4 : 4+int(rest[3])]
		if rest[0]&0xf == 1 && rest[1]&0x3f == 3 && len(name) == 16 {
			return hex.EncodeToString(name)
		}
		rest = rest[4+len(name):]
	}
	return ""
}

// wantedDisk is how this machine must show a disk.
type wantedDisk struct {
	slot    hotSlot
	uuid    string // 32 hexadecimal digits
	size    int64
	anchors []hotAnchor
}

// hotAnchor is a disk of the proxy VM that was there before: it shows which of the controllers the system calls by which number.
type hotAnchor struct {
	uuid string
	bus  int32
	unit int32
}

// find waits until the disk is there, by its address and its UUID both, and with its size.
func (g hotGuest) find(ctx context.Context, want wantedDisk) (name string, err error) {
	asked := time.Now().Add(scanAfter)
	for {
		name, why, err := g.seek(want)
		if err != nil {
			return "", err
		}
		if name != "" {
			return name, nil
		}
		if time.Now().After(asked) {
			if err := g.scan(want); err != nil {
				why += "; it cannot be asked to look: " + err.Error()
			}
			asked = time.Now().Add(scanEvery)
		}
		if err := sleep(ctx, lookEvery); err != nil {
			return "", hotUnfit("", "the disk was attached at %s, and this machine does not show it: %s", want.slot, why)
		}
	}
}

const (
	lookEvery = 50 * time.Millisecond
	scanAfter = 300 * time.Millisecond
	scanEvery = 2 * time.Second
)

// seek looks once. Without a name it says what there is instead; an error ends the search.
func (g hotGuest) seek(want wantedDisk) (name, why string, err error) {
	all, err := g.disks()
	if err != nil {
		return "", "", hotUnfit("", "the disks of this machine cannot be listed: %v", err)
	}
	var found []seenDisk
	why = "nothing is there"
	for _, d := range all {
		here := want.isAt(d, all)
		switch {
		case here && d.uuid == want.uuid:
			found = append(found, d)
		case here:
			why = fmt.Sprintf("%s is there, which is disk %q", d, d.uuid)
		case d.uuid == want.uuid:
			why = fmt.Sprintf("a disk of the same UUID is %s, which is another place", d)
		}
	}
	switch {
	case len(found) == 0:
		return "", why, nil
	case len(found) > 1:
		return "", "", hotUnfit("", "%d disks of this machine have the address and the UUID of the attached one: %v", len(found), found)
	}
	return g.measured(found[0], want)
}

func (g hotGuest) measured(d seenDisk, want wantedDisk) (name, why string, err error) {
	text, err := g.text("sys/block", d.name, "size")
	if err != nil {
		return "", fmt.Sprintf("%s is there and has no size", d), nil
	}
	sectors, err := strconv.ParseInt(text, 10, 54)
	if err != nil || sectors*512 != want.size {
		return "", "", hotUnfit("", "%s has %.20s sectors of 512 bytes, the configuration says %d bytes", d, text, want.size)
	}
	return d.name, "", nil
}

// isAt reports whether a disk hangs where the wanted one does: the unit is the target, the controller is of the right kind, and
// is no other one of the proxy VM's as far as its disks show.
func (w wantedDisk) isAt(d seenDisk, all []seenDisk) bool {
	if d.channel != 0 || d.lun != 0 || d.target != int(w.slot.unit) || d.driver != w.slot.driver {
		return false
	}
	for _, a := range w.anchors {
		for _, o := range all {
			if o.uuid != a.uuid || o.target != int(a.unit) || o.lun != 0 {
				continue
			}
			if (o.host == d.host) != (a.bus == w.slot.bus) {
				return false
			}
		}
	}
	return true
}

// scan asks the controllers of the right kind to look at the place. Some tell by themselves that a disk came.
func (g hotGuest) scan(want wantedDisk) error {
	hosts, err := os.ReadDir(g.path("sys/class/scsi_host"))
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range hosts[:min(len(hosts), maxSysList)] {
		if driver, err := g.text("sys/class/scsi_host", h.Name(), "proc_name"); err == nil && driver == want.slot.driver {
			errs = append(errs, g.tell(fmt.Sprintf("0 %d 0\n", want.slot.unit), "sys/class/scsi_host", h.Name(), "scan"))
		}
	}
	return errors.Join(errs...)
}

// tell writes into a file of sysfs.
func (g hotGuest) tell(text string, name ...string) error {
	f, err := os.OpenFile(g.path(name...), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// forget has the system let go of a disk before it is taken away. Controllers that do not tell by themselves that a disk went
// would show it on, with its old content, to whoever comes to that place next. It is a help, and no more: what is found there is
// compared each time.
func (g hotGuest) forget(name string, want wantedDisk) {
	if now, _, err := g.seek(want); err == nil && now == name {
		_ = g.tell("1\n", "sys/block", name, "device", "delete")
	}
}
