package vmware

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
)

// A VM is started from a restore point in these steps. No byte is copied: its disks are files of an export (package nfsserve).
//
//	everything is looked at: the record, where it goes, its networks, its name
//	the effect is written down, with a mark that follows from the export and the instance UUID that the VM will have
//	the export is mounted on the host, as the datastore hikae-MARK
//	the VM is made, off, marked as unfinished, with the export's files for its disks
//	the mark of an unfinished VM goes; another stays, by which the VM is found again
//	it is switched on
//
// Up to the last step whatever goes wrong takes all of it away again. From there on the guest writes, and nothing but Move and
// Stop ends that: a sweep that finds the effect of a dead session says which VM it is, and leaves it alone.

// NFSExport is a point's disks as files that a host mounts by NFS version 3: see package nfsserve.
type NFSExport struct {
	Address string            // of the machine that serves them, as the host reaches it: an IP address or a name
	Path    string            // that is mounted; who knows it gets in
	Files   map[string]string // descriptors at its top, by the disks' keys: "web1.vmdk"
}

// StartOptions change how a VM is started from an export. Zero fields but the export's are good defaults.
type StartOptions struct {
	Export  NFSExport // needed
	Journal hikae.Journal
	// Name of the VM. Empty: the one that it had.
	Name string
	// Home is the datastore of the VM's own files. Empty: that of the Restorer's options, else the export.
	Home string
	// Disconnected leaves the network cards of the VM there and unplugged. Otherwise they are plugged in as they were, on the
	// networks that the Restorer's options say.
	Disconnected bool
	// Off leaves the VM off.
	Off bool
	// MoveTo is the datastore that the VM is going to be moved to. Empty: none. One that its host does not have is found out
	// before anything is made.
	MoveTo string
	// Progress hears how far a move is, in percent. It may be called from another goroutine, by one at a time.
	Progress func(percent int32)
}

// keyStarted is a setting of a VM that stands on an export: the export's mark.
const (
	keyStarted = "hikae.start"
	kindStart  = "vmware.start"

	storePrefix   = "hikae-" // the name has 32 characters; hosts take 42
	maxExportPath = 1024
)

// markOf is how an export is known again: by its path, which stays with its folder, and cannot be told from it.
func markOf(path string) string {
	sum := sha256.Sum256([]byte("hikae start " + path))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:26]
}

// StartedError says that a VM runs, or is to run, from an export: it is left as it is.
type StartedError struct {
	VM        string // its reference
	Name      string
	Datastore string
	State     string // poweredOn, poweredOff, suspended
	Err       error  // why it is told; nil: because somebody looked
}

func (e *StartedError) Error() string {
	text := fmt.Sprintf("VM %s (%s, %s) was started from a restore point and stands on datastore %s, which is served from there; it was left as it is",
		e.Name, e.VM, e.State, e.Datastore)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}
func (e *StartedError) Unwrap() error { return e.Err }

// Hint is what a person can do about it.
func (e *StartedError) Hint() string {
	return "Serve its folder again, with the same command; then move the VM to another datastore, or stop it."
}

// Started is a VM that stands on an export. It is told as a story: Start or Resume, then Move or Stop, each of which may be
// called again. Its methods may be called at once, and wait for each other. Without them nothing is lost: the VM goes on for as
// long as the export is served, and waits while it is not.
type Started struct {
	// VM is its reference, Name its name, and Datastore that of the export.
	VM              types.ManagedObjectReference
	Name, Datastore string
	// Notes are what a person should know about it.
	Notes []string

	restorer *Restorer
	mark     string
	progress func(int32)
	settle   func(context.Context) error

	mu sync.Mutex
}

// starting is a VM that is being started.
type starting struct {
	*newVM
	opts StartOptions
	lost bool // the answer to the mount was not heard
}

// Start makes a VM from its record with the export's files for its disks, and switches it on. What the guest writes is the
// export's to keep; the point stays as it is. Where that export was started before and the VM is still there, it is a
// *StartedError: see [Restorer.Resume].
//
// On any error nothing is left, but for one that wraps a *StartedError: that names a VM that may run by now.
func (r *Restorer) Start(ctx context.Context, vm hikae.VM, opts *StartOptions) (*Started, error) {
	s, err := r.starting(vm, opts)
	if err != nil {
		return nil, fmt.Errorf("start a VM: %w", err)
	}
	if err := s.plan(ctx); err != nil {
		return nil, fmt.Errorf("start VM %q: %w", s.name, err)
	}
	if err := s.begin(ctx); err != nil {
		return nil, fmt.Errorf("start VM %q: %w", s.name, s.abandon(err))
	}
	if !s.opts.Off {
		if err := s.switchOn(ctx); err != nil {
			return nil, fmt.Errorf("start VM %q: %w", s.name, err)
		}
	}
	return &Started{VM: s.ref, Name: s.name, Datastore: storePrefix + s.mark, Notes: s.newVM.Notes(), restorer: r, mark: s.mark,
		progress: s.opts.Progress, settle: s.settle}, nil
}

