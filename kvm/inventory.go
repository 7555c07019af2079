package kvm

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/qmp"
)

// inventory is a machine as its QEMU describes it.
type inventory struct {
	version qmp.Version
	name    string
	uuid    string
	status  string // running, paused, prelaunch, shutdown …
	disks   []disk
	nodes   map[string]node
	exports []export
	left    []string // removable media and firmware, which are no disks
}

// disk is one device that the guest sees.
type disk struct {
	Key  string `json:"key"`
	Node string `json:"node"` // of the block graph, just below the device
	QDev string `json:"qdev"` // path of the device
	Size int64  `json:"size"`
	Base string `json:"base,omitempty"` // bitmap that the base point names; empty: none that is usable
	Next string `json:"next,omitempty"` // bitmap that begins with the session
	// Old are bitmaps that other points name on which nothing is built after a commit.
	Old []string `json:"old,omitempty"`

	File   string `json:"file,omitempty"` // its image, if it is a file
	Format string `json:"format,omitempty"`

	skip  string
	image string // as QEMU names it
	limit int64  // bytes of its fleecing image
}

// node is one node of the block graph.
type node struct {
	Name    string   `json:"node-name"`
	Driver  string   `json:"drv"`
	Bitmaps []bitmap `json:"dirty-bitmaps"`
}

// bitmap records which parts of a node were written to.
type bitmap struct {
	Name         string `json:"name"`
	Granularity  int64  `json:"granularity"`
	Recording    bool   `json:"recording"`
	Busy         bool   `json:"busy"`
	Persistent   bool   `json:"persistent"`
	Inconsistent bool   `json:"inconsistent"`
}

func (n node) bitmap(name string) (bitmap, bool) {
	i := slices.IndexFunc(n.Bitmaps, func(b bitmap) bool { return b.Name == name })
	if i < 0 || name == "" {
		return bitmap{}, false
	}
	return n.Bitmaps[i], true
}

type export struct {
	ID   string `json:"id"`
	Type string `json:"type"`
	Node string `json:"node-name"`
}

// device is an entry of query-block.
type device struct {
	Device    string `json:"device"`
	QDev      string `json:"qdev"`
	Removable bool   `json:"removable"`
	Inserted  *struct {
		Node     string `json:"node-name"`
		ReadOnly bool   `json:"ro"`
		File     string `json:"file"`
		Image    struct {
			Size int64 `json:"virtual-size"`
		} `json:"image"`
	} `json:"inserted"`
}

func takeInventory(ctx context.Context, mon monitor) (*inventory, error) {
	inv := &inventory{version: mon.Version()}
	var name struct {
		Name string `json:"name"`
	}
	var uuid struct {
		UUID string `json:"UUID"`
	}
	var status struct {
		Status string `json:"status"`
	}
	var devices []device
	for _, q := range []struct {
		command   string
		args, out any
	}{
		{"query-name", nil, &name}, {"query-uuid", nil, &uuid}, {"query-status", nil, &status},
		{"query-block", nil, &devices},
	} {
		if err := mon.Execute(ctx, q.command, q.args, q.out); err != nil {
			return nil, err
		}
	}
	inv.name, inv.uuid, inv.status = name.Name, uuid.UUID, status.Status
	var err error
	if inv.nodes, err = takeNodes(ctx, mon); err != nil {
		return nil, err
	}
	if speaks(mon).exports {
		if err := mon.Execute(ctx, "query-block-exports", nil, &inv.exports); err != nil {
			return nil, err
		}
	}
	return inv, inv.takeDisks(ctx, mon, devices)
}

// takeDisks sorts disks from media and firmware, and gives them their keys.
func (inv *inventory) takeDisks(ctx context.Context, mon monitor, devices []device) error {
	var names [][]string // of each disk, the best first
	for _, d := range devices {
		switch {
		case d.Inserted == nil:
			continue // an empty drive
		case d.Removable || d.QDev == "" || strings.HasPrefix(d.QDev, "/machine/system.flash"):
			inv.left = append(inv.left, cmpOr(d.QDev, d.Device, d.Inserted.Node))
			continue
		}
		d.QDev = fullPath(d.QDev)
		serial, err := serialOf(ctx, mon, d.QDev)
		if err != nil {
			return err
		}
		found := disk{Node: d.Inserted.Node, QDev: d.QDev, Size: d.Inserted.Image.Size, image: d.Inserted.File}
		threaded, err := inThread(ctx, mon, d.QDev)
		if err != nil {
			return err
		}
		switch {
		case threaded && !inv.version.AtLeast(9, 0):
			found.skip = "it has an iothread, and QEMU before 9.0 aborts when the reader of such a disk leaves"
		case d.Inserted.ReadOnly:
			found.skip = skipReadOnly
		case found.Size <= 0:
			found.skip = "it has no size"
		}
		inv.disks = append(inv.disks, found)
		names = append(names, []string{serial, deviceID(d.QDev), d.Inserted.Node})
	}
	return inv.giveKeys(names)
}

