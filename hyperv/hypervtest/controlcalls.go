package hypervtest

import (
	"context"
	"io"
	"time"
)

func (c *Control) do(ctx context.Context, o order) error {
	_, err := c.ask(ctx, o)
	return err
}

func (c *Control) text(ctx context.Context, o order) (string, error) {
	a, err := c.ask(ctx, o)
	if err != nil {
		return "", err
	}
	return a.Text, nil
}

func (c *Control) lines(ctx context.Context, o order) ([]string, error) {
	a, err := c.ask(ctx, o)
	if err != nil {
		return nil, err
	}
	return a.Lines, nil
}

// AddVM adds a VM to a host, or to the first where none is named, and returns its GUID.
func (c *Control) AddVM(ctx context.Context, host string, v VM) (string, error) {
	return c.text(ctx, order{Do: "add", Host: host, New: &v})
}

// VMs are the GUIDs of the VMs that are there, in order.
func (c *Control) VMs(ctx context.Context) ([]string, error) {
	return c.lines(ctx, order{Do: "vms"})
}

// Write writes to a disk as the guest does.
func (c *Control) Write(ctx context.Context, vm string, disk int, p []byte, off int64) error {
	for len(p) > 0 {
		n := min(len(p), controlData)
		if err := c.do(ctx, order{Do: "write", VM: vm, Disk: disk, Off: off, Data: p[:n]}); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// Read reads a disk as the guest does.
func (c *Control) Read(ctx context.Context, vm string, disk int, p []byte, off int64) error {
	for len(p) > 0 {
		n := min(len(p), controlData)
		a, err := c.ask(ctx, order{Do: "read", VM: vm, Disk: disk, Off: off, N: int64(n)})
		if err != nil {
			return err
		}
		if len(a.Data) != n {
			return io.ErrUnexpectedEOF
		}
		copy(p, a.Data)
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// Sum is the SHA-256 of a disk as the guest has it, in hexadecimal.
func (c *Control) Sum(ctx context.Context, vm string, disk int) (string, error) {
	return c.text(ctx, order{Do: "sum", VM: vm, Disk: disk})
}

// FreezeSum is the SHA-256 of a disk as it was when it was last pinned, in hexadecimal; see [Guest.AtFreeze].
func (c *Control) FreezeSum(ctx context.Context, vm string, disk int) (string, error) {
	return c.text(ctx, order{Do: "freezesum", VM: vm, Disk: disk})
}

// Size is a disk's length in bytes.
func (c *Control) Size(ctx context.Context, vm string, disk int) (int64, error) {
	a, err := c.ask(ctx, order{Do: "size", VM: vm, Disk: disk})
	if err != nil {
		return 0, err
	}
	return a.N, nil
}

// Tip is the file that a disk is written into now, as the host calls it.
func (c *Control) Tip(ctx context.Context, vm string, disk int) (string, error) {
	return c.text(ctx, order{Do: "tip", VM: vm, Disk: disk})
}

// Churn has a guest write without end, until StopChurn or the host's end.
func (c *Control) Churn(ctx context.Context, vm string, seed uint64) error {
	return c.do(ctx, order{Do: "churn", VM: vm, Seed: seed})
}

// StopChurn ends that; where nothing goes on it is no error.
func (c *Control) StopChurn(ctx context.Context, vm string) error {
	return c.do(ctx, order{Do: "stopchurn", VM: vm})
}

// Extend makes a disk longer.
func (c *Control) Extend(ctx context.Context, vm string, disk int, size int64) error {
	return c.do(ctx, order{Do: "extend", VM: vm, Disk: disk, N: size})
}

// Replace puts another, empty disk in the place of one.
func (c *Control) Replace(ctx context.Context, vm string, disk int, with Disk) error {
	return c.do(ctx, order{Do: "replace", VM: vm, Disk: disk, New: &VM{Disks: []Disk{with}}})
}

// LoseTracking has the host forget all changes of a disk; see [Guest.LoseTracking].
func (c *Control) LoseTracking(ctx context.Context, vm string, disk int) error {
	return c.do(ctx, order{Do: "losetracking", VM: vm, Disk: disk})
}

// PowerOn switches a VM on.
func (c *Control) PowerOn(ctx context.Context, vm string) error {
	return c.do(ctx, order{Do: "on", VM: vm})
}

// PowerOff shuts a VM down in good order.
func (c *Control) PowerOff(ctx context.Context, vm string) error {
	return c.do(ctx, order{Do: "off", VM: vm})
}

// PowerCut ends a VM as a power cut does.
func (c *Control) PowerCut(ctx context.Context, vm string) error {
	return c.do(ctx, order{Do: "cut", VM: vm})
}

// Checkpoint makes a checkpoint of a user's, and returns its GUID.
func (c *Control) Checkpoint(ctx context.Context, vm, name string) (string, error) {
	return c.text(ctx, order{Do: "checkpoint", VM: vm, Name: name})
}

// ApplyCheckpoint puts a VM back to a user's checkpoint.
func (c *Control) ApplyCheckpoint(ctx context.Context, vm, id string) error {
	return c.do(ctx, order{Do: "apply", VM: vm, Name: id})
}

// RemoveCheckpoint removes a user's checkpoint, and merges.
func (c *Control) RemoveCheckpoint(ctx context.Context, vm, id string) error {
	return c.do(ctx, order{Do: "uncheckpoint", VM: vm, Name: id})
}

// Move has a VM of a cluster go to another node while it runs.
func (c *Control) Move(ctx context.Context, vm, node string) error {
	return c.do(ctx, order{Do: "move", VM: vm, Name: node})
}

// Owner is the name of the host that has a VM.
func (c *Control) Owner(ctx context.Context, vm string) (string, error) {
	return c.text(ctx, order{Do: "owner", VM: vm})
}

// Fail sets a fault on a host, or on all where none is named. Fault's Do does not travel.
func (c *Control) Fail(ctx context.Context, host string, f Fault) error {
	return c.do(ctx, order{Do: "fail", Host: host, Fault: &faultOrder{Fault: f}})
}

// Heal takes all faults away, on all hosts.
func (c *Control) Heal(ctx context.Context) error {
	return c.do(ctx, order{Do: "heal"})
}

// Settle waits until no merge goes on and no job is under way, for so long at most, and 20 s in any case. It is an error if there
// still is.
func (c *Control) Settle(ctx context.Context, limit time.Duration) error {
	return c.do(ctx, order{Do: "settle", N: int64(limit)})
}

// Events are what happened on a host, or on all of them, one host after the other.
func (c *Control) Events(ctx context.Context, host string) ([]Event, error) {
	a, err := c.ask(ctx, order{Do: "events", Host: host})
	if err != nil {
		return nil, err
	}
	return a.Events, nil
}

// ClearEvents forgets them, on all hosts.
func (c *Control) ClearEvents(ctx context.Context) error {
	return c.do(ctx, order{Do: "clearevents"})
}

// Leftovers says in words what a clean cycle would not have left.
func (c *Control) Leftovers(ctx context.Context) ([]string, error) {
	return c.lines(ctx, order{Do: "leftovers"})
}
