package kvm

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/libvirt"
	"github.com/hikae/hikae/kvm/qmp"
)

// footprint is what one session leaves on a host, by name. Everything that it makes is named after its mark, which is
// random; so nothing of anybody else's is ever mistaken for it, and what was made can be undone from this alone.
type footprint struct {
	Mark   string
	QMP    string  // the machine's monitor
	Domain *Domain // or by way of libvirt
	Dir    string  // of fleecing images and the NBD server's socket: the session's own, or shared with others
	Disks  []disk
}

const prefix = "hikae-"

var validMark = regexp.MustCompile(`^hikae-[a-z2-7]{16}$`)

// validID are the change ids that this package hands out. A point may name others: those of another hypervisor, or what
// somebody put there. They are names of bitmaps that are not ours.
var validID = regexp.MustCompile(`^hikae-[a-z2-7]{16}(?:-b[0-9]{1,3})?$`)

// ourID is a change id, or empty where it is none of ours.
func ourID(id hikae.ChangeID) string {
	if !validID.MatchString(string(id)) {
		return ""
	}
	return string(id)
}

func newFootprint(qmp string) footprint {
	return footprint{Mark: prefix + strings.ToLower(rand.Text()[:16]), QMP: qmp}
}

func (f *footprint) machine() Machine { return Machine{QMP: f.QMP, Domain: f.Domain} }

// Names of what belongs to disk i. Node names have at most 31 bytes.
func (f *footprint) fleece(i int) string   { return fmt.Sprintf("%s-f%d", f.Mark, i) }
func (f *footprint) filter(i int) string   { return fmt.Sprintf("%s-c%d", f.Mark, i) }
func (f *footprint) gate(i int) string     { return fmt.Sprintf("%s-g%d", f.Mark, i) }
func (f *footprint) access(i int) string   { return fmt.Sprintf("%s-s%d", f.Mark, i) }
func (f *footprint) exportID(i int) string { return fmt.Sprintf("%s-e%d", f.Mark, i) }
func (f *footprint) job(i int) string      { return fmt.Sprintf("%s-j%d", f.Mark, i) }

// shared reports whether the folder is not the session's own.
func (f *footprint) shared() bool { return filepath.Base(f.Dir) != f.Mark }

func (f *footprint) file(i int) string { return f.inDir(fmt.Sprintf("fleece%d.qcow2", i)) }
func (f *footprint) socket() string    { return f.inDir("nbd.sock") }

func (f *footprint) inDir(name string) string {
	if f.shared() {
		name = f.Mark + "-" + name
	}
	return filepath.Join(f.Dir, name)
}

// bitmapOf names the bitmap that begins with a session on its disk i. Each disk's has a name of its own: disks that
// change places, or swap what their keys are made of, would else be taken for each other, and one's changes be laid over
// the other's base.
func bitmapOf(mark string, i int) string { return fmt.Sprintf("%s-b%d", mark, i) }

// copyName is the copy of the base's bitmap, for the reader.
func (f *footprint) copyName() string { return f.Mark + "-read" }

func (f *footprint) mine(name string) bool {
	return name == f.Mark || strings.HasPrefix(name, f.Mark+"-")
}

// effect is the note from which the footprint can be found again.
func (f *footprint) effect(kind string, more map[string]string) (hikae.Effect, error) {
	disks, err := json.Marshal(f.Disks)
	if err != nil {
		return hikae.Effect{}, err
	}
	facts := map[string]string{"mark": f.Mark, "qmp": f.QMP, "dir": f.Dir, "disks": string(disks)}
	if f.Domain != nil {
		facts["libvirt"], facts["uri"], facts["domain"] = f.Domain.Socket, f.Domain.URI, f.Domain.UUID
	}
	for k, v := range more {
		facts[k] = v
	}
	return hikae.Effect{Kind: kind, VM: f.machine().ID(), Facts: facts}, nil
}

func footprintOf(e hikae.Effect) (f footprint, err error) {
	f = footprint{Mark: e.Facts["mark"], QMP: e.Facts["qmp"], Dir: e.Facts["dir"]}
	known := filepath.IsAbs(f.QMP) && !f.shared()
	if id := e.Facts["domain"]; id != "" {
		f.Domain = &Domain{Socket: e.Facts["libvirt"], URI: e.Facts["uri"], UUID: id}
		_, err := libvirt.ParseUUID(id)
		known = err == nil && f.QMP == ""
	}
	if !known || !validMark.MatchString(f.Mark) || !filepath.IsAbs(f.Dir) {
		return f, fmt.Errorf("effect %s of %s: %w: mark %q, monitor %q, domain %q, folder %q", e.ID, e.Kind, fs.ErrInvalid, f.Mark, f.QMP, e.Facts["domain"], f.Dir)
	}
	if err := json.Unmarshal([]byte(e.Facts["disks"]), &f.Disks); err != nil {
		return f, fmt.Errorf("effect %s of %s: disks: %w", e.ID, e.Kind, err)
	}
	return f, nil
}

// lives reports whether this QEMU is the process in which the session worked: nodes end with it.
func (f *footprint) lives(nodes map[string]node) bool {
	for name := range nodes {
		if f.mine(name) {
			return true
		}
	}
	return false
}

// serves asks the socket itself whether somebody listens there: QEMU does not tell where its NBD server is.
// That it cannot be known is an error: who stops no server leaves one that nobody can tell from a stranger's later.
func (f *footprint) serves(ctx context.Context) (bool, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", f.socket())
	switch {
	case err == nil:
		c.Close()
		return true, nil
	case gone(err):
		return false, nil
	}
	return false, err
}

