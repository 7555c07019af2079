package diskvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"slices"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/qcow2"
)

// Options describe a VM beyond its files. Nil and zero fields are good defaults.
type Options struct {
	// Formats are those that files may have. Nil: raw and qcow2.
	Formats diskfile.Formats
	// Force takes files that somebody has open for writing. The consistency is then unknown.
	Force bool
	// Changed are the ranges that differ from the base point, by disk key. A disk that is not in the map is read and
	// compared; an empty list says that the disk is unchanged.
	Changed map[string][]Range
	// Config is the VM's native configuration as named blobs, kept byte for byte.
	Config map[string][]byte
	// Facts are small properties for people to read.
	Facts map[string]string
}

func (o *Options) orDefault() Options {
	out := Options{}
	if o != nil {
		out = *o
	}
	if out.Formats == nil {
		out.Formats = DefaultFormats()
	}
	return out
}

// DefaultFormats are the formats that need no hypervisor's package.
func DefaultFormats() diskfile.Formats {
	return diskfile.Formats{qcow2.Format(nil, nil), diskfile.Raw()}
}

// Provider is one VM made of disk files. Its id is its name.
type Provider struct {
	name  string
	files []File
	opts  Options
	disks []hikae.Disk
}

var (
	_ hikae.SnapshotProvider = (*Provider)(nil)
	_ hikae.Sweeper          = (*Provider)(nil)
)

// Open looks at the files and makes a VM of them, whose id is its name. Nothing stays open. Arguments that cannot be meant are a *UsageError:
// a key or file given twice, a list of changes for no disk or past its end.
func Open(ctx context.Context, name string, files []File, opts *Options) (*Provider, error) {
	p := &Provider{name: name, files: slices.Clone(files), opts: opts.orDefault()}
	if name == "" {
		return nil, usage("VM", "disk files have no name of their own: give one")
	}
	if err := errors.Join(checkFiles(files)); err != nil {
		return nil, err
	}
	if err := checkDistinct(files); err != nil {
		return nil, err
	}
	for _, f := range files {
		d, err := p.describe(ctx, f)
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", f.Key, err)
		}
		p.disks = append(p.disks, d)
	}
	return p, p.checkChanged()
}

// describe finds out a disk's size.
func (p *Provider) describe(ctx context.Context, f File) (hikae.Disk, error) {
	img, err := p.opts.Formats.Open(ctx, f.Path, f.Format, &diskfile.OpenOptions{Live: true})
	if err != nil {
		return hikae.Disk{}, err
	}
	return hikae.Disk{Key: f.Key, Size: img.Size()}, img.Close()
}

func (p *Provider) checkChanged() error {
	changed := map[string][]Range{}
	for _, key := range slices.Sorted(maps.Keys(p.opts.Changed)) {
		i := slices.IndexFunc(p.disks, func(d hikae.Disk) bool { return d.Key == key })
		if i < 0 {
			return usage("changes of disk "+key, "there is no such disk")
		}
		if err := checkRanges(key, p.opts.Changed[key], p.disks[i].Size); err != nil {
			return err
		}
		changed[key] = merge(p.opts.Changed[key])
	}
	p.opts.Changed = changed
	return nil
}

// VMs implements [hikae.SnapshotProvider]: there is one.
func (p *Provider) VMs(context.Context) iter.Seq2[hikae.VM, error] {
	return func(yield func(hikae.VM, error) bool) { yield(p.vm(), nil) }
}

func (p *Provider) vm() hikae.VM {
	return hikae.VM{
		ID: p.name, Name: p.name, Disks: slices.Clone(p.disks),
		Facts: maps.Clone(p.opts.Facts), Config: maps.Clone(p.opts.Config),
	}
}

// Snapshot implements [hikae.SnapshotProvider]. Nothing is pinned; the files are opened and watched. A file that is
// open for writing elsewhere is a *LiveError unless forced.
func (p *Provider) Snapshot(ctx context.Context, id string, _ *hikae.SnapshotOptions) (hikae.Snapshot, error) {
	if id != p.name {
		return nil, fmt.Errorf("VM %q: %w", id, fs.ErrNotExist)
	}
	s := &snapshot{provider: p, consistency: hikae.Offline, disks: map[string]*disk{}}
	for i, f := range p.files {
		if err := s.open(ctx, f, p.disks[i].Size); err != nil {
			return nil, errors.Join(fmt.Errorf("disk %s: %w", f.Key, err), s.Release(ctx))
		}
	}
	return s, nil
}

// Undo implements [hikae.Sweeper]: what a dead restore into files left goes. A backup leaves nothing.
func (p *Provider) Undo(ctx context.Context, e hikae.Effect, keep []hikae.ChangeID) error {
	return Sweeper{}.Undo(ctx, e, keep)
}
