package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware"
	"github.com/hikae/hikae/vmware/nfsserve"
)

// vsphereStartFlags are what is started, where, and what becomes of it.
type vsphereStartFlags struct {
	nfsFlags
	to, address, moveTo     string
	stop, off, disconnected bool
}

func (t *tool) vsphereStartCommand() *cobra.Command {
	f := &vsphereStartFlags{}
	cmd := &cobra.Command{
		Use:   "start --repo REPO POINT --to vsphere://USER@HOST/?… --folder FOLDER --address ADDRESS --client ADDRESS",
		Short: "Start a VM from a restore point at once, on an ESXi host",
		Long: text(`
Start a virtual machine from a restore point on an ESXi host without restoring it first. Its disks are served to the host
by NFS version 3, as 'hikae serve nfs' does, and what the guest writes goes into FOLDER; the restore point stays as it is.
--to says where the VM is made, as for a new VM of 'hikae restore': &name=, &host=, &network=OLD=NEW and so on; &datastore=
is for its own files alone. --address is this machine as the host reaches it, and --client the host as it comes here.

With --move-to the VM is moved to a datastore of the host while it runs; then nothing needs Hikae any more, and the command
ends with 0. That takes a vCenter Server with a licence for Storage vMotion; with --off before the move the VM is off.
Without --move-to the command stays. It ends by itself where somebody else moves the VM, or removes it.

Nothing is lost whoever is killed. If this command is, or Ctrl-C ends it, the VM stays switched on, and waits where it
reads or writes; the same command again, with the same FOLDER, serves it again, and goes on with the point that it was
started from. A start that was not finished is taken away by the next command. --stop switches the VM off as if its power
failed, unregisters it and unmounts FOLDER, where everything that the guest wrote stays.

NFS knows machines and no users, and everything goes over the wire in the clear: use a network that is trusted. Ports 111
and 2049 need root. No ESXi host has been met yet, only our own fake of one.

When the VM runs the command prints one line of JSON:

  {"serving": FOLDER, "point": ID, "vm": REFERENCE, "name": NAME, "datastore": NAME}`),
		Example: example(`
hikae vsphere start --repo /backup/hikae web1@latest --to 'vsphere://root@esx1.example.org/?name=web1-now' --folder /var/lib/hikae/web1 --address 192.0.2.5 --client 192.0.2.11
hikae vsphere start --repo /backup/hikae web1@latest --to 'vsphere://backup@vcenter.example.org/?host=esx1' --folder /var/lib/hikae/web1 --address 192.0.2.5 --client 192.0.2.11 --move-to fast1
hikae vsphere start --repo /backup/hikae web1@latest --to 'vsphere://root@esx1.example.org/' --folder /var/lib/hikae/web1 --address 192.0.2.5 --client 192.0.2.11 --stop`),
		Args: want("POINT"),
	}
	f.access = repoFlags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.to, "to", "", "`ADDRESS` of the server, and where the VM is made (required)")
	flags.StringVar(&f.folder, "folder", "", "`FOLDER` for what the guest writes (required)")
	flags.StringVar(&f.address, "address", "", "`ADDRESS` of this machine, as the host reaches it (required)")
	flags.StringArrayVar(&f.clients, "client", nil, "`ADDRESS` of the host, or ADDRESS/BITS; may repeat (default: this machine alone)")
	flags.StringVar(&f.listen, "listen", ":2049", "`HOST:PORT`, with port 0 for a free one")
	flags.StringVar(&f.portmap, "port-mapper", ":111", "`HOST:PORT` where hosts ask for the port; empty: nowhere")
	flags.BoolVar(&f.async, "async", false, "answer writes before they are durable: faster, and a crash of this machine loses the last of them")
	flags.StringVar(&f.moveTo, "move-to", "", "move the VM to this `DATASTORE`, and end")
	flags.BoolVar(&f.stop, "stop", false, "switch off, unregister and unmount what was started in FOLDER, and end")
	flags.BoolVar(&f.off, "off", false, "do not switch the VM on")
	flags.BoolVar(&f.disconnected, "no-network", false, "leave the VM's network cards unplugged: the VM that it was made from may run too")
	for _, name := range []string{"to", "folder", "address"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flags are defined just above
		}
	}
	cmd.MarkFlagsMutuallyExclusive("move-to", "stop")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.vsphereStart(ctx, f, args[0]) })
	return cmd
}

