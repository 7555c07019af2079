package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/bars"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/diskvm"
	"github.com/hikae/hikae/kvm"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/qcow2"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/vmware/vmdk"
)

// restoreFlags are what is restored, and where to.
type restoreFlags struct {
	*access
	disks   []string
	to      string
	format  string
	salvage bool
	inPlace bool
	force   bool
	files   []string
	volume  string
	over    string   // name of the VM that is to be written over, where the server told it
	onto    []string // keys of its disks, where keys are not given anew
	names   []string // of VMs that are there, where several may have one name
}

func (t *tool) restoreCommand() *cobra.Command {
	f := &restoreFlags{}
	cmd := &cobra.Command{
		Use:   "restore --repo REPO POINT --to PATH",
		Short: "Bring a restore point back",
		Long: text(`
Write the disks of a restore point to files.

POINT is an id, the first digits of one, VM@latest, or VM@latest~N for the Nth before it. PATH is a file for one disk, or
a folder (one that exists, or that ends in /), which gets KEY.FORMAT for each disk and the VM's configuration in config/.
The format is taken from PATH's ending unless it is given. Files appear under their names when they are whole, and what
exists is replaced only with --force.

--file takes single files out of the guest's file systems, without mounting anything: PATH is then a folder, in which
they get the paths that they have in the guest. See hikae ls and hikae find.

--in-place writes over an existing raw file or block device of the same size. There is no way back from it.

--to kvm:///FOLDER/ makes a VM of QEMU again: its disks, and start.sh, which starts it as it was started. --to
kvm:///run/web1.qmp --in-place writes over the disks of that VM, which must be off: only what differs is written, and its
next backup is incremental as before. Its disks are where they were when the point was made, or where &disk=KEY=FILE
says. If it is interrupted, the disks are known to be broken until a restore in place comes to its end.

--to 'vsphere://USER@HOST/?name=web1-again&datastore=fast1' makes a VM of vSphere from its recorded configuration; where
nothing is said, things are where they were. --to 'vsphere://USER@HOST/?vm=web1' --in-place writes over the disks of a VM
that is off. docs/vmware.md has all that can be said after the question mark. The password is in HIKAE_SOURCE_PASSWORD.

--to 'hyperv://USER@HOST/?name=web1-again&path=D:\VMs' makes a VM of Hyper-V, and 'hyperv://USER@HOST/?vm=web1' --in-place
writes over the disks of one that is off; see docs/hyperv.md.

Every block is checked when it is read. Damage that cannot be repaired ends the restore with exit status 4, and leaves no
file; --salvage goes on, leaves zeros there, lists the holes and ends with exit status 3.`),
		Example: example(`
hikae restore --repo /backup/hikae web1@latest --to /vm/web1.qcow2
hikae restore --repo /backup/hikae web1@latest~1 --to /restore/web1/
hikae restore --repo /backup/hikae web1@latest --file /etc/nginx --file '*.sql' --to /restore/files
hikae restore --repo /backup/hikae 3fa81c --disk data --to /vm/data.raw
hikae restore --repo /backup/hikae web1@latest --in-place --to /dev/vg0/web1
hikae restore --repo /backup/hikae web1@latest --to kvm:///vm/web1-again/
hikae restore --repo /backup/hikae web1@latest --to 'vsphere://backup@vcenter.example.org/?name=web1-again&datastore=fast1'
hikae restore --repo /backup/hikae web1@latest --to 'hyperv://backup@hv1.example.org/?name=web1-again'
hikae restore --repo /backup/hikae web1@latest~1 --to kvm:///run/web1.qmp --in-place`),
		Args: want("POINT"),
	}
	f.access = repoFlags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.to, "to", "", "`PATH` of a file or folder, or a kvm://, vsphere:// or hyperv:// URL (required)")
	flags.StringArrayVar(&f.disks, "disk", nil, "only the disk with this `KEY`; may repeat")
	flags.StringVar(&f.format, "format", "", "`FORMAT` of the files: raw, qcow2, vmdk, vhdx or vhd (default: by PATH's ending, else raw)")
	flags.BoolVar(&f.salvage, "salvage", false, "go on where the point is damaged, and list the holes")
	flags.BoolVar(&f.inPlace, "in-place", false, "write over the existing raw file or block device at PATH, or the disks of a VM that is off")
	flags.StringArrayVar(&f.files, "file", nil, "only the guest's files and folders that match `GLOB`, into the folder PATH; may repeat")
	flags.StringVar(&f.volume, "volume", "", "with --file: look on the volume with this `NAME`, as `hikae ls POINT` lists it")
	flags.BoolVar(&f.force, "force", false, "replace what exists; in place: also what QEMU has open")
	if err := cmd.MarkFlagRequired("to"); err != nil {
		panic(err) // the flag is defined just above
	}
	completeWith(cmd, "format", "raw", "qcow2", "vmdk", "vhdx", "vhd")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		if len(f.files) > 0 {
			return t.restoreFiles(ctx, f, args[0])
		}
		return t.restore(ctx, f, args[0])
	})
	return cmd
}

