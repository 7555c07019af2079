package diskvm

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// RestorerOptions change what a Restorer writes. Nil and zero fields are good defaults.
type RestorerOptions struct {
	// Format is the word for it: raw, qcow2 … Empty: by the ending of the path, else raw.
	Format string
	// Formats are those that can be written. Nil: raw and qcow2.
	Formats diskfile.Formats
	// NoConfig leaves the configuration out of a folder.
	NoConfig bool
	// Force writes in place also into a file that somebody has open.
	Force bool
}

// Restorer writes disks as files.
type Restorer struct {
	path   string
	folder bool
	format diskfile.Format
	opts   RestorerOptions
}

var _ hikae.Restorer = (*Restorer)(nil)

// NewRestorer restores to a path. One that exists as a folder or ends in a slash is a folder, made where it is missing,
// which gets <key>.<format> for each disk and config/ for the configuration; any other is the file of one disk.
func NewRestorer(path string, opts *RestorerOptions) (*Restorer, error) {
	r := &Restorer{path: path}
	if opts != nil {
		r.opts = *opts
	}
	if r.opts.Formats == nil {
		r.opts.Formats = DefaultFormats()
	}
	if path == "" {
		return nil, usage("restore", "no place was named")
	}
	fi, err := os.Stat(path)
	r.folder = strings.HasSuffix(path, "/") || os.IsPathSeparator(path[len(path)-1]) || err == nil && fi.IsDir()
	r.format, err = r.chooseFormat()
	return r, err
}

// otherFormats are endings that promise what raw bytes are not.
var otherFormats = []string{"qcow", "qcow2", "qed", "vdi", "vhd", "vhdx", "vmdk"}

func (r *Restorer) chooseFormat() (diskfile.Format, error) {
	if r.opts.Format != "" {
		f, err := r.opts.Formats.ByName(r.opts.Format)
		if err != nil {
			return nil, usage("restore", "%v", err)
		}
		return f, nil
	}
	ending := strings.ToLower(strings.TrimPrefix(filepath.Ext(r.path), "."))
	if f, err := r.opts.Formats.ByName(ending); err == nil && !r.folder {
		return f, nil
	}
	if !r.folder && slices.Contains(otherFormats, ending) {
		return nil, usage("restore", "files that end in .%s are of a format that cannot be written here: name the format", ending)
	}
	f, err := r.opts.Formats.ByName("raw")
	if err != nil {
		return nil, usage("restore", "%v", err)
	}
	return f, nil
}

// Create implements [hikae.Restorer]. What is already there is fs.ErrExist unless opts.Overwrite says otherwise. The
// id that the draft's Commit returns is the path.
func (r *Restorer) Create(ctx context.Context, vm hikae.VM, opts *hikae.RestoreOptions) (hikae.Draft, error) {
	d := &draft{restorer: r, vm: vm}
	if opts != nil {
		d.opts = *opts
	}
	if !r.folder && len(vm.Disks) != 1 {
		return nil, usage("restore", "%d disks do not go into the one file %s: name a folder, or one disk", len(vm.Disks), r.path)
	}
	for _, disk := range vm.Disks {
		name, err := r.fileName(disk.Key)
		if err != nil {
			return nil, err
		}
		d.files = append(d.files, &draftFile{key: disk.Key, size: disk.Size, name: name})
	}
	if err := d.open(ctx); err != nil {
		return nil, err
	}
	return d, nil
}

// folderPath is where the files go.
func (r *Restorer) folderPath() string {
	if r.folder {
		return filepath.Clean(r.path)
	}
	return filepath.Dir(r.path)
}

// fileName is a disk's file in that folder. Keys of other providers may hold anything.
func (r *Restorer) fileName(key string) (string, error) {
	if !r.folder {
		return filepath.Base(r.path), nil
	}
	name := key + "." + r.format.Name()
	if !safeName(name) {
		return "", usage(fmt.Sprintf("disk %q", key), "its key does not make a file name: restore it alone, to a file")
	}
	return name, nil
}

// safeName accepts what is one plain file name on every system.
func safeName(name string) bool {
	return name != "" && len(name) <= 200 && filepath.IsLocal(name) && !strings.HasPrefix(name, ".") &&
		!strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c == 0x7f || strings.ContainsRune(`/\:*?"<>|`, c) })
}

// InPlace implements [hikae.Restorer]: id is the path of one raw file or block device, which is written over. There is
// no way back.
func (r *Restorer) InPlace(_ context.Context, id string, _ *hikae.RestoreOptions) (hikae.Draft, error) {
	if _, err := os.Stat(id); err != nil {
		return nil, err
	}
	return &inPlace{path: id, force: r.opts.Force}, nil
}

// inPlace is a file that is being written over.
type inPlace struct {
	path   string
	force  bool
	opened bool
}

func (d *inPlace) OpenDisk(_ context.Context, key string) (pipe.Target, error) {
	if d.opened {
		return nil, usage("disk "+key, "one disk goes into %s", d.path)
	}
	d.opened = true
	return diskfile.OpenTarget(d.path, &diskfile.TargetOptions{Force: d.force})
}

func (d *inPlace) Reread(_ context.Context, _ string) (pipe.Image, error) {
	return diskfile.Open(d.path, nil)
}

func (d *inPlace) Commit(context.Context) (string, error) { return d.path, nil }
func (d *inPlace) Close() error                           { return nil }

// configName turns a blob's name into a path below config/: slashes stay, everything else must be plain.
func configName(name string) (string, error) {
	parts := strings.Split(name, "/")
	if len(name) > 500 || slices.ContainsFunc(parts, func(p string) bool { return !safeName(p) }) {
		return "", fmt.Errorf("configuration %q: %w: it does not make a file name", name, fs.ErrInvalid)
	}
	return filepath.FromSlash(name), nil
}
