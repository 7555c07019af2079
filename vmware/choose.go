package vmware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// defaultOrder is in what order transports are tried, where nobody says otherwise. NBD in the clear is tried only where it
// is named.
var defaultOrder = []string{HotAdd, NBDSSL, NFS, VDDK, HTTPS, Export}

// allTransports are the names that are known.
var allTransports = []string{HotAdd, NBDSSL, NBD, NFS, VDDK, HTTPS, Export}

// TransportOptions change how disks are reached. Nil and zero fields are good defaults.
type TransportOptions struct {
	// Order are names of transports in the order in which they are tried. A name with "!" in front leaves one out; where
	// all have it, the others are tried in the default order: hotadd, nbdssl, nfs, vddk, https, export. NBD, which sends
	// the content in the clear, is tried only where it is named.
	Order []string
	// Mounts are folders of this machine, by the name of the datastore that is mounted there. See [NFS].
	Mounts map[string]string
	// HotAdd says how disks are attached to the VM that this program runs in. Nil: as is usual.
	HotAdd *HotAddOptions
	// VDDK is where the user's own VDDK is. Nil: there is none.
	VDDK *VDDKOptions
	// More are transports of the caller's own. One whose name is known already stands in its place; any other is tried
	// where Order names it.
	More []Transport
}

// Refusal says why a transport was not chosen for a disk, or no longer.
type Refusal = hikae.Detour

func refusalText(r Refusal) string {
	text := r.Transport + ": " + r.Reason
	if r.Offset >= 0 {
		text = fmt.Sprintf("%s, at %d", text, r.Offset)
	}
	if r.Hint != "" {
		text += " (" + r.Hint + ")"
	}
	return text
}

// Choice is how a disk is reached, and what was tried before.
type Choice struct {
	Disk      string    `json:"disk"`      // its key
	Transport string    `json:"transport"` // empty: none reaches it
	Tried     []Refusal `json:"tried,omitempty"`
}

// FailedOver are the transports that failed while the disk was read, so that another took their place.
func (c Choice) FailedOver() []Refusal {
	var out []Refusal
	for _, r := range c.Tried {
		if r.Offset >= 0 {
			out = append(out, r)
		}
	}
	return out
}

func (c Choice) String() string {
	text := "disk " + c.Disk + ": "
	if c.Transport == "" {
		text += "no transport"
	} else {
		text += c.Transport
	}
	for i, r := range c.Tried {
		if i == 0 {
			text += "; not "
		} else {
			text += "; "
		}
		text += refusalText(r)
	}
	return text
}

// NoTransportError says that no transport reaches a disk, and for each why.
type NoTransportError struct {
	Choice Choice
	Err    error // what the transports said
}

func (e *NoTransportError) Error() string { return e.Choice.String() }
func (e *NoTransportError) Unwrap() error { return e.Err }

// chooser finds a transport for each disk.
type chooser struct {
	order  []Transport
	absent []Refusal // what was asked for and this program does not have
}

// newChooser makes the transports that the options ask for. An unknown name is an error that wraps fs.ErrInvalid.
func newChooser(opts *TransportOptions) (*chooser, error) {
	var o TransportOptions
	if opts != nil {
		o = *opts
	}
	names, err := o.names()
	if err != nil {
		return nil, err
	}
	c := &chooser{}
	for _, name := range names {
		if t := o.transport(name); t != nil {
			c.order = append(c.order, t)
		} else {
			c.absent = append(c.absent, Refusal{Transport: name, Reason: "this program does not have it", Offset: -1})
		}
	}
	return c, nil
}

// names is the order that is asked for.
func (o *TransportOptions) names() ([]string, error) {
	known := slices.Clone(allTransports)
	for _, t := range o.More {
		known = append(known, t.Name())
	}
	var order []string
	without := map[string]bool{}
	for _, name := range o.Order {
		plain, not := strings.CutPrefix(name, "!")
		switch {
		case !slices.Contains(known, plain):
			return nil, fmt.Errorf("transport %q: %w: there are %s", plain, fs.ErrInvalid, strings.Join(known, ", "))
		case not:
			without[plain] = true
		case slices.Contains(order, plain):
			return nil, fmt.Errorf("transport %q: %w: it is named twice", plain, fs.ErrInvalid)
		default:
			order = append(order, plain)
		}
	}
	if len(order) == 0 {
		order = slices.Clone(defaultOrder)
	}
	order = slices.DeleteFunc(order, func(name string) bool { return without[name] })
	if len(order) == 0 {
		return nil, fmt.Errorf("transports %v: %w: none is left", slices.Sorted(maps.Keys(without)), fs.ErrInvalid)
	}
	return order, nil
}

