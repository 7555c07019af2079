package hypervtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// Guest is a VM as who works in it, or at its console, sees it. Its methods may be called at once.
type Guest struct {
	h      *Host
	id     string // in small letters
	name   string
	os     string // windows or linux
	folder string
	secret string  // what its virtual TPM keeps
	object *Object // Msvm_ComputerSystem
	set    *Object // its present settings

	planned   bool   // it is a planned system yet
	protector []byte // of its virtual TPM's key

	mu          sync.Mutex // after the host's, where both are held
	on          bool
	integration bool // the guest can be asked to quiesce
	drives      []*drive
	checkpoints []*checkpoint
	last        *checkpoint // that the present state stands on
}

// VM is a virtual machine of the host, by its GUID; nil where there is none.
func (h *Host) VM(id string) *Guest {
	h.Lock()
	defer h.Unlock()
	return h.guests[strings.ToLower(id)]
}

// ID is the VM's GUID, in small letters.
func (g *Guest) ID() string { return g.id }

// Folder is where the VM's files lie, as the host calls it.
func (g *Guest) Folder() string { return g.folder }

func (g *Guest) drive(n int) (*drive, error) {
	if n < 0 || n >= len(g.drives) {
		return nil, fmt.Errorf("VM %s has no disk %d: %w", g.id, n, fs.ErrNotExist)
	}
	return g.drives[n], nil
}

// Write writes as the guest does, into the file that is the tip now.
func (g *Guest) Write(disk int, off int64, p []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.on {
		return errOff
	}
	d, err := g.drive(disk)
	if err != nil {
		return err
	}
	return d.write(off, p)
}

// Flush makes durable what the guest wrote to a disk.
func (g *Guest) Flush(disk int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	d, err := g.drive(disk)
	if err != nil || d.file == nil {
		return err
	}
	return d.file.Flush(context.Background())
}

// Read reads what the files hold: not what the model of the guest says.
func (g *Guest) Read(disk int, off int64, n int) ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	d, err := g.drive(disk)
	if err != nil {
		return nil, err
	}
	was := d.file != nil
	if err := d.open(); err != nil {
		return nil, err
	}
	p := make([]byte, n)
	m, err := d.file.ReadAt(context.Background(), p, off)
	if err == io.EOF && m == n {
		err = nil
	}
	if !was && !g.on {
		err = errors.Join(err, d.shut())
	}
	return p[:m], err
}

// AtFreeze is what a disk held at the last moment at which a checkpoint or the host's VSS pinned it; before the first, as it was
// given. It does not change when the guest goes on.
func (g *Guest) AtFreeze(disk int) io.ReaderAt {
	g.mu.Lock()
	defer g.mu.Unlock()
	d, err := g.drive(disk)
	if err != nil {
		return newContent(0)
	}
	return d.frozen
}

// Now is what a disk holds at this moment, by the model and not by the files, but for what others wrote into them while the VM was off.
// It does not change when the guest goes on.
func (g *Guest) Now(disk int) io.ReaderAt {
	g.mu.Lock()
	defer g.mu.Unlock()
	d, err := g.drive(disk)
	if err != nil {
		return newContent(0)
	}
	return d.now()
}

// Size is a disk's, in bytes; zero where there is none.
func (g *Guest) Size(disk int) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d, err := g.drive(disk); err == nil {
		return d.size
	}
	return 0
}

// Tip is the file that a disk is written into now, as the host calls it.
func (g *Guest) Tip(disk int) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d, err := g.drive(disk); err == nil {
		return d.tip.name
	}
	return ""
}

// Disks counts them.
func (g *Guest) Disks() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.drives)
}

// Churn has the guest write without end, small and large, to all its disks, until stop is called. While the VM is off it waits.
func (g *Guest) Churn(seed uint64) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	r := rand.New(rand.NewPCG(seed, 1))
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
			if n := g.Disks(); n > 0 {
				disk := r.IntN(n)
				if size := g.Size(disk); size > 0 {
					off, p := scribbled(r, size)
					g.Write(disk, off, p) // while it is off there is nothing to write to
				}
			}
		}
	}()
	var once sync.Once
	return func() { once.Do(func() { close(done); <-ended }) }
}

// scribbled is one write: within the first 64 MiB, mostly small, sometimes zeros.
func scribbled(r *rand.Rand, size int64) (int64, []byte) {
	n := int64(512 * (1 + r.IntN(16)))
	if r.IntN(8) == 0 {
		n = 64 << 10
	}
	n = min(n, size)
	off := r.Int64N(min(size-n, 64<<20)+1) &^ 511
	p := make([]byte, n)
	if r.IntN(6) > 0 {
		for i := range p {
			p[i] = byte(r.Uint32())
		}
	}
	return off, p
}
