package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/qcow2"
)

const (
	kindDraft   = "kvm.draft" // a folder that a machine is being made in
	startScript = "start.sh"
	draftEnding = ".tmp"
)

// createDraft is a machine that is being made: in a hidden folder beside its place, which gets its name at Commit.
//
//	FOLDER/<key>.qcow2 or .raw   the disks
//	FOLDER/start.sh              starts the machine as it was started, with these disks
//	FOLDER/domain.xml            for libvirt, where it was libvirt's
//	FOLDER/firmware/             variable stores
//	FOLDER/config/               the configuration of the point, byte for byte
type createDraft struct {
	restorer *Restorer
	vm       hikae.VM
	name     string // another name, if it is to have one
	record   record
	recorded bool
	final    string
	temp     string
	disks    map[string]*createDisk
	notes    []string
	settle   func(context.Context) error
	closed   bool
}

type createDisk struct {
	DiskImage // Path within the hidden folder
	size      int64
	target    pipe.Target
}

// Create implements [hikae.Restorer]. A folder that holds anything is fs.ErrExist. The id that Commit returns is the
// folder.
func (r *Restorer) Create(ctx context.Context, vm hikae.VM, opts *hikae.RestoreOptions) (hikae.Draft, error) {
	if r.opts.Folder == "" {
		return nil, fmt.Errorf("restore of %s: no folder was named: %w", vm.Name, fs.ErrInvalid)
	}
	final, err := filepath.Abs(r.opts.Folder)
	if err != nil {
		return nil, err
	}
	d := &createDraft{restorer: r, vm: vm, final: final, disks: map[string]*createDisk{}}
	if d.record, d.recorded, err = readRecord(vm.Config); err != nil {
		return nil, err
	}
	if err := d.plan(); err != nil {
		return nil, err
	}
	if left, err := os.ReadDir(final); err == nil && len(left) > 0 {
		return nil, &fs.PathError{Op: "restore", Path: final, Err: fs.ErrExist}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var journal hikae.Journal
	if opts != nil {
		journal, d.name = opts.Journal, opts.Name
	}
	return d, d.begin(ctx, journal)
}

// plan chooses files and formats.
func (d *createDraft) plan() error {
	format := d.restorer.opts.Format
	if format != "" && format != formatRaw && format != formatQcow2 {
		return fmt.Errorf("format %q is neither raw nor qcow2: %w", format, fs.ErrInvalid)
	}
	for _, disk := range d.vm.Disks {
		if !plainKey.MatchString(disk.Key) || d.disks[disk.Key] != nil {
			return fmt.Errorf("disk %q: its key makes no file name: %w", disk.Key, fs.ErrInvalid)
		}
		was, _ := d.was(disk.Key)
		f := format
		if f == "" {
			f = formatQcow2
			if was.Format == formatRaw {
				f = formatRaw
			}
		}
		d.disks[disk.Key] = &createDisk{DiskImage: DiskImage{Key: disk.Key, Path: disk.Key + "." + f, Format: f}, size: disk.Size}
	}
	return nil
}

func (d *createDraft) was(key string) (recordedDisk, bool) {
	i := slices.IndexFunc(d.record.Disks, func(r recordedDisk) bool { return r.Key == key })
	if i < 0 {
		return recordedDisk{}, false
	}
	return d.record.Disks[i], true
}

// begin makes the hidden folder.
func (d *createDraft) begin(ctx context.Context, journal hikae.Journal) (err error) {
	mark := newFootprint("").Mark
	d.temp = filepath.Join(filepath.Dir(d.final), "."+filepath.Base(d.final)+"."+mark+draftEnding)
	if err := os.MkdirAll(filepath.Dir(d.final), 0o755); err != nil {
		return err
	}
	d.settle = func(context.Context) error { return nil }
	if journal != nil {
		d.settle, err = journal.Intend(ctx, hikae.Effect{Kind: kindDraft, VM: d.vm.Name, Facts: map[string]string{"mark": mark, "folder": d.temp}})
		if err != nil {
			return err
		}
	}
	if err := os.Mkdir(d.temp, 0o700); err != nil {
		return errors.Join(err, d.settle(ctx))
	}
	return nil
}

// OpenDisk implements [hikae.Draft].
func (d *createDraft) OpenDisk(_ context.Context, key string) (pipe.Target, error) {
	c := d.disks[key]
	if c == nil || c.target != nil {
		return nil, fmt.Errorf("disk %q: %w", key, fs.ErrNotExist)
	}
	path := filepath.Join(d.temp, c.Path)
	var err error
	if c.Format == formatQcow2 {
		c.target, err = qcow2.Create(path, c.size, nil)
	} else {
		c.target, err = diskfile.Create(path, c.size, nil)
	}
	if err != nil {
		return nil, err
	}
	return c.target, nil
}

// Reread opens a disk that was committed.
func (d *createDraft) Reread(ctx context.Context, key string) (pipe.Image, error) {
	c := d.disks[key]
	if c == nil {
		return nil, fmt.Errorf("disk %q: %w", key, fs.ErrNotExist)
	}
	return imageFormats.Open(ctx, filepath.Join(d.temp, c.Path), c.Format, nil)
}

// Commit writes what starts the machine, and gives the folder its name.
func (d *createDraft) Commit(ctx context.Context) (string, error) {
	for key, c := range d.disks {
		if _, err := os.Stat(filepath.Join(d.temp, c.Path)); err != nil {
			return "", fmt.Errorf("disk %s was not written: %w", key, err)
		}
	}
	for _, step := range []func() error{d.writeConfig, d.writeScript, d.writeDomain, func() error { return syncDir(d.temp) }} {
		if err := step(); err != nil {
			return "", err
		}
	}
	if err := os.Remove(d.final); err != nil && !errors.Is(err, fs.ErrNotExist) { // it was empty
		return "", err
	}
	if err := os.Rename(d.temp, d.final); err != nil {
		return "", err
	}
	if err := syncDir(filepath.Dir(d.final)); err != nil {
		return "", err
	}
	err := d.settle(ctx)
	d.closed = err == nil
	return d.final, err
}

// Notes are what a person should know about the machine that was made.
func (d *createDraft) Notes() []string { return slices.Clone(d.notes) }

func (d *createDraft) writeConfig() error {
	for _, name := range slices.Sorted(maps.Keys(d.vm.Config)) {
		if !filepath.IsLocal(filepath.FromSlash(name)) || strings.ContainsAny(name, "\x00\\") {
			return fmt.Errorf("configuration %q makes no file name: %w", name, fs.ErrInvalid)
		}
		if err := d.write(filepath.Join("config", filepath.FromSlash(name)), d.vm.Config[name], 0o600); err != nil {
			return err
		}
	}
	for _, f := range d.firmware() {
		if err := d.write(filepath.FromSlash(f.Blob), d.vm.Config[f.Blob], 0o600); err != nil {
			return err
		}
	}
	return nil
}

// firmware are the variable stores that the point holds.
func (d *createDraft) firmware() (kept []recordedMemory) {
	for _, f := range d.record.Firmware {
		if _, ok := d.vm.Config[f.Blob]; ok && plainBlob(f.Blob) {
			kept = append(kept, f)
		}
	}
	return kept
}

func (d *createDraft) write(name string, content []byte, mode fs.FileMode) error {
	path := filepath.Join(d.temp, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return writeWhole(path, content, mode)
}

// place is where a file of the folder is in the end.
func (d *createDraft) place(name string) string {
	return filepath.Join(d.final, filepath.FromSlash(name))
}

// writeScript makes the script that starts the machine.
func (d *createDraft) writeScript() error {
	script, why := d.script()
	if script == nil {
		d.notes = append(d.notes, "no "+startScript+" was made: "+why)
		return nil
	}
	return d.write(startScript, script, 0o700)
}

// script is what starts the machine, nil with the reason where it cannot be known.
func (d *createDraft) script() (script []byte, why string) {
	line, ok := d.vm.Config["command-line"]
	if !ok || !d.recorded {
		return nil, "the point does not tell how the machine was started"
	}
	args, err := splitCommandLine(line)
	if err != nil {
		return nil, err.Error()
	}
	e := &commandEdit{record: d.record, args: args}
	e.clean()
	d.moveDisks(e)
	for _, f := range d.firmware() {
		if e.move(f.Path, d.place(f.Blob), "", "") {
			e.note("firmware variables: %s became %s", f.Path, d.place(f.Blob))
		} else {
			e.stop("the firmware's variables were in %s, which the command line does not name; they are in %s now", f.Path, d.place(f.Blob))
		}
	}
	for _, f := range d.record.Firmware {
		if _, kept := d.vm.Config[f.Blob]; !kept && e.mentions(f.Path) {
			e.stop("the firmware's variables are still in %s, which the old machine writes to: the point does not hold them", f.Path)
		}
	}
	e.rename(d.name)
	if len(e.stops) > 0 {
		d.notes = append(d.notes, startScript+" needs a person first, and says why")
	}
	return e.script(fmt.Sprintf("Starts %s from the disks in %s.", cmpOr(d.name, d.vm.Name), d.final)), ""
}

// moveDisks puts the restored disks in the place of the old. None that was restored may be started from its old file.
func (d *createDraft) moveDisks(e *commandEdit) {
	for _, was := range d.record.Disks {
		c, ok := d.disks[was.Key]
		if !ok {
			if was.Skip == skipReadOnly {
				e.note("disk %s is not part of what was restored: it still is %s, which is only read", was.Key, was.Path)
			} else if was.Path == "" || e.mentions(was.Path) {
				e.stop("disk %s is not part of what was restored: it still is %s, and this machine would write to it beside the old one", was.Key, was.Path)
			}
			continue
		}
		if was.Format != formatRaw && was.Format != formatQcow2 {
			e.stop("disk %s was a node of %q, which is not understood; it is %s in %s now", was.Key, was.Format, c.Format, d.place(c.Path))
		}
		format := ""
		if c.Format != was.Format {
			format = c.Format
		}
		to := d.place(c.Path)
		switch {
		case e.move(was.Path, to, was.Node, format) && !e.mentions(was.Path):
			e.alone(to, was.Node)
			e.note("disk %s: %s became %s", was.Key, was.Path, to)
		case e.mentions(was.Path):
			e.stop("disk %s was %s, which the command line names in a way that is not understood; it is %s now", was.Key, was.Path, to)
		case e.named(deviceID(was.Device)):
			e.stop("disk %s was in %s, which the command line does not name; it is %s now", was.Key, was.Path, to)
		default:
			e.add(was, to, c.Format)
		}
	}
	for key, c := range d.disks {
		if _, ok := d.was(key); !ok {
			e.stop("where disk %s was is not known; it is %s now", key, d.place(c.Path))
		}
	}
}

// named reports whether an argument gives a device this id.
func (e *commandEdit) named(id string) bool {
	return id != "" && slices.ContainsFunc(e.args, func(arg string) bool {
		return slices.Contains(splitOptions(arg), "id="+id) || strings.Contains(strings.ReplaceAll(arg, " ", ""), `"id":"`+id+`"`)
	})
}

// add adds a disk that was attached while the machine ran.
func (e *commandEdit) add(was recordedDisk, path, format string) {
	node := fmt.Sprintf("restored%d", len(e.args))
	e.args = append(e.args,
		"-blockdev", joinOptions([]string{"driver=file", "node-name=" + node + "f", "filename=" + path, "discard=unmap"}),
		"-blockdev", joinOptions([]string{"driver=" + format, "node-name=" + node, "file=" + node + "f", "discard=unmap"}),
		"-device", joinOptions([]string{"virtio-blk-pci", "drive=" + node, "serial=" + was.Key}))
	e.note("disk %s was attached while the machine ran; it is %s now, on a controller of its own", was.Key, path)
}

// writeDomain makes libvirt's description fit, where the machine was libvirt's.
func (d *createDraft) writeDomain() error {
	xml := d.vm.Config["domain-inactive.xml"]
	if len(xml) == 0 {
		xml = d.vm.Config["domain.xml"]
	}
	if len(xml) == 0 {
		return nil
	}
	text := string(xml)
	move := func(from, to string) bool {
		moved := text
		for _, quote := range []string{"'", `"`} {
			moved = strings.ReplaceAll(moved, "="+quote+escapeXML(from)+quote, "="+quote+escapeXML(to)+quote)
		}
		moved = strings.ReplaceAll(moved, ">"+escapeXML(from)+"<", ">"+escapeXML(to)+"<")
		hit := moved != text
		text = moved
		return hit
	}
	files := map[string]bool{}
	for _, was := range d.record.Disks {
		if c, ok := d.disks[was.Key]; ok {
			files[d.place(c.Path)] = true
		} else if was.Skip != skipReadOnly {
			d.notes = append(d.notes, fmt.Sprintf("domain.xml: disk %s is not part of what was restored, and still is %s: take it away before you define it", was.Key, was.Path))
		}
		if c, ok := d.disks[was.Key]; ok && (!move(was.Path, d.place(c.Path)) || c.Format != was.Format) {
			d.notes = append(d.notes, fmt.Sprintf("domain.xml: look at disk %s, which is %s now, before you define it", was.Key, d.place(c.Path)))
		}
	}
	for _, f := range d.firmware() {
		move(f.Path, d.place(f.Blob))
	}
	text, err := aloneInXML(text, files)
	if err != nil {
		d.notes = append(d.notes, fmt.Sprintf("domain.xml: take away backing files of disks before you define it: %v", err))
	}
	d.notes = append(d.notes, "for libvirt: virsh define "+d.place("domain.xml")+", where the old domain is gone or has another name and UUID")
	return d.write("domain.xml", []byte(text), 0o600)
}

func escapeXML(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&apos;", `"`, "&quot;").Replace(s)
}

// Close implements [hikae.Draft]: without a Commit, what was made goes.
func (d *createDraft) Close() error {
	if d.closed {
		return nil
	}
	d.closed = true
	var errs []error
	for _, c := range d.disks {
		if c.target != nil {
			errs = append(errs, c.target.Close())
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := os.RemoveAll(d.temp); err != nil {
		return errors.Join(append(errs, err)...)
	}
	return errors.Join(append(errs, d.settle(ctx))...)
}

// undoDraft removes the folder of a machine that was never whole.
func undoDraft(e hikae.Effect) error {
	mark, folder := e.Facts["mark"], e.Facts["folder"]
	if !validMark.MatchString(mark) || !filepath.IsAbs(folder) || !strings.HasSuffix(filepath.Base(folder), "."+mark+draftEnding) {
		return fmt.Errorf("effect %s of %s: %w: folder %q", e.ID, e.Kind, fs.ErrInvalid, folder)
	}
	return os.RemoveAll(folder)
}
