package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hikae/hikae/pipe/qcow2"
)

// maxSocketPath is the longest path of a unix socket on Linux, in bytes.
const maxSocketPath = 107

// chooseFolder decides where fleecing images and the NBD server's socket lie, and whose they are.
func (s *snapshot) chooseFolder(ctx context.Context) (err error) {
	d, ok := base(s.mon).(*domainMonitor)
	if !ok {
		if s.owner, err = ownerOf(s.machine.QMP); err != nil {
			return err
		}
		return s.ownFolder()
	}
	folder, err := d.folder(ctx)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.owner, err = domainOwner(s.vm.Config["domain.xml"], folder)
	if err != nil || s.provider.opts.Scratch != "" || !isFolder(folder) {
		return errors.Join(err, s.ownFolder())
	}
	s.Dir = folder
	return nil
}

// domainOwner is who a domain's files must belong to: libvirt says so, or, where it runs all as one user, whoever has
// the folder that it made for the domain.
func domainOwner(description []byte, folder string) (owner, error) {
	o, err := ownerIn(description)
	if err != nil {
		return o, fmt.Errorf("libvirt's description: %w", err)
	}
	if o.uid == 0 && isFolder(folder) {
		of, err := ownerOf(folder)
		of.label = o.label
		return of, err
	}
	return o, nil
}

// isFolder: a QEMU in a container has a folder that is not ours.
func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func (s *snapshot) ownFolder() error {
	scratch, err := s.provider.scratch()
	s.Dir = filepath.Join(scratch, s.Mark)
	return err
}

// addFleece makes the fleecing images and the filters, which nobody uses yet.
func (s *snapshot) addFleece(ctx context.Context) error {
	if len(s.socket()) > maxSocketPath {
		return fmt.Errorf("%s: %w: a socket's path has at most %d bytes, choose another scratch folder", s.socket(), fs.ErrInvalid, maxSocketPath)
	}
	if err := s.intend(ctx, kindFleece, nil); err != nil {
		return err
	}
	if !s.shared() {
		if err := os.Mkdir(s.Dir, 0o700); err != nil {
			return err
		}
		if err := s.owner.give(s.Dir); err != nil {
			return err
		}
	}
	for i, d := range s.Disks {
		if err := s.addImage(ctx, i, d); err != nil {
			return fmt.Errorf("disk %s: %w", d.Key, denied(err, s.Dir))
		}
	}
	nodes, err := takeNodes(ctx, s.mon)
	if err != nil {
		return err
	}
	return s.alone(nodes)
}

func (s *snapshot) addImage(ctx context.Context, i int, d disk) error {
	limit, err := s.fleeceBytes(d)
	if err != nil {
		return err
	}
	if err := makeFleece(ctx, s.file(i), d.Size); err != nil {
		return err
	}
	if err := s.owner.give(s.file(i)); err != nil {
		return err
	}
	s.Disks[i].limit = limit
	if s.byJob {
		return s.addOverlay(ctx, i, d)
	}
	return s.addFilter(ctx, i, d, limit)
}

// file is the file of a fleecing image, for QEMU. It is ours alone, so it needs no lock; and access control by name
// (AppArmor, as libvirt sets it up) allows none there.
func (s *snapshot) fleeceFile(i int) map[string]any {
	return map[string]any{"driver": "file", "filename": s.file(i), "discard": "unmap", "locking": "off"}
}

// addOverlay opens a fleecing image over its disk, for a backup job. It is not bounded: QEMU would stop the guest at the
// bound. See watch.
func (s *snapshot) addOverlay(ctx context.Context, i int, d disk) error {
	return s.mon.Execute(ctx, "blockdev-add", map[string]any{
		"driver": "qcow2", "node-name": s.fleece(i), "discard": "unmap", "backing": d.Node, "file": s.fleeceFile(i),
	}, nil)
}

// cbwTimeout is how many seconds a write of the guest may wait for the fleecing image before the snapshot is given up.
const cbwTimeout = 30

// addFilter opens a bounded fleecing image, and a filter that keeps old data in it; and the gate, where one is needed,
// which leads to the disk still.
func (s *snapshot) addFilter(ctx context.Context, i int, d disk, limit int64) error {
	if err := resize(s.file(i), limit); err != nil { // a hole: so QEMU is told that the file never grows
		return err
	}
	err := s.mon.Execute(ctx, "blockdev-add", map[string]any{
		"driver": "qcow2", "node-name": s.fleece(i), "discard": "unmap",
		"file": map[string]any{"driver": "raw", "size": limit, "file": s.fleeceFile(i)}, // raw refuses to grow beyond the limit
	}, nil)
	if err != nil {
		return err
	}
	err = s.mon.Execute(ctx, "blockdev-add", map[string]any{
		"driver": "copy-before-write", "node-name": s.filter(i), "file": d.Node, "target": s.fleece(i),
		"on-cbw-error": "break-snapshot", "cbw-timeout": cbwTimeout,
	}, nil)
	if err != nil || !s.gates {
		return err
	}
	if err := s.mon.Execute(ctx, "blockdev-add", s.gateOnto(i, d.Node), nil); err != nil {
		return err
	}
	return s.mon.Execute(ctx, "qom-set", drive(d, s.gate(i)), nil)
}

// fleeceBytes is the bound of a disk's fleecing image.
func (s *snapshot) fleeceBytes(d disk) (int64, error) {
	limit := s.provider.opts.FleeceBytes
	if limit <= 0 {
		limit = d.Size + d.Size/1024 + 2<<20 // its data, tables and header
		free, err := FreeBytes(s.Dir)
		if err != nil {
			return 0, err
		}
		limit = min(limit, free/2/int64(len(s.Disks)))
	}
	return max(limit, 1<<20) &^ 511, nil
}

// makeFleece makes an empty qcow2 image of a disk's size.
func makeFleece(ctx context.Context, path string, size int64) error {
	target, err := qcow2.Create(path, size, nil)
	if err != nil {
		return err
	}
	defer target.Close()
	return errors.Join(target.Commit(ctx), target.Close())
}