func (t *tool) vsphereStart(ctx context.Context, f *vsphereStartFlags, spec string) (left *reply, err error) {
	clients, err := nfsserve.Allowed(f.clients)
	if err != nil {
		return nil, outcome.Usage("For instance --client 192.0.2.11, or --client 192.0.2.0/24.", "--client: %v", err)
	}
	if !isVSphere(f.to) {
		return nil, outcome.Usage("For instance --to 'vsphere://root@esx1.example.org/?name=web1-now'.", "--to %s is no address of vSphere", f.to)
	}
	r, err := t.open(ctx, f.access, false) // a lease keeps the point for as long as it is served
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := r.readable(); err != nil {
		return nil, err
	}
	point, err := f.point(ctx, t, r, spec)
	if err != nil {
		return nil, err
	}
	exports, closeAll, err := f.exports(ctx, r, point, keysOf(point))
	defer func() { err = errors.Join(err, closeAll()) }()
	if err != nil {
		return nil, err
	}
	config, err := job.PointConfig(ctx, r, point)
	if err != nil {
		return nil, about(f.repo, "configuration of "+point.VM, err)
	}
	disks, doc := nfsDisks(point, exports, config)
	server, err := nfsserve.New(disks, &nfsserve.Options{Folder: f.folder, Clients: clients, Async: f.async})
	if err != nil {
		return nil, &outcome.Error{Object: f.folder, Err: err, Hint: overlayHint(err)}
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	if err := f.remember(point); err != nil {
		return nil, err
	}
	down, ended, err := f.up(ctx, server)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, down()) }()

	to := &restoreFlags{to: f.to}
	restorer, _, name, err := to.vsphereRestorer(ctx, t)
	if err != nil {
		return nil, err
	}
	journal, err := t.journal(ctx, r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, journal.Close()) }()
	opts := &vmware.StartOptions{Export: vmware.NFSExport{Address: f.address, Path: server.Path(), Files: map[string]string{}},
		Journal: journal, Name: name, Disconnected: f.disconnected, Off: f.off || f.stop}
	for _, d := range doc.Disks {
		opts.Export.Files[d.Key] = d.File
	}
	return f.run(ctx, t, restorer.(*vmware.Restorer), machineOf(point, config), opts, ended)
}

func keysOf(p pipe.PointInfo) (keys []string) {
	for _, d := range p.Disks {
		keys = append(keys, d.Key)
	}
	return keys
}

// machineOf is what a point says of its VM.
func machineOf(p pipe.PointInfo, config map[string][]byte) hikae.VM {
	vm := hikae.VM{Name: p.VM, Facts: p.Facts, Config: config}
	for _, d := range p.Disks {
		vm.Disks = append(vm.Disks, hikae.Disk{Key: d.Key, Size: d.Size})
	}
	return vm
}

// pointFile holds, in the folder, which point was started there: what the guest wrote fits no other.
const pointFile = "point"

func (f *vsphereStartFlags) point(ctx context.Context, t *tool, r *opened, spec string) (pipe.PointInfo, error) {
	data, err := os.ReadFile(filepath.Join(f.folder, pointFile))
	id := strings.TrimSpace(string(data[:min(len(data), 256)]))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return findPoint(ctx, r, f.repo, spec)
	case err != nil:
		return pipe.PointInfo{}, err
	}
	p, err := findPoint(ctx, r, f.repo, id)
	if err == nil && !strings.HasPrefix(id, spec) {
		t.tell("note: %s: going on with point %.12s of %s, which was started there", f.folder, p.ID, p.VM)
	}
	return p, err
}

