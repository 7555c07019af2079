package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
)

// A new VM is made in these steps. Until it is realized nobody can start it, and until it is sealed its notes bear a mark, by
// which a later session knows that it may destroy it.
//
//	everything is looked at: the record, the host, the folder, switches, room
//	the effect is written down, with the mark, the folder and all files that there will be
//	the folder is made, and a file with the mark in it
//	a planned VM is defined: settings, memory, processors, controllers, drives, network cards; the host validates it
//	each disk is written into a file of its own
//	the files are put into the drives; the host validates the VM again, and realizes it
//	the mark goes from its notes, then the file with the mark: it is whole
//	it is started, where that was asked for

// newVM is a VM that is being made. It is a job.Noter and a job.Rereader.
type newVM struct {
	restorer *Restorer
	host     *Host
	store    Store
	vm       hikae.VM
	name     string
	journal  hikae.Journal

	rec    *record
	spec   *spec
	b      *builder
	plugs  []*netSwitch
	folder *newFolder
	imp    *imported // nil: it is defined from its settings
	disks  map[string]*newVMDisk
	notes  []string
	settle func(context.Context) error
	sealed bool
	closed bool
}

// newVMDisk is one disk of it.
type newVMDisk struct {
	hikae.Disk
	file   string
	place  string
	drive  cim.Ref
	opts   vhdx.CreateOptions
	target pipe.Target
	whole  bool
}

// Create implements [hikae.Restorer]. The VM is described by settings.json in vm.Config; where that is missing, because another
// hypervisor or another procedure recorded it, it gets plain hardware. The id that Commit returns is the VM's GUID, which is new: names
// need not be unique. Overwrite changes nothing: a VM is replaced by writing over its disks, see [Restorer.InPlace], or by a
// person who destroys it first. Nothing is written, and no VM made, where this is an error.
func (r *Restorer) Create(ctx context.Context, vm hikae.VM, opts *hikae.RestoreOptions) (hikae.Draft, error) {
	d := &newVM{restorer: r, vm: vm, name: vm.Name, disks: map[string]*newVMDisk{}}
	if opts != nil {
		d.journal = opts.Journal
		if opts.Name != "" {
			d.name = opts.Name
		}
	}
	mark := newMark()
	if err := d.plan(ctx, mark); err != nil {
		return nil, fmt.Errorf("new VM %.100q: %w", d.name, err)
	}
	if err := d.begin(ctx, mark); err != nil {
		return nil, fmt.Errorf("new VM %q: %w", d.name, errors.Join(err, d.Close()))
	}
	return d, nil
}

const maxVMName = 100 // characters that Hyper-V allows

// plan looks at everything and touches nothing.
func (d *newVM) plan(ctx context.Context, mark string) (err error) {
	if n := len([]rune(d.name)); n == 0 || n > maxVMName || strings.ContainsFunc(d.name, func(r rune) bool { return r < ' ' }) {
		return fmt.Errorf("%w: a VM's name has 1 to %d characters", fs.ErrInvalid, maxVMName)
	}
	r := d.restorer
	if d.rec, err = readRecord(d.vm.Config); err != nil {
		return err
	}
	if d.spec, err = specOf(d.rec, &r.opts, d.vm.Facts); err != nil {
		return err
	}
	d.spec.system.Set("ElementName", d.name)
	if d.host, err = r.hostFor(ctx); err != nil {
		return err
	}
	if d.spec.generation == 2 && d.host.info.Build < build2012R2 {
		return fmt.Errorf("the VM is of generation 2, which host %s (%s) does not run: %w", d.host.info.Name, d.host.info.OS, errors.ErrUnsupported)
	}
	there, err := d.host.switches(ctx)
	if err != nil {
		return err
	}
	var notes []string
	if d.plugs, notes, err = r.plugs(there, d.rec.cards); err != nil {
		return err
	}
	d.notes = slices.Concat(d.spec.notes, notes, d.rec.notesOf())
	if d.store, err = r.site.Store(ctx, d.host); err != nil {
		return err
	}
	home, err := r.homeOf(ctx, d.host, d.rec, d.vm.Name)
	if err != nil {
		return err
	}
	if d.folder, err = folderFor(ctx, d.store, home, d.name, mark); err != nil {
		return err
	}
	if r.site.inOne {
		d.notes = append(d.notes, fmt.Sprintf("the VM is on node %s alone: make it a role of the cluster where it is to be highly available", d.host.info.Name))
	}
	if err := d.planDisks(); err != nil {
		return err
	}
	d.notes = append(d.notes, d.missing()...)
	if d.planImport(); d.imp == nil && d.rec.tpm() {
		d.notes = append(d.notes, "the VM's virtual TPM is not brought back: what its guest sealed to it, as BitLocker does, asks for its recovery key; "+
			"a TPM can be enabled anew, by a key protector of a guardian that the host knows")
	}
	return d.room(ctx)
}

