package nfsserve

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/nbd"
	"github.com/hikae/hikae/vmware/vmdk"
)

// Disk is one disk that is offered: Name.vmdk and Name-flat.vmdk.
type Disk struct {
	Name  string     // a file's name without its ending, such as "web1" or "web1_1"
	Image pipe.Image // is not closed
	// Identity names the image's content, so that what was written over one point is not laid over another: the point's id
	// and the disk's key. See nbd.OverlayOptions.
	Identity string
	Adapter  string // as in vmdk.CreateOptions; empty: lsilogic
	UUID     string // for the descriptor, as ESXi writes it; empty: none
}

const maxName = 200

func (d *Disk) check() error {
	if d.Name == "" || len(d.Name) > maxName || strings.ContainsAny(d.Name, "/\\\x00\"\r\n") || d.Name[0] == '.' || d.Image == nil {
		return fmt.Errorf("disk %q: %w", d.Name, fs.ErrInvalid)
	}
	if d.Image.Size()%sector != 0 {
		return fmt.Errorf("disk %q of %d bytes: a VMDK holds whole sectors of %d: %w", d.Name, d.Image.Size(), sector, fs.ErrInvalid)
	}
	return nil
}

const sector = 512

// descriptor is the text of Name.vmdk.
func (d *Disk) descriptor() []byte {
	desc := vmdk.Descriptor{
		CID: 0xfffffffe, ParentCID: vmdk.NoParent, CreateType: string(vmdk.VMFS),
		Extents: []vmdk.ExtentLine{{Access: vmdk.ReadWrite, Sectors: d.Image.Size() / sector, Type: "VMFS", File: d.Name + "-flat.vmdk"}},
		DDB:     map[string]string{"adapterType": d.Adapter, "virtualHWVersion": "4"},
	}
	if d.Adapter == "" {
		desc.DDB["adapterType"] = "lsilogic"
	}
	if d.UUID != "" {
		desc.DDB["uuid"] = d.UUID
	}
	return desc.Append(nil)
}

// volume is a disk with what was written to it.
type volume struct {
	Disk
	overlay *nbd.Overlay
	async   bool

	mu      sync.Mutex
	flushed *flush // that has not begun yet; nil: none is asked for
	busy    chan struct{}
}

// flush is one turn that several writes wait for.
type flush struct {
	done chan struct{}
	err  error
}

func openVolume(d Disk, folder string, async bool) (*volume, error) {
	o, err := nbd.OpenOverlay(filepath.Join(folder, d.Name+".overlay"), d.Image, &nbd.OverlayOptions{Identity: d.Identity})
	if err != nil {
		return nil, err
	}
	return &volume{Disk: d, overlay: o, async: async, busy: make(chan struct{}, 1)}, nil
}

// settle waits until everything that was written before is durable. Those who come while one flush runs share the next.
func (v *volume) settle(ctx context.Context) error {
	if v.async {
		return nil
	}
	v.mu.Lock()
	f := v.flushed
	if f == nil {
		f = &flush{done: make(chan struct{})}
		v.flushed = f
		go v.run(f)
	}
	v.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (v *volume) run(f *flush) {
	v.busy <- struct{}{}
	defer func() { <-v.busy }()
	v.mu.Lock()
	v.flushed = nil // whoever writes from here on needs another
	v.mu.Unlock()
	f.err = v.overlay.Flush(context.Background())
	close(f.done)
}

// close waits for flushes, and flushes what is left.
func (v *volume) close() error {
	v.busy <- struct{}{}
	defer func() { <-v.busy }()
	return v.overlay.Close()
}