func (f *vsphereStartFlags) remember(p pipe.PointInfo) error {
	name := filepath.Join(f.folder, pointFile)
	if err := os.WriteFile(name+".tmp", []byte(p.ID+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(name+".tmp", name)
}

// up serves, until down is called: longer than ctx, because what is taken back is taken back from a host that has it mounted.
func (f *vsphereStartFlags) up(ctx context.Context, server *nfsserve.Server) (down func() error, ended <-chan error, err error) {
	l, err := net.Listen("tcp", f.listen)
	if err != nil {
		return nil, nil, &outcome.Error{Object: f.listen, Err: err, Hint: nfsHint(err)}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	out := make(chan error, 2)
	running := 1
	if f.portmap != "" {
		conn, err := net.ListenPacket("udp", f.portmap)
		if err != nil {
			cancel()
			l.Close()
			return nil, nil, &outcome.Error{Object: f.portmap, Err: err, Hint: nfsHint(err)}
		}
		running++
		go func() { out <- server.Portmap(ctx, conn, uint16(l.Addr().(*net.TCPAddr).Port)) }()
	}
	go func() { out <- server.Serve(ctx, l) }()
	heard := make(chan error, 1) // the first that ends
	done := make(chan error, 1)
	go func() {
		first := <-out
		heard <- first
		if running == 2 {
			first = errors.Join(first, <-out)
		}
		done <- first
	}()
	return func() error {
		cancel()
		return <-done
	}, heard, nil
}

// vsphereStartedDoc is the line that says that the VM is there.
type vsphereStartedDoc struct {
	Serving   string `json:"serving"`
	Point     string `json:"point"`
	VM        string `json:"vm"`
	Name      string `json:"name"`
	Datastore string `json:"datastore"`
}

func (f *vsphereStartFlags) run(ctx context.Context, t *tool, r *vmware.Restorer, vm hikae.VM, opts *vmware.StartOptions, ended <-chan error) (*reply, error) {
	bars := t.bars()
	defer bars.Close()
	opts.MoveTo = f.moveTo
	opts.Progress = func(percent int32) { bars.Set(f.moveTo, int64(percent), 100) }
	s, err := r.Resume(ctx, opts)
	switch absent := errors.Is(err, fs.ErrNotExist); {
	case absent && f.stop:
		return &reply{notes: []string{"nothing that was started from " + f.folder + " is there any more"}}, nil
	case absent:
		s, err = r.Start(ctx, vm, opts)
	case err == nil:
		t.tell("note: going on with VM %s (%s)", s.Name, s.VM.Value)
	}
	if err != nil {
		return nil, f.explain(err)
	}
	for _, note := range s.Notes {
		t.tell("note: %s", note)
	}
	if f.stop {
		if err := s.Stop(ctx); err != nil {
			return nil, f.explain(err)
		}
		return &reply{notes: []string{fmt.Sprintf("VM %s is stopped and unregistered; what its guest wrote is in %s", s.Name, f.folder)}}, nil
	}
	if err := f.say(t, s); err != nil {
		return nil, err
	}
	if f.moveTo != "" {
		err = s.Move(ctx, f.moveTo)
		if err == nil {
			return &reply{notes: []string{fmt.Sprintf("VM %s is on %s, and nothing of it is served any more", s.Name, f.moveTo)}}, nil
		}
	} else {
		err = f.stay(ctx, s, ended)
		if err == nil {
			return &reply{notes: []string{fmt.Sprintf("VM %s does not need %s any more: it was moved or removed", s.Name, f.folder)}}, nil
		}
	}
	if context.Cause(ctx) == errInterrupted {
		return &reply{status: outcome.Interrupted, warnings: []string{fmt.Sprintf(
			"VM %s is still there, and waits where it reads or writes; the same command goes on with it, and with --stop ends it", s.Name)}}, nil
	}
	return nil, f.explain(err)
}

func (f *vsphereStartFlags) say(t *tool, s *vmware.Started) error {
	folder, err := filepath.Abs(f.folder)
	if err != nil {
		return err
	}
	point, err := os.ReadFile(filepath.Join(f.folder, pointFile))
	if err != nil {
		return err
	}
	line, err := json.Marshal(vsphereStartedDoc{folder, strings.TrimSpace(string(point)), s.VM.Value, s.Name, s.Datastore})
	if err == nil {
		_, err = t.stdout.Write(append(line, '\n'))
	}
	return err
}

// standsEvery is how often the server is asked whether the VM still needs the export.
const standsEvery = 15 * time.Second

// stay returns when the VM does not need the export any more. What happens to the connection to vSphere is no reason to end.
func (f *vsphereStartFlags) stay(ctx context.Context, s *vmware.Started, ended <-chan error) error {
	tick := time.NewTicker(standsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			return errors.Join(errors.New("the NFS server ended"), err)
		case <-tick.C:
			if stands, err := s.Stands(ctx); err == nil && !stands {
				return s.Move(ctx, "") // there is nothing to move: what is left is unmounted
			}
		}
	}
}

func (f *vsphereStartFlags) explain(err error) error {
	hint := vsphereRestoreHint(err)
	var mount *vmware.MountError
	var started *vmware.StartedError
	switch {
	case errors.As(err, &mount):
		hint = "The host has to reach --address at UDP port 111 and at the port of --listen, and has to come from an address of --client."
	case errors.As(err, &started):
		hint = "The same command again goes on with it, and with --stop ends it."
	case errors.Is(err, fs.ErrExist):
		hint = "Give it another name by &name=."
	}
	return &outcome.Error{Object: f.folder, Err: err, Hint: hint}
}