func (o *StartOptions) check(disks []hikae.Disk) error {
	if o == nil || o.Export.Address == "" || len(o.Export.Address) > 253 || !strings.HasPrefix(o.Export.Path, "/") || len(o.Export.Path) > maxExportPath {
		return fmt.Errorf("the export's address or path is missing, or too long: %w", fs.ErrInvalid)
	}
	for _, d := range disks {
		name := o.Export.Files[d.Key]
		if name == "" || len(name) > 255 || strings.ContainsAny(name, "/\\[]") || strings.ContainsFunc(name, isControlRune) {
			return fmt.Errorf("disk %s: the export has no file for it (%.40q): %w", d.Key, name, fs.ErrInvalid)
		}
	}
	return nil
}

// starting is the restorer's machinery for a new VM, told where the disks are.
func (r *Restorer) starting(vm hikae.VM, opts *StartOptions) (*starting, error) {
	if err := opts.check(vm.Disks); err != nil {
		return nil, err
	}
	mark := markOf(opts.Export.Path)
	store := storePrefix + mark
	own := *r
	own.opts.Datastore, own.opts.DiskDatastores = cmp.Or(opts.Home, r.opts.Datastore, store), map[string]string{}
	own.opts.Provisioning, own.opts.EmptyDisks = Thin, false
	for _, d := range vm.Disks {
		own.opts.DiskDatastores[d.Key] = store
	}
	d := &newVM{restorer: &own, vm: vm, name: vm.Name, mark: mark, instance: newInstance(), disks: map[string]*newVMDisk{},
		journal: opts.Journal, files: maps.Clone(opts.Export.Files)}
	if opts.Name != "" {
		d.name = opts.Name
	}
	return &starting{newVM: d, opts: *opts}, nil
}

// plan looks at everything and touches nothing.
func (s *starting) plan(ctx context.Context) (err error) {
	d := s.newVM
	if err := errors.Join(checkName(d.name), checkDisks(d.vm)); err != nil {
		return err
	}
	if len(d.vm.Disks) == 0 {
		return fmt.Errorf("it has no disks: %w", fs.ErrInvalid)
	}
	if d.was, err = readRecord(d.vm.Config); err != nil {
		return err
	}
	if d.where, err = d.restorer.place(ctx, d.vm); err != nil {
		return err
	}
	if s.opts.MoveTo != "" {
		if _, err := d.where.store(s.opts.MoveTo); err != nil {
			return err
		}
	}
	d.folder = d.where.folder.ref
	if err := s.unknown(ctx); err != nil {
		return err
	}
	if _, taken, err := d.restorer.client.byName(ctx, d.folder, d.name); err != nil {
		return err
	} else if taken {
		return fmt.Errorf("%s has something of that name: %w", d.where.folder.name, fs.ErrExist)
	}
	d.where.stores = append(d.where.stores, mo.Datastore{Summary: types.DatastoreSummary{Name: storePrefix + d.mark, Accessible: true, FreeSpace: math.MaxInt64}})
	if err := d.planHardware(ctx); err != nil {
		return err
	}
	s.cards()
	d.spec.ExtraConfig = append(slices.Clone(d.spec.ExtraConfig), &types.OptionValue{Key: keyStarted, Value: d.mark})
	return nil
}

// unknown refuses an export that a VM stands on already, or that is still mounted from before: the host would write to files
// that another one has open.
func (s *starting) unknown(ctx context.Context) error {
	store, err := s.restorer.client.exported(ctx, s.mark)
	if err != nil || store == nil {
		return err
	}
	d := s.where
	d.stores = slices.DeleteFunc(d.stores, func(m mo.Datastore) bool { return m.Self == store.Self })
	m, err := s.restorer.client.startedOn(ctx, store, s.mark)
	if err != nil || m == nil {
		return err
	}
	return startedError(m, store.Summary.Name, nil)
}