// notesOf are what of a record is not brought back.
func (r *record) notesOf() (notes []string) {
	for _, what := range r.untold {
		notes = append(notes, "not recorded, as its host did not tell: "+what)
	}
	for _, class := range slices.Sorted(maps.Keys(r.others)) {
		notes = append(notes, fmt.Sprintf("not brought back: %s (%d)", class, r.others[class]))
	}
	for _, d := range r.drives {
		if d.in.Class == classResource && !d.cd && d.file == "" {
			notes = append(notes, fmt.Sprintf("the drive at %s was empty, and is not brought back", d.place))
		}
	}
	return notes
}

// planDisks chooses a file and a place for each disk.
func (d *newVM) planDisks() error {
	if len(d.vm.Disks) == 0 {
		return fmt.Errorf("it has no disks: %w", fs.ErrInvalid)
	}
	names, places := map[string]bool{}, map[string]bool{}
	for i, want := range d.vm.Disks {
		if _, twice := d.disks[want.Key]; twice || want.Size <= 0 || want.Key == "" {
			return fmt.Errorf("disk %.60q of %d bytes: %w", want.Key, want.Size, fs.ErrInvalid)
		}
		k := &newVMDisk{Disk: want}
		if was := d.rec.driveOf(d.vm, want.Key); was != nil && !places[was.place] {
			k.place = was.place
		} else if place, _ := diskFact(d.vm, want.Key); placeWord(place) && d.rec.system == nil && !places[place] && (d.spec.generation == 1 || strings.HasPrefix(place, "scsi")) {
			k.place = place
		}
		if k.place != "" {
			places[k.place] = true
		} else if d.rec.system != nil {
			d.notes = append(d.notes, fmt.Sprintf("where disk %s was attached is not known: it is at the next free place", want.Key))
		}
		_, file := diskFact(d.vm, want.Key)
		name := diskName(file, i)
		for n := 2; names[strings.ToLower(name)]; n++ {
			name = fmt.Sprintf("%s_%d.vhdx", strings.TrimSuffix(diskName(file, i), ".vhdx"), n)
		}
		names[strings.ToLower(name)] = true
		k.file = d.folder.path + folderDisks + `\` + name
		if err := d.planFile(k, file); err != nil {
			return err
		}
		d.disks[want.Key] = k
		d.folder.files = append(d.folder.files, k.file)
	}
	return nil
}

// missing are the disks that the VM had and that are not brought back: whoever asked for some of them gets a VM that may not start.
func (d *newVM) missing() (notes []string) {
	for _, fact := range slices.Sorted(maps.Keys(d.vm.Facts)) {
		key, ok := strings.CutPrefix(fact, "disk.")
		if !ok || d.disks[key] != nil {
			continue
		}
		place, file := diskFact(d.vm, key)
		notes = append(notes, fmt.Sprintf("disk %s (%s, %s) is not in what is restored: the new VM does not have it", key, place, file))
	}
	return notes
}

// planFile says how a disk's file is made.
func (d *newVM) planFile(k *newVMDisk, was string) error {
	r := d.restorer
	if r.opts.Provisioning == FixedDisks || r.opts.Provisioning == AsRecorded && d.vm.Facts[factType+k.Key] == "fixed" {
		k.opts.Type = vhdx.Fixed
	}
	if text := d.vm.Facts[factSector+k.Key]; text != "" {
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil || n != 512 && n != 4096 {
			return fmt.Errorf("disk %s: sectors of %.20q bytes: %w", k.Key, text, fs.ErrInvalid)
		}
		k.opts.SectorSize = n
	}
	if formatOf(was, 0) == FormatVHD {
		d.notes = append(d.notes, fmt.Sprintf("disk %s was a VHD, and is a VHDX", k.Key))
	}
	if isGUID(k.Key) && !r.opts.NewIDs {
		id, err := vhdx.ParseGUID(k.Key)
		if err != nil {
			return err
		}
		k.opts.DiskID = id
	}
	return nil
}

// diskName is what a disk's file is called: as it was, without what a checkpoint added to that.
func diskName(was string, n int) string {
	name := fileName(was)
	dot := strings.LastIndexByte(name, '.')
	if dot <= 0 || formatOf(was, 0) == "" {
		return fmt.Sprintf("disk_%d.vhdx", n+1)
	}
	ending := strings.ToLower(name[dot+1:])
	name = name[:dot]
	if i := strings.LastIndexByte(name, '_'); i > 0 && strings.HasPrefix(ending, "a") && isGUID(name[i+1:]) {
		name = name[:i]
	}
	if name = folderName(strings.TrimSuffix(name, "-AutoRecovery")); name == "" {
		return fmt.Sprintf("disk_%d.vhdx", n+1)
	}
	return name + ".vhdx"
}

// room refuses where fixed disks cannot fit, and tells where others could grow to more than there is.
func (d *newVM) room(ctx context.Context) error {
	free, err := d.store.Free(ctx, d.folder.path)
	if err != nil {
		return fmt.Errorf("free space of %s: %w", d.folder.path, err)
	}
	var fixed, all int64
	for _, k := range d.disks {
		if all += k.Size; k.opts.Type == vhdx.Fixed {
			fixed += k.Size
		}
	}
	if fixed > free {
		return &RoomError{Folder: d.folder.path, Need: fixed, Free: free}
	}
	if all > free {
		d.notes = append(d.notes, fmt.Sprintf("the VM's disks can grow to %d bytes, and %s had %d free", all, d.folder.path, free))
	}
	return nil
}

// begin writes down what is going to happen, and makes the planned VM.
func (d *newVM) begin(ctx context.Context, mark string) (err error) {
	facts := d.folder.facts()
	maps.Copy(facts, map[string]string{"what": restoresNew, "mark": mark, "name": d.name})
	if d.imp != nil {
		more, err := d.imp.facts(ctx, d.host)
		if err != nil {
			return err
		}
		maps.Copy(facts, more)
	}
	if d.settle, err = d.restorer.intend(ctx, d.journal, d.host, d.vm.Name, facts); err != nil {
		return err
	}
	d.b = &builder{h: d.host, mark: mark}
	if err := d.makeFolder(ctx); err != nil {
		return err
	}
	if err := d.makeVM(ctx, atTop(d.recordedNotes(), newNoteOf(mark, restoresNew).String())); err != nil {
		return err
	}
	if err := d.b.hardware(ctx, d.spec); err != nil {
		return err
	}
	if err := d.drives(ctx); err != nil {
		return err
	}
	if err := d.cards(ctx); err != nil {
		return err
	}
	return d.b.validate(ctx)
}

// makeVM makes the planned VM, with its mark.
func (d *newVM) makeVM(ctx context.Context, notes []string) error {
	if d.imp != nil {
		return d.importVM(ctx, notes)
	}
	note, err := d.b.define(ctx, d.spec, d.folder.path, notes)
	if note != "" {
		d.notes = append(d.notes, note)
	}
	return err
}

// makeFolder makes the VM's folder, and the file with the mark before anything else.
func (d *newVM) makeFolder(ctx context.Context) error {
	if err := d.store.MakeDir(ctx, d.folder.path); err != nil {
		return err
	}
	text := "A restore of hikae makes a VM in this folder, and has not ended. It removes this file when the VM is whole.\r\n"
	if err := putFile(ctx, d.store, d.folder.marker(), []byte(text)); err != nil {
		return err
	}
	return d.store.MakeDir(ctx, d.folder.path+folderDisks)
}

// recordedNotes are those of the VM, without what older restores left in them.
func (d *newVM) recordedNotes() []string {
	if d.rec.system == nil {
		return nil
	}
	var was struct {
		Notes []string `cim:"Notes"`
	}
	if d.rec.system.Decode(&was) != nil {
		return nil
	}
	return withoutLines(was.Notes, func(line string) bool {
		return isUnfinishedLine(line) || isRestoredLine(line) || goodMark.MatchString(strings.TrimSpace(line))
	})
}

// drives adds controllers and drives as they were: those of disks first, since a host starts VMs from what was added first.
func (d *newVM) drives(ctx context.Context) (err error) {
	keep := map[string]bool{}
	for _, k := range d.disks {
		keep[k.place] = k.place != ""
	}
	for _, was := range d.rec.drives {
		keep[was.place] = keep[was.place] || was.cd
	}
	for _, want := range d.vm.Disks {
		k := d.disks[want.Key]
		if k.place == "" {
			k.place = d.b.free(d.spec.generation, keep)
		}
		if k.drive, err = d.b.drive(ctx, k.place, false); err != nil {
			return err
		}
	}
	for _, was := range d.rec.drives {
		if !was.cd || d.b.taken[was.place] {
			continue
		}
		if _, err := d.b.drive(ctx, was.place, true); err != nil {
			return err
		}
	}
	return nil
}

func (d *newVM) cards(ctx context.Context) error {
	for i, c := range d.rec.cards {
		mac := ""
		if !d.restorer.opts.NewIDs {
			var note string
			var err error
			if mac, note, err = d.host.macOf(ctx, c); err != nil {
				return err
			}
			if note != "" {
				d.notes = append(d.notes, note)
			}
		}
		note, err := d.b.card(ctx, c, mac, d.plugs[i])
		if err != nil {
			return err
		}
		if note != "" {
			d.notes = append(d.notes, note)
		}
	}
	return nil
}

// OpenDisk implements [hikae.Draft]. The file is a disk only after its Commit.
func (d *newVM) OpenDisk(ctx context.Context, key string) (pipe.Target, error) {
	k := d.disks[key]
	if k == nil {
		return nil, fmt.Errorf("disk %q: %w", key, fs.ErrNotExist)
	}
	if k.target != nil {
		return nil, fmt.Errorf("disk %s: it is open already: %w", key, fs.ErrExist)
	}
	f, err := d.store.Create(ctx, k.file)
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", key, err)
	}
	t, err := vhdx.CreateOn(ctx, f, k.Size, k.file, &k.opts)
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", key, err)
	}
	k.target = &freshDisk{Target: t, whole: func() { k.whole = true }}
	return k.target, nil
}

// Reread opens a disk that was committed.
func (d *newVM) Reread(ctx context.Context, key string) (pipe.Image, error) {
	k := d.disks[key]
	if k == nil || !k.whole {
		return nil, fmt.Errorf("disk %q: %w", key, fs.ErrNotExist)
	}
	img, err := vhdx.OpenIn(ctx, d.store, k.file, nil)
	if err != nil {
		return nil, err
	}
	return img, nil
}

// Where implements job.Located.
func (d *newVM) Where() (name, host, folder string) { return d.name, d.host.info.Name, d.folder.path }

// Notes are what a person should know about the VM that was made.
func (d *newVM) Notes() []string { return slices.Clone(d.notes) }

// Commit makes the VM whole. Where it is whole and could not be started, that is a *PowerOnError, with the VM's id.
func (d *newVM) Commit(ctx context.Context) (string, error) {
	for _, want := range d.vm.Disks {
		if !d.disks[want.Key].whole {
			return "", fmt.Errorf("disk %s was not written to its end: %w", want.Key, fs.ErrInvalid)
		}
	}
	for _, want := range d.vm.Disks {
		k := d.disks[want.Key]
		if err := d.b.attach(ctx, k.drive, k.file); err != nil {
			return "", err
		}
	}
	if err := d.b.validate(ctx); err != nil {
		return "", err
	}
	if err := d.b.realize(ctx); err != nil {
		return "", err
	}
	id := strings.ToLower(d.b.set.VM)
	if d.imp != nil {
		if err := d.clearImport(ctx); err != nil {
			return "", err
		}
	}
	if err := d.seal(ctx); err != nil {
		return "", err
	}
	d.closed = true
	if err := d.store.Remove(ctx, d.folder.marker()); err != nil { // a sweep would, and nothing else
		d.notes = append(d.notes, fmt.Sprintf("file %s is to be removed: %v", d.folder.marker(), err))
	} else if err := d.settle(ctx); err != nil {
		return id, err
	}
	if d.restorer.opts.PowerOn {
		return id, d.restorer.powerOn(ctx, d.host, id, d.name)
	}
	return id, nil
}

// seal takes the mark away.
func (d *newVM) seal(ctx context.Context) error {
	err := d.host.noted(ctx, d.b.set.ID, withoutLines(d.b.set.Notes, isUnfinishedLine))
	if err != nil {
		found, look := d.host.bearing(ctx, d.b.mark)
		if look != nil || len(found) > 0 {
			return errors.Join(fmt.Errorf("seal VM %s: %w", d.b.set.VM, err), look)
		}
	}
	d.sealed = true
	return nil
}

// Close implements [hikae.Draft]: without a Commit, the VM is destroyed, and its files go.
func (d *newVM) Close() error {
	if d.closed {
		return nil
	}
	d.closed = true
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(d.disks)) {
		if t := d.disks[key].target; t != nil {
			errs = append(errs, t.Close())
		}
	}
	if d.settle == nil || d.sealed {
		return errors.Join(errs...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanLimit)
	defer cancel()
	if err := d.host.destroyMarked(ctx, d.folder.mark); err != nil {
		return errors.Join(append(errs, fmt.Errorf("destroy VM %q, which is not whole: %w", d.name, err))...)
	}
	err := error(nil)
	if d.imp != nil {
		err = destroyFresh(ctx, d.host, map[string]string{"imports": d.imp.was, "there": strings.Join(d.imp.there, "\n")})
	}
	if err := errors.Join(err, d.folder.clear(ctx, d.host, d.store)); err != nil {
		return errors.Join(append(errs, err)...)
	}
	return errors.Join(append(errs, d.settle(ctx))...)
}