// transport is the one of a name, or nil where this program has none.
func (o *TransportOptions) transport(name string) Transport {
	for _, t := range o.More {
		if t.Name() == name {
			return t
		}
	}
	switch name {
	case HotAdd:
		return newHotAdd(o.HotAdd)
	case NBDSSL, NBD:
		return newNFC(name)
	case NFS:
		return newNFS(o.Mounts, newHTTPS())
	case VDDK:
		return newVDDK(o.VDDK)
	case HTTPS:
		return newHTTPS()
	case Export:
		return newExport()
	}
	return nil
}

// open opens a disk by the first transport that can, when there is a place for it among those that are read at once. What it
// says of its choice is how it began: the image is a [Chosen], for how it went on.
func (c *chooser) open(ctx context.Context, p *Pinned) (pipe.Image, Choice, error) {
	d := &chosen{pinned: p, moving: make(chan struct{}, 1), left: c.order, choice: c.begin(p)}
	release, err := p.place(ctx)
	if err != nil {
		return nil, d.Choice(), err
	}
	if err := d.next(ctx); err != nil {
		release()
		return nil, d.Choice(), err
	}
	d.release = release
	return d, d.Choice(), nil
}

// openTarget opens a disk for writing by the first transport that can. A transport that fails later does not give way to
// another: what it had written is not known.
func (c *chooser) openTarget(ctx context.Context, p *Pinned) (pipe.Target, Choice, error) {
	choice := c.begin(p)
	release, err := p.place(ctx)
	if err != nil {
		return nil, choice, err
	}
	var errs []error
	for _, t := range c.order {
		target, err := openTargetBy(ctx, t, p)
		if err == nil {
			choice.Transport = t.Name()
			return placed(target, release), choice, nil
		}
		if ctx.Err() != nil {
			release()
			return nil, choice, err
		}
		errs = append(errs, err)
		choice.Tried = append(choice.Tried, refusal(t, err, -1))
	}
	release()
	return nil, choice, &NoTransportError{choice, errors.Join(errs...)}
}

// place waits for a place among the disks that are read and written at once.
func (p *Pinned) place(ctx context.Context) (release func(), err error) {
	if p.Client == nil || p.placed {
		return func() {}, nil
	}
	return p.Client.acquireDisk(ctx, p.Host, p.Disk.Datastore)
}

func (c *chooser) begin(p *Pinned) Choice {
	return Choice{Disk: p.Disk.Key, Tried: slices.Clone(c.absent)}
}

func openTargetBy(ctx context.Context, t Transport, p *Pinned) (pipe.Target, error) {
	w, ok := t.(Writer)
	if !ok {
		return nil, &UnfitError{Transport: t.Name(), Reason: "it reads only"}
	}
	if err := w.CheckTarget(ctx, p); err != nil {
		return nil, err
	}
	target, err := w.OpenTarget(ctx, p)
	if err == nil && target.Size() != p.Disk.Size {
		return nil, errors.Join(sizeError(t, target.Size(), p), target.Close())
	}
	return target, err
}

func sizeError(t Transport, size int64, p *Pinned) error {
	return &UnfitError{Transport: t.Name(), Reason: fmt.Sprintf("it shows a disk of %d bytes, the configuration says %d", size, p.Disk.Size)}
}

// refusal is what a report says of a transport that did not do.
func refusal(t Transport, err error, off int64) Refusal {
	r := Refusal{Transport: t.Name(), Offset: off}
	var unfit *UnfitError
	if errors.As(err, &unfit) {
		r.Reason, r.Hint = unfit.Reason, unfit.Hint
	} else {
		r.Reason = strings.TrimPrefix(err.Error(), t.Name()+": ")
	}
	return r
}