func startedError(m *machine, store string, err error) *StartedError {
	return &StartedError{VM: m.Self.Value, Name: m.Name, Datastore: store, State: string(m.Runtime.PowerState), Err: err}
}

// cards unplugs the network cards, or says that they are plugged in.
func (s *starting) cards() {
	n := 0
	for _, c := range s.spec.DeviceChange {
		card, ok := c.GetVirtualDeviceConfigSpec().Device.(types.BaseVirtualEthernetCard)
		if !ok {
			continue
		}
		n++
		if s.opts.Disconnected {
			card.GetVirtualEthernetCard().Connectable = &types.VirtualDeviceConnectInfo{AllowGuestControl: true}
		}
	}
	switch {
	case n == 0:
	case s.opts.Disconnected:
		s.notes = append(s.notes, fmt.Sprintf("its %d network cards are unplugged: plug them in when it is to be reached", n))
	default:
		s.notes = append(s.notes, fmt.Sprintf("its %d network cards are plugged in: where the VM that it was made from runs too, both have the same addresses in their guests", n))
	}
}

// begin writes down what is going to happen, mounts, and makes the VM whole, but does not switch it on.
func (s *starting) begin(ctx context.Context) (err error) {
	d, c := s.newVM, s.restorer.client
	d.settle, err = intend(ctx, d.journal, c.effect(kindStart, d.vm.Name, map[string]string{
		"mark": d.mark, "uuid": d.instance, "folder": d.folder.Value, "name": d.name,
	}))
	if err != nil {
		return err
	}
	if err := s.mount(ctx); err != nil {
		return err
	}
	if err := d.make(ctx, s.unfinishedSpec()); err != nil {
		return err
	}
	if d.machine, err = c.machine(ctx, d.ref); err != nil {
		return err
	}
	if err := d.matchDisks(); err != nil {
		return err
	}
	if d.restorer.opts.KeepIdentity {
		d.keepDiskIDs(ctx)
	}
	if nvram := recordedNVRAM(d.vm.Config); nvram != nil {
		d.putNVRAM(ctx, nvram)
	}
	return d.seal(ctx)
}

// noOwnFiles are the disks that were made with a VM which has only those of an export: whoever destroys it detaches them before.
const noOwnFiles = "-"

func (s *starting) unfinishedSpec() types.VirtualMachineConfigSpec {
	spec, off := s.spec, false
	spec.InstanceUuid, spec.ChangeTrackingEnabled = s.instance, &off
	spec.Annotation = unfinishedLine(s.mark) + spec.Annotation
	spec.ExtraConfig = append(slices.Clone(spec.ExtraConfig),
		&types.OptionValue{Key: keyUnfinished, Value: s.mark}, &types.OptionValue{Key: keyFiles, Value: noOwnFiles})
	return spec
}

// switchOn starts the guest. Where it cannot be told whether it runs, it stays.
func (s *starting) switchOn(ctx context.Context) error {
	c := s.restorer.client
	err := s.restorer.powerOn(ctx, s.ref, s.name)
	if err == nil {
		return nil
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), newCleanup)
	defer cancel()
	m, lookErr := c.machine(end, s.ref)
	var open *InterruptedError
	under := errors.As(err, &open) && open.State != types.TaskInfoStateError
	if lookErr == nil && !under && m.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOff {
		return s.abandon(err)
	}
	if lookErr != nil {
		return &StartedError{VM: s.ref.Value, Name: s.name, Datastore: storePrefix + s.mark, State: "its state is not known", Err: errors.Join(err, lookErr)}
	}
	return startedError(m, storePrefix+s.mark, err)
}

// abandon takes everything away again.
func (s *starting) abandon(cause error) error {
	s.closed = true
	if s.settle == nil {
		return cause
	}
	ctx, cancel := context.WithTimeout(context.Background(), newCleanup)
	defer cancel()
	c := s.restorer.client
	err := c.destroyUnfinished(ctx, s.unfinished())
	if err == nil && s.ref.Value != "" {
		err = c.discardStarted(ctx, s.ref, s.mark)
	}
	if err == nil {
		err = c.unmount(ctx, s.mark)
	}
	if err != nil {
		return errors.Join(cause, fmt.Errorf("take it away again: %w", err))
	}
	if s.unheard || s.lost { // it may yet come: a sweep looks again
		return cause
	}
	return errors.Join(cause, s.settle(ctx))
}