// skipReadOnly says why a disk that the guest only reads is not backed up.
const skipReadOnly = "the guest cannot write to it"

// inThread reports whether a device does its work in a thread of its own, or of its controller, or may do so. Seen with
// QEMU 7.2.22: an NBD client that disconnects from an export of such a disk is dropped in that thread, where an assertion
// (nbd_blockdev_client_closed: qemu_in_main_thread) ends QEMU and the guest with it. Since 9.0 clients have a lock.
func inThread(ctx context.Context, mon monitor, qdev string) (bool, error) {
	var threads []struct {
		ID string `json:"id"`
	}
	if err := mon.Execute(ctx, "query-iothreads", nil, &threads); err != nil || len(threads) == 0 {
		return false, err
	}
	own, err := property(ctx, mon, qdev, "iothread")
	if err == nil || !qmp.Refused(err) {
		return own != "", err
	}
	bus, err := property(ctx, mon, qdev, "parent_bus")
	if err != nil {
		return qmp.Refused(err), refusedIsNil(err)
	}
	controllers, err := property(ctx, mon, path.Dir(bus), "iothread")
	return controllers != "", refusedIsNil(err) // IDE, AHCI, USB … have none
}

// property is a link or text of an object.
func property(ctx context.Context, mon monitor, object, name string) (value string, err error) {
	err = mon.Execute(ctx, "qom-get", map[string]any{"path": object, "property": name}, &value)
	return value, err
}

func refusedIsNil(err error) error {
	if qmp.Refused(err) {
		return nil
	}
	return err
}

func cmpOr(words ...string) string {
	for _, w := range words {
		if w != "" {
			return w
		}
	}
	return "?"
}

// serialOf is what the guest sees as the disk's serial number. Not every device has one.
func serialOf(ctx context.Context, mon monitor, qdev string) (string, error) {
	var serial json.RawMessage
	err := mon.Execute(ctx, "qom-get", map[string]any{"path": qdev, "property": "serial"}, &serial)
	if err != nil && !qmp.Refused(err) {
		return "", err
	}
	var text string
	if json.Unmarshal(serial, &text) != nil || madeUp.MatchString(text) {
		return "", nil
	}
	return text, nil
}

// fullPath is a device's path: where a device has an id, some kinds are named by that alone.
func fullPath(qdev string) string {
	if strings.HasPrefix(qdev, "/") {
		return qdev
	}
	return "/machine/peripheral/" + qdev
}

// madeUp are serial numbers that QEMU gives to IDE disks by their place.
var madeUp = regexp.MustCompile(`^QM[0-9]{5}$`)

var peripheral = regexp.MustCompile(`^/machine/peripheral/([^/]+)(?:/virtio-backend)?$`)

// deviceID is the id that a device was given by people or management, empty where it has none.
func deviceID(qdev string) string {
	if m := peripheral.FindStringSubmatch(qdev); m != nil {
		return m[1]
	}
	return ""
}

// plainKey: keys become names of files and exports.
var plainKey = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// giveKeys takes for each disk the best name that is set, plain and no other disk's at that place.
func (inv *inventory) giveKeys(names [][]string) error {
	taken := map[string]bool{}
	for i := range inv.disks {
		for kind, name := range names[i] {
			twin := slices.ContainsFunc(slices.Delete(slices.Clone(names), i, i+1), func(other []string) bool { return other[kind] == name })
			if plainKey.MatchString(name) && !twin && !taken[name] {
				inv.disks[i].Key = name
				taken[name] = true
				break
			}
		}
		if inv.disks[i].Key == "" {
			return fmt.Errorf("disk at %s: neither serial, device id nor node name identify it: start QEMU with one of them", inv.disks[i].QDev)
		}
	}
	return nil
}

func (inv *inventory) vm(m Machine) hikae.VM {
	vm := hikae.VM{ID: m.ID(), Name: m.Name, Facts: map[string]string{
		"hypervisor": "QEMU " + inv.version.String(), "status": inv.status,
	}}
	if vm.Name == "" {
		vm.Name = inv.name
	}
	if inv.uuid != "" && strings.Trim(inv.uuid, "0-") != "" {
		vm.Facts["uuid"] = inv.uuid
	}
	if m.Domain != nil {
		vm.Facts["libvirt"] = m.Domain.URI
	}
	for _, d := range inv.disks {
		vm.Disks = append(vm.Disks, hikae.Disk{Key: d.Key, Size: d.Size, Skip: d.skip})
	}
	return vm
}

// images are the files and devices of the disks, by their keys. QEMU may name one by where it was started.
func (inv *inventory) images(mon monitor) map[string]string {
	r, out := record{}, map[string]string{}
	if p, ok := base(mon).(interface{ PeerPID() (int, bool) }); ok {
		r.Folder = processFolder(p.PeerPID())
	}
	for _, d := range inv.disks {
		out[d.Key] = r.absolute(d.image)
	}
	return out
}

// running reports whether the guest's processors run, now or as soon as QEMU lets them.
func (inv *inventory) running() bool { return inv.status == "running" }