// removeNodes ends what keeps old data, and takes all nodes away.
func (f *footprint) removeNodes(ctx context.Context, mon monitor) error {
	if err := f.cancelJobs(ctx, mon); err != nil {
		return err
	}
	nodes, err := takeNodes(ctx, mon)
	if err != nil {
		return err
	}
	var errs []error
	for i := range f.Disks {
		errs = append(errs, f.removeDisk(ctx, mon, nodes, i))
	}
	return errors.Join(errs...)
}

// cancelJobs ends backup jobs. A guest that stopped because there was no room for what they keep can go on then.
func (f *footprint) cancelJobs(ctx context.Context, mon monitor) error {
	ids, err := listed(ctx, mon, "query-jobs", f.mine)
	if err != nil || len(ids) == 0 {
		return err
	}
	var errs []error
	for _, id := range ids {
		err := mon.Execute(ctx, "block-job-cancel", map[string]any{"device": id, "force": true}, nil)
		errs = append(errs, refusedIsNil(err)) // it may have ended just now
	}
	errs = append(errs, waitGone(ctx, mon, "query-jobs", f.mine, "JOB_STATUS_CHANGE", "BLOCK_JOB_CANCELLED", "BLOCK_JOB_COMPLETED"))
	status, err := runState(ctx, mon)
	if err == nil && status == "io-error" {
		err = mon.Execute(ctx, "cont", nil, nil)
	}
	return errors.Join(append(errs, err)...)
}

// removeFleece takes away all that is between a device and its disk, and the copies of bitmaps that were for the reader.
func (f *footprint) removeFleece(ctx context.Context, mon monitor) error {
	return errors.Join(f.removeNodes(ctx, mon), f.removeFiles(),
		f.removeBitmaps(ctx, mon, func(disk) []string { return []string{f.copyName()} }))
}

// takeNodes asks for the nodes alone: what must be undone may be the reason why a whole inventory fails.
func takeNodes(ctx context.Context, mon monitor) (map[string]node, error) {
	var args any
	if speaks(mon).flat {
		args = map[string]any{"flat": true}
	}
	var list []node
	if err := mon.Execute(ctx, "query-named-block-nodes", args, &list); err != nil {
		return nil, err
	}
	nodes := map[string]node{}
	for _, n := range list {
		nodes[n.Name] = n
	}
	return nodes, nil
}

func (f *footprint) removeDisk(ctx context.Context, mon monitor, nodes map[string]node, i int) error {
	if err := f.deleteNode(ctx, mon, nodes, f.access(i)); err != nil {
		return err
	}
	if _, ok := nodes[f.gate(i)]; ok { // filters let nobody else write, so the gate leads past its filter first
		err := mon.Execute(ctx, "blockdev-reopen", map[string]any{"options": []any{f.gateOnto(i, f.Disks[i].Node)}}, nil)
		if err != nil {
			return err
		}
	}
	for _, name := range []string{f.gate(i), f.filter(i)} {
		if _, ok := nodes[name]; !ok {
			continue
		}
		if err := f.takeOut(ctx, mon, i, name); err != nil {
			return err
		}
		if err := f.deleteNode(ctx, mon, nodes, name); err != nil {
			return err
		}
	}
	return f.deleteNode(ctx, mon, nodes, f.fleece(i))
}

// gateOnto is a gate that leads to a node: one that changes nothing on the way.
func (f *footprint) gateOnto(i int, node string) map[string]any {
	return map[string]any{"driver": "raw", "node-name": f.gate(i), "file": node}
}

func (f *footprint) deleteNode(ctx context.Context, mon monitor, nodes map[string]node, name string) error {
	if _, ok := nodes[name]; !ok {
		return nil
	}
	return mon.Execute(ctx, "blockdev-del", map[string]any{"node-name": name}, nil)
}

// takeOut puts the disk back under its device, unless something else than our node is there by now or the device is
// gone.
func (f *footprint) takeOut(ctx context.Context, mon monitor, i int, name string) error {
	d := f.Disks[i]
	now, err := property(ctx, mon, d.QDev, "drive")
	if qmp.Refused(err) || err == nil && now != name {
		return nil
	}
	if err != nil {
		return err
	}
	return mon.Execute(ctx, "qom-set", drive(d, d.Node), nil)
}

// removeFiles takes away what the session put into its folder, and the folder where it is the session's own.
func (f *footprint) removeFiles() error {
	if !f.shared() {
		return os.RemoveAll(f.Dir)
	}
	errs := []error{missingIsNil(os.Remove(f.socket()))}
	for i := range f.Disks {
		errs = append(errs, missingIsNil(os.Remove(f.file(i))))
	}
	return errors.Join(errs...)
}

func missingIsNil(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// removeBitmaps removes bitmaps by name; those that are not there are not missed.
func (f *footprint) removeBitmaps(ctx context.Context, mon monitor, names func(d disk) []string) error {
	nodes, err := takeNodes(ctx, mon)
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range f.Disks {
		for _, name := range names(d) {
			if _, ok := nodes[d.Node].bitmap(name); ok {
				errs = append(errs, mon.Execute(ctx, "block-dirty-bitmap-remove", map[string]any{"node": d.Node, "name": name}, nil))
			}
		}
	}
	return errors.Join(errs...)
}
