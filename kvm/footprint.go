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
	"syscall"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/qmp"
)

// footprint is what one session leaves on a host, by name. Everything that it makes is named after its mark, which is
// random; so nothing of anybody else's is ever mistaken for it, and what was made can be undone from this alone.
type footprint struct {
	Mark  string
	QMP   string
	Dir   string // of fleecing images and the NBD server's socket
	Disks []disk
}

const prefix = "hikae-"

var validMark = regexp.MustCompile(`^hikae-[a-z2-7]{16}$`)

func newFootprint(qmp string) footprint {
	return footprint{Mark: prefix + strings.ToLower(rand.Text()[:16]), QMP: qmp}
}

// Names of what belongs to disk i. Node names have at most 31 bytes.
func (f *footprint) fleece(i int) string { return fmt.Sprintf("%s-f%d", f.Mark, i) }
func (f *footprint) filter(i int) string { return fmt.Sprintf("%s-c%d", f.Mark, i) }
func (f *footprint) access(i int) string { return fmt.Sprintf("%s-s%d", f.Mark, i) }
func (f *footprint) exportID(i int) string {
	return fmt.Sprintf("%s-e%d", f.Mark, i)
}

func (f *footprint) file(i int) string { return filepath.Join(f.Dir, fmt.Sprintf("fleece%d.qcow2", i)) }
func (f *footprint) socket() string    { return filepath.Join(f.Dir, "nbd.sock") }

// changeID is the bitmap that begins with the session, on each disk; copyName the copy of the base's bitmap.
func (f *footprint) changeID() string { return f.Mark }
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
	for k, v := range more {
		facts[k] = v
	}
	return hikae.Effect{Kind: kind, VM: f.QMP, Facts: facts}, nil
}

func footprintOf(e hikae.Effect) (f footprint, err error) {
	f = footprint{Mark: e.Facts["mark"], QMP: e.Facts["qmp"], Dir: e.Facts["dir"]}
	if !validMark.MatchString(f.Mark) || !filepath.IsAbs(f.QMP) || !filepath.IsAbs(f.Dir) || filepath.Base(f.Dir) != f.Mark {
		return f, fmt.Errorf("effect %s of %s: %w: mark %q, monitor %q, folder %q", e.ID, e.Kind, fs.ErrInvalid, f.Mark, f.QMP, f.Dir)
	}
	if err := json.Unmarshal([]byte(e.Facts["disks"]), &f.Disks); err != nil {
		return f, fmt.Errorf("effect %s of %s: disks: %w", e.ID, e.Kind, err)
	}
	return f, nil
}

// gone reports whether a failure to reach a monitor means that no QEMU is there.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// lives reports whether this QEMU is the process in which the session worked: nodes end with it.
func (f *footprint) lives(inv *inventory) bool {
	for name := range inv.nodes {
		if f.mine(name) {
			return true
		}
	}
	return false
}

// removeExports closes what the reader used. The server is stopped only if it is the session's own.
func (f *footprint) removeExports(ctx context.Context, mon *qmp.Conn) error {
	var exports []export
	if err := mon.Execute(ctx, "query-block-exports", nil, &exports); err != nil {
		return err
	}
	var errs []error
	for _, e := range exports {
		if !f.mine(e.ID) {
			continue
		}
		err := mon.Execute(ctx, "block-export-del", map[string]any{"id": e.ID, "mode": "hard"}, nil)
		if err == nil {
			err = mon.WaitExport(ctx, e.ID)
		}
		errs = append(errs, err)
	}
	if f.serves(ctx) {
		errs = append(errs, mon.Execute(ctx, "nbd-server-stop", nil, nil))
	}
	return errors.Join(errs...)
}

// serves asks the socket itself whether somebody listens there: QEMU does not tell where its NBD server is.
func (f *footprint) serves(ctx context.Context) bool {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", f.socket())
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// removeNodes takes the filters out from below the devices, and then all nodes away.
func (f *footprint) removeNodes(ctx context.Context, mon *qmp.Conn) error {
	inv, err := takeNodes(ctx, mon)
	if err != nil {
		return err
	}
	var errs []error
	for i := range f.Disks {
		errs = append(errs, f.removeDisk(ctx, mon, inv, i))
	}
	return errors.Join(errs...)
}

// removeFleece takes away all that is between a device and its disk, and the copies of bitmaps that were for the reader.
func (f *footprint) removeFleece(ctx context.Context, mon *qmp.Conn) error {
	return errors.Join(f.removeNodes(ctx, mon), f.removeFiles(),
		f.removeBitmaps(ctx, mon, func(disk) []string { return []string{f.copyName()} }))
}

// takeNodes asks for the nodes alone: what must be undone may be the reason why a whole inventory fails.
func takeNodes(ctx context.Context, mon *qmp.Conn) (map[string]node, error) {
	var list []node
	if err := mon.Execute(ctx, "query-named-block-nodes", map[string]any{"flat": true}, &list); err != nil {
		return nil, err
	}
	nodes := map[string]node{}
	for _, n := range list {
		nodes[n.Name] = n
	}
	return nodes, nil
}

func (f *footprint) removeDisk(ctx context.Context, mon *qmp.Conn, nodes map[string]node, i int) error {
	if err := f.deleteNode(ctx, mon, nodes, f.access(i)); err != nil {
		return err
	}
	if _, ok := nodes[f.filter(i)]; ok {
		if err := f.takeOut(ctx, mon, i); err != nil {
			return err
		}
	}
	if err := f.deleteNode(ctx, mon, nodes, f.filter(i)); err != nil {
		return err
	}
	return f.deleteNode(ctx, mon, nodes, f.fleece(i))
}

func (f *footprint) deleteNode(ctx context.Context, mon *qmp.Conn, nodes map[string]node, name string) error {
	if _, ok := nodes[name]; !ok {
		return nil
	}
	return mon.Execute(ctx, "blockdev-del", map[string]any{"node-name": name}, nil)
}

// takeOut puts the disk back under its device, unless something else is there by now or the device is gone.
func (f *footprint) takeOut(ctx context.Context, mon *qmp.Conn, i int) error {
	d := f.Disks[i]
	var drive string
	err := mon.Execute(ctx, "qom-get", map[string]any{"path": d.QDev, "property": "drive"}, &drive)
	if qmp.Refused(err) || err == nil && drive != f.filter(i) {
		return nil
	}
	if err != nil {
		return err
	}
	return mon.Execute(ctx, "qom-set", map[string]any{"path": d.QDev, "property": "drive", "value": d.Node}, nil)
}

// removeFiles takes the folder away, which holds nothing but what the session put there.
func (f *footprint) removeFiles() error { return os.RemoveAll(f.Dir) }

// removeBitmaps removes bitmaps by name; those that are not there are not missed.
func (f *footprint) removeBitmaps(ctx context.Context, mon *qmp.Conn, names func(d disk) []string) error {
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