func (t *tool) restore(ctx context.Context, f *restoreFlags, spec string) (*reply, error) {
	target, name := f.to, ""
	restorer, err := f.restorer(ctx)
	if err == nil && f.toVSphere() {
		restorer, target, name, err = f.vsphereRestorer(ctx, t)
	}
	if err == nil && f.toHyperV() {
		restorer, target, name, err = f.hypervRestorer(ctx, t)
	}
	if err != nil {
		return nil, err
	}
	sessions, err := t.sessions()
	if err != nil {
		return nil, err
	}
	r, err := t.open(ctx, f.access, false) // a lease keeps the point from being pruned away meanwhile
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if err := errors.Join(r.ownName(spec), r.readable()); err != nil {
		return nil, err
	}
	journal, err := t.journal(ctx, r)
	if err != nil {
		return nil, err
	}
	defer journal.Close()
	point, err := findPoint(ctx, r, f.repo, spec)
	if err != nil {
		return nil, err
	}
	if err := f.checkDisks(point); err != nil {
		return nil, err
	}
	if err := errors.Join(f.sameVM(point), f.freeName(cmp.Or(name, point.VM))); err != nil {
		return nil, err
	}
	if f.toKVM() {
		if restorer, target, err = f.kvmRestorer(ctx, r, point); err != nil {
			return nil, err
		}
	}
	progress := t.bars()
	current := &currentDisk{next: progress}
	opts := &job.RestoreOptions{Disks: f.disks, Name: name, Overwrite: f.force, Salvage: f.salvage, Sessions: sessions,
		Journal: journal, Events: current.event}
	if f.inPlace {
		opts.InPlace = target
	}
	result, err := job.Restore(ctx, r, point, restorer, opts)
	progress.Close()
	return f.restored(result, r.said, current.key, err)
}

// currentDisk remembers which disk was being written when a restore failed.
type currentDisk struct {
	next *bars.Bars
	key  string
}

func (c *currentDisk) event(e job.Event) {
	if started, ok := e.(job.DiskStarted); ok {
		c.key = started.Key
	}
	c.next.Event(e)
}

// restoreDoc is what restore prints for scripts: the result, whose holes always say of which file they are.
type restoreDoc struct {
	job.RestoreResult
	Holes []holeDoc `json:"holes"`
}

type holeDoc struct {
	Disk   string `json:"disk"`
	Offset int64  `json:"offset"`
	Length int64  `json:"length"`
	File   string `json:"file"` // the guest's file; empty where it is not known
}

func restoreDocument(r job.RestoreResult) restoreDoc {
	doc := restoreDoc{RestoreResult: r, Holes: []holeDoc{}}
	for _, h := range r.Holes {
		doc.Holes = append(doc.Holes, holeDoc(h))
	}
	return doc
}

// restored is what a restore leaves. One that met damage has a document too: it says where, and that no disk is there.
func (f *restoreFlags) restored(result job.RestoreResult, heard *said, disk string, err error) (*reply, error) {
	result.Started = result.Started.UTC()
	toPrint := result.Warnings
	result.Warnings = heard.onto(result.Warnings)
	left := &reply{doc: restoreDocument(result), warnings: toPrint, notes: result.Notes,
		text: func(w *show.Printer) error { return printRestore(w, result) }}
	if len(result.Warnings) > 0 || len(result.Holes) > 0 {
		left.status = outcome.Warned
	}
	if err == nil {
		return left, nil
	}
	err = &outcome.Error{Err: err, Place: f.repo, Hint: f.hint(err)}
	if outcome.Of(err).Status() != outcome.Damaged {
		return nil, err
	}
	result.Disks = []job.RestoredDisk{}
	if at, ok := errors.AsType[*repo.RangeError](err); ok { // the first one; a salvage finds them all
		result.Holes = append(result.Holes, job.Hole{Disk: disk, Offset: at.Off, Length: at.Len})
	}
	left.doc, left.text = restoreDocument(result), nil
	return left, err
}

func (f *restoreFlags) hint(err error) string {
	if f.toVSphere() {
		return vsphereRestoreHint(err)
	}
	if f.toHyperV() {
		return hypervRestoreHint(err)
	}
	if running, ok := errors.AsType[*kvm.RunningError](err); ok {
		return running.Hint()
	}
	if _, ok := errors.AsType[*kvm.IncompleteError](err); ok {
		return "Do not start the VM. Run the command again, or restore another point in place."
	}
	if _, ok := errors.AsType[*repo.ErrCorrupt](err); ok && !f.salvage {
		return fmt.Sprintf("No file was left. Try `hikae verify --repo %s --repair`, then this again; --salvage restores what is whole.", f.repo)
	}
	return ""
}

func printRestore(w *show.Printer, r job.RestoreResult) error {
	if err := w.Printf("%s  point %s  %s\n\n", w.Bold(outcome.Clean(r.VM)), r.Point, show.Seconds(r.Seconds)); err != nil {
		return err
	}
	table := show.NewTable("DISK", ">SIZE", ">WRITTEN", ">RATE")
	for _, d := range r.Disks {
		table.Row(d.Key, show.Size(d.Size), show.Size(d.Written), show.Rate(d.Size, d.Seconds))
	}
	if err := table.Print(w); err != nil {
		return err
	}
	if len(r.Holes) > 0 {
		if err := printHoles(w, r.Holes); err != nil {
			return err
		}
	}
	to := outcome.Clean(r.ID)
	if where := r.Where.String(); where != "" {
		to += ": " + outcome.Clean(where)
	}
	return w.Printf("\nrestored to %s\n", to)
}

func printHoles(w *show.Printer, holes []job.Hole) error {
	table := show.NewTable("HOLE IN", ">OFFSET", ">LENGTH", "FILE")
	for i, h := range holes {
		if i == maxListed {
			table.Row(fmt.Sprintf("… and %d more, see --json", len(holes)-i))
			break
		}
		table.Row(h.Disk, fmt.Sprint(h.Offset), fmt.Sprint(h.Length), h.File)
	}
	if err := w.Printf("\n"); err != nil {
		return err
	}
	return table.Print(w)
}

// diskFormats are the formats of disk files that are read and written.
func diskFormats() diskfile.Formats {
	return diskfile.Formats{qcow2.Format(nil, nil), vmdk.Format(nil, nil), vhdx.Format(nil, nil), vhdx.VHDFormat(nil, nil), diskfile.Raw()}
}

func (f *restoreFlags) restorer(ctx context.Context) (hikae.Restorer, error) {
	if f.toKVM() || f.toVSphere() || f.toHyperV() {
		return nil, nil // the point is asked for the VM's disks first, or the server for its VMs
	}
	if scheme, _, ok := strings.Cut(f.to, "://"); ok {
		return nil, &outcome.Error{Kind: outcome.KindUsage, Object: f.to,
			Text: fmt.Sprintf("restoring to %s:// is not there yet", scheme), Hint: "Name a file or a folder."}
	}
	if f.inPlace {
		if err := f.checkInPlace(ctx); err != nil {
			return nil, err
		}
	}
	return diskvm.NewRestorer(f.to, &diskvm.RestorerOptions{Format: f.format, Force: f.force, Formats: diskFormats()})
}

// checkInPlace refuses what cannot be written over byte by byte. A disk in another format than raw would be destroyed.
func (f *restoreFlags) checkInPlace(ctx context.Context) error {
	if f.format != "" && f.format != "raw" {
		return outcome.Usage("Without --in-place a new file is made.", "--in-place writes raw disks, not %s", f.format)
	}
	fi, err := os.Stat(f.to)
	if errors.Is(err, fs.ErrNotExist) {
		return &outcome.Error{Object: f.to, Text: "--in-place", Err: err, Hint: "Without --in-place a new file is made."}
	}
	if err != nil {
		return err
	}
	if fi.IsDir() {
		return outcome.Usage("Name the file or block device of one disk.", "--in-place: %s is a folder", f.to)
	}
	format, err := diskFormats().Detect(ctx, f.to)
	if err != nil {
		return err
	}
	if format.Name() != "raw" {
		return outcome.Usage("Restore to a new file, and put that in its place.", "--in-place: %s is a %s image; only raw disks are written over", f.to, format.Name())
	}
	return nil
}

// checkDisks finds out early what would be refused late.
func (f *restoreFlags) checkDisks(p pipe.PointInfo) error {
	have, keys, shown := map[string]bool{}, []string{}, []string{}
	for _, d := range p.Disks {
		have[d.Key] = true
		keys, shown = append(keys, d.Key), append(shown, diskWithPlace(p, d.Key))
	}
	for i, key := range f.disks {
		if at, ok := diskAtPlace(p, key); ok && !have[key] {
			f.disks[i], key = at, at
		}
		if !have[key] {
			return &outcome.Error{Kind: outcome.KindNotFound, Object: key, Text: fmt.Sprintf("the point has no disk %q", key),
				Hint: "It has " + strings.Join(shown, ", ") + "."}
		}
	}
	if f.inPlace && !f.toKVM() && !f.toVSphere() && !f.toHyperV() && len(f.disks) != 1 && len(p.Disks) != 1 {
		return outcome.Usage("Choose one with --disk: "+strings.Join(keys, ", ")+".", "--in-place writes one disk, the point has %d", len(p.Disks))
	}
	return nil
}

// diskAtPlace is the key of the disk that was in a place such as scsi0-1, as a Hyper-V VM's point tells.
func diskAtPlace(p pipe.PointInfo, place string) (key string, ok bool) {
	for _, d := range p.Disks {
		if at, _, _ := strings.Cut(p.Facts["disk."+d.Key], " "); at != "" && at == place {
			return d.Key, true
		}
	}
	return "", false
}

// diskWithPlace is a disk's key, and where it was.
func diskWithPlace(p pipe.PointInfo, key string) string {
	if at := p.Facts["disk."+key]; at != "" {
		return key + " (" + outcome.Clean(at) + ")"
	}
	return key
}

// missingHint tells where the names of points are to be had.
func missingHint(err error, place string) string {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("`hikae points --repo %s` lists what is there.", place)
	}
	return ""
}
