package vmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware/nfsserve"
	"github.com/hikae/hikae/vmware/vmwaretest"
)

// exporter serves a point as a datastore, as the tool does, until it is closed; its folder stays.
type exporter struct {
	*lab
	folder string
	point  pipe.PointInfo
	server *nfsserve.Server
	port   int
	images []pipe.Image
	ended  chan error
	end    context.CancelFunc
	files  map[string]string
}

func (l *lab) export(point, folder string) *exporter {
	l.Helper()
	info, err := job.FindPoint(l.Context(), l.repo, point)
	require.NoError(l, err)
	e := &exporter{lab: l, folder: folder, point: info, files: map[string]string{}}
	e.serve()
	l.Cleanup(e.close)
	return e
}

func (e *exporter) serve() {
	e.Helper()
	var disks []nfsserve.Disk
	for i, d := range e.point.Disks {
		img, err := e.repo.Open(e.Context(), e.point.ID, d.Key)
		require.NoError(e, err)
		e.images = append(e.images, img)
		name := fmt.Sprintf("disk%d", i)
		e.files[d.Key] = name + ".vmdk"
		disks = append(disks, nfsserve.Disk{Name: name, Image: img, Identity: e.point.ID + "/" + d.Key})
	}
	var err error
	e.server, err = nfsserve.New(disks, &nfsserve.Options{Folder: e.folder, Async: true, LeastFree: 1})
	require.NoError(e, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(e, err)
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(e, err)
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(e, err)
	e.port, err = strconv.Atoi(port)
	require.NoError(e, err)
	ctx, cancel := context.WithCancel(context.Background())
	e.end, e.ended = cancel, make(chan error, 2)
	go func() { e.ended <- e.server.Portmap(ctx, conn, uint16(e.port)) }()
	go func() { e.ended <- e.server.Serve(ctx, listener) }()
	e.lab.server.AskPortMapper(conn.LocalAddr().String())
}

func (e *exporter) close() {
	if e.server == nil {
		return
	}
	e.end()
	require.NoError(e, e.server.Close())
	require.NoError(e, errors.Join(<-e.ended, <-e.ended))
	for _, img := range e.images {
		require.NoError(e, img.Close())
	}
	e.server, e.images = nil, nil
}

func (e *exporter) options() *StartOptions {
	return &StartOptions{Export: NFSExport{Address: "127.0.0.1", Path: e.server.Path(), Files: e.files}, Name: "again"}
}

// vm is what a point says of its VM.
func (e *exporter) vm() hikae.VM {
	vm := hikae.VM{Name: e.point.VM, Facts: e.point.Facts, Config: e.blobs(e.point.ID)}
	for _, d := range e.point.Disks {
		vm.Disks = append(vm.Disks, hikae.Disk{Key: d.Key, Size: d.Size})
	}
	return vm
}

func (e *exporter) start(ctx context.Context, c *Client, o *StartOptions) (*Started, error) {
	e.Helper()
	j, err := hikae.OpenFileJournal(e.journal)
	require.NoError(e, err)
	e.Cleanup(func() { require.NoError(e, j.Close()) }) // its effects are not those of a dead session until then
	o.Journal = j
	r, err := NewRestorer(c, nil)
	require.NoError(e, err)
	s, err := r.Start(ctx, e.vm(), o)
	if err != nil {
		require.NoError(e, j.Close())
	}
	return s, err
}

// started are the disks of the new VM, by their files' names.
func (l *lab) started() (disks []*vmwaretest.Disk) {
	l.Helper()
	vm := l.server.VM("again")
	require.NotNil(l, vm)
	disks = vm.Disks()
	slices.SortFunc(disks, func(a, b *vmwaretest.Disk) int { return strings.Compare(a.File(), b.File()) })
	return disks
}

func (e *exporter) content(i int) []byte {
	e.Helper()
	img, err := e.repo.Open(e.Context(), e.point.ID, e.point.Disks[i].Key)
	require.NoError(e, err)
	p := make([]byte, img.Size())
	if _, err = img.ReadAt(e.Context(), p, 0); err != io.EOF {
		require.NoError(e, err)
	}
	require.NoError(e, img.Close())
	return p
}

func (l *lab) reads(d *vmwaretest.Disk, want []byte) {
	l.Helper()
	got, err := d.Read(0, int(d.Size()))
	require.NoError(l, err)
	require.True(l, slices.Equal(want, got))
}

func startLab(t *testing.T) (*lab, *exporter) {
	l := newLab(t, vmwaretest.Options{VMs: 1, DisksPerVM: 2, Datastores: 2, DiskBytes: 2 << 20})
	res := l.point(nil)
	return l, l.export(res.Point, t.TempDir())
}

// A VM is started from a point, reads it and writes beside it, also over a restart of the server, and is moved to a real
// datastore with what it wrote. The point stays what it was, and nothing is left that needs the export.
func TestStartAndMove(t *testing.T) {
	l, e := startLab(t)
	o := e.options()
	o.Progress = func(int32) {}
	s, err := e.start(t.Context(), l.client, o)
	require.NoError(t, err)
	require.Contains(t, strings.Join(s.Notes, "\n"), "plugged in")
	require.True(t, l.server.VM("again").PoweredOn())
	require.Equal(t, l.server.VM("again").Ref(), s.VM)
	want := [][]byte{e.content(0), e.content(1)}
	for i, d := range l.started() {
		require.Contains(t, d.File(), "["+s.Datastore+"] disk")
		l.reads(d, want[i])
	}
	kept := [][]byte{slices.Clone(want[0]), slices.Clone(want[1])}

	write := func(off int, text string) {
		for i, d := range l.started() {
			copy(want[i][off:], text)
			require.NoError(t, d.Write(int64(off), []byte(text)))
			l.reads(d, want[i])
		}
	}
	write(4000, "the guest was here")
	_, err = e.start(t.Context(), l.client, e.options())
	var again *StartedError
	require.ErrorAs(t, err, &again)
	require.Equal(t, s.VM.Value, again.VM)

	e.close() // a command that ends leaves the guest waiting
	e.serve()
	write(1<<20, "and after a restart")
	for i := range want {
		require.True(t, slices.Equal(kept[i], e.content(i)), "the point changed")
	}

	r, err := NewRestorer(l.connectToo(), nil)
	require.NoError(t, err)
	s, err = r.Resume(t.Context(), e.options())
	require.NoError(t, err)
	to := l.server.VM("web0").Disk(0).File()
	store := datastoreOf(to)
	require.ErrorIs(t, s.Move(t.Context(), s.Datastore), fs.ErrInvalid)
	require.ErrorIs(t, s.Move(t.Context(), "nowhere"), fs.ErrNotExist)
	require.NoError(t, s.Move(t.Context(), store))
	e.close()
	for i, d := range l.started() {
		require.Equal(t, store, datastoreOf(d.File()))
		l.reads(d, want[i])
		require.NoError(t, d.Write(0, []byte("moved")))
	}
	require.NoError(t, s.Move(t.Context(), store), "once more is no harm")
	require.NoError(t, s.Stop(t.Context()), "and a VM that was moved is not stopped")
	require.True(t, l.server.VM("again").PoweredOn())
	require.Empty(t, l.leftovers())
	_, err = r.Resume(t.Context(), &StartOptions{Export: o.Export})
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func (l *lab) connectToo() *Client {
	c := l.connect()
	l.Cleanup(func() { require.NoError(l, c.Close(context.WithoutCancel(l.Context()))) })
	return c
}

// A VM that is stopped leaves nothing but the folder, from which it can be started again with what it wrote.
func TestStartAndStop(t *testing.T) {
	for _, home := range []string{"", "own"} {
		t.Run("home "+home, func(t *testing.T) {
			l, e := startLab(t)
			o := e.options()
			o.Disconnected = true
			if home != "" {
				o.Home = datastoreOf(l.vm().Disk(0).File())
			}
			s, err := e.start(t.Context(), l.client, o)
			require.NoError(t, err)
			m, err := l.client.machine(t.Context(), s.VM)
			require.NoError(t, err)
			for _, d := range m.Config.Hardware.Device {
				if card, ok := d.(types.BaseVirtualEthernetCard); ok {
					require.False(t, card.GetVirtualEthernetCard().Connectable.StartConnected)
				}
			}
			require.NoError(t, l.started()[0].Write(100, []byte("stays")))
			require.NoError(t, s.Stop(t.Context()))
			require.NoError(t, s.Stop(t.Context()))
			require.Empty(t, l.leftovers())
			require.Nil(t, l.server.VM("again"))

			s, err = e.start(t.Context(), l.client, o)
			require.NoError(t, err)
			got, err := l.started()[0].Read(100, 5)
			require.NoError(t, err)
			require.Equal(t, "stays", string(got))
			require.NoError(t, s.Stop(t.Context()))
			require.Empty(t, l.leftovers())
		})
	}
}

// startCalls are the calls that a start makes and that can go wrong.
var startCalls = []string{"CreateContainerView", "FindChild", "CreateNasDatastore", "CreateVM_Task", "ReconfigVM_Task", "PowerOnVM_Task"}

// Whatever call of a start fails, before or after it was carried out, nothing is left on the server or in the journal.
func TestStartFailing(t *testing.T) {
	l, e := startLab(t)
	for _, call := range startCalls {
		faults := []vmwaretest.Fault{{Fault: &types.HostConfigFault{}}}
		if strings.HasSuffix(call, "_Task") {
			faults = append(faults, vmwaretest.Fault{Fault: &types.SystemError{}, InTask: true})
		}
		for _, f := range faults {
			f.Method = call
			l.server.Fail(f)
			_, err := e.start(t.Context(), l.client, e.options())
			require.Error(t, err, call)
			require.Empty(t, l.leftovers(), "%s, in task: %v", call, f.InTask)
			l.server.Heal()
		}
	}
	wrong := e.options()
	wrong.Export.Path += "0"
	_, err := e.start(t.Context(), l.client, wrong)
	var mount *MountError
	require.ErrorAs(t, err, &mount)
	s, err := e.start(t.Context(), l.client, e.options())
	require.NoError(t, err)
	require.NoError(t, s.Stop(t.Context()))
	l.clean()
}

// A start whose caller goes away at any call leaves nothing, or a VM that is told and found again.
func TestStartCancelled(t *testing.T) {
	l, e := startLab(t)
	for _, call := range append(slices.Clone(startCalls), "FindByUuid", "RetrievePropertiesEx") {
		for skip := range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			l.server.Fail(vmwaretest.Fault{Method: call, Skip: skip, Delay: 60 * time.Millisecond})
			stop := time.AfterFunc(40*time.Millisecond, cancel)
			s, err := e.start(ctx, l.client, e.options())
			stop.Stop()
			cancel()
			l.server.Heal()
			var told *StartedError
			if err == nil {
				require.NoError(t, s.Stop(t.Context()))
			} else if errors.As(err, &told) {
				r, newErr := NewRestorer(l.client, nil)
				require.NoError(t, newErr)
				s, err = r.Resume(t.Context(), e.options())
				require.NoError(t, err)
				require.NoError(t, s.Stop(t.Context()))
			}
			require.Empty(t, l.leftovers(), "%s %d: %v", call, skip, err)
		}
	}
}

// What a killed command leaves is taken away where it is half made, and told where it runs; a sweep after that settles it.
func TestStartKilled(t *testing.T) {
	l, e := startLab(t)
	j, err := hikae.OpenFileJournal(l.journal)
	require.NoError(t, err)
	defer j.Close()
	for _, step := range []string{"intended", "mounted", "made"} {
		dead := l.connect()
		s, err := (&Restorer{client: dead}).starting(e.vm(), e.options())
		require.NoError(t, err)
		s.journal = neverDone{j}
		require.NoError(t, s.plan(t.Context()))
		if step != "made" {
			s.settle, err = intend(t.Context(), s.journal, dead.effect(kindStart, "x", map[string]string{"mark": s.mark, "uuid": s.instance, "folder": s.folder.Value, "name": s.name}))
			require.NoError(t, err)
		}
		switch step {
		case "mounted":
			require.NoError(t, s.mount(t.Context()))
		case "made":
			s.unfinishedAt(t)
		}
		require.NoError(t, dead.Close(context.WithoutCancel(t.Context())))
		require.NoError(t, j.Close())
		require.Positive(t, l.sweep(), step)
		require.Empty(t, l.leftovers(), step)
		j, err = hikae.OpenFileJournal(l.journal)
		require.NoError(t, err)
	}

	s, err := (&Restorer{client: l.client}).Start(t.Context(), e.vm(), &StartOptions{Export: e.options().Export, Name: "again", Journal: neverDone{j}})
	require.NoError(t, err)
	require.NoError(t, l.started()[0].Write(0, []byte("precious")))
	require.NoError(t, j.Close())
	err = l.trySweep()
	var told *StartedError
	require.ErrorAs(t, err, &told)
	require.Equal(t, s.VM.Value, told.VM)
	require.True(t, l.server.VM("again").PoweredOn())
	require.NoError(t, s.Stop(t.Context()))
	l.clean0()
}

// unfinishedAt begins, and stops when the VM is made and not whole.
func (s *starting) unfinishedAt(t *testing.T) {
	var err error
	s.settle, err = intend(t.Context(), s.journal, s.restorer.client.effect(kindStart, "x", map[string]string{"mark": s.mark, "uuid": s.instance, "folder": s.folder.Value, "name": s.name}))
	require.NoError(t, err)
	require.NoError(t, s.mount(t.Context()))
	require.NoError(t, s.make(t.Context(), s.unfinishedSpec()))
}

// neverDone is the journal of a session that is going to die.
type neverDone struct{ *hikae.FileJournal }

func (j neverDone) Intend(ctx context.Context, e hikae.Effect) (func(context.Context) error, error) {
	_, err := j.FileJournal.Intend(ctx, e)
	return func(context.Context) error { return nil }, err
}

func (l *lab) trySweep() error {
	l.Helper()
	j, err := hikae.OpenFileJournal(l.journal)
	require.NoError(l, err)
	defer func() { require.NoError(l, j.Close()) }()
	p, err := New(l.client, nil, nil)
	require.NoError(l, err)
	_, err = j.Sweep(l.Context(), map[string]hikae.Sweeper{"vmware.": p}, nil)
	return err
}

// clean0: the sweep after the end settles what is left in the journal.
func (l *lab) clean0() {
	l.Helper()
	require.NoError(l, l.trySweep())
	l.clean()
}

// What is not whole in the options is refused before anything is looked at.
func TestStartOptions(t *testing.T) {
	disks := []hikae.Disk{{Key: "a", Size: 512}}
	good := StartOptions{Export: NFSExport{Address: "h", Path: "/p", Files: map[string]string{"a": "a.vmdk"}}}
	require.NoError(t, good.check(disks))
	for what, change := range map[string]func(o *StartOptions){
		"address": func(o *StartOptions) { o.Export.Address = "" },
		"path":    func(o *StartOptions) { o.Export.Path = "p" },
		"long":    func(o *StartOptions) { o.Export.Path = "/" + strings.Repeat("p", maxExportPath) },
		"file":    func(o *StartOptions) { o.Export.Files = nil },
		"outside": func(o *StartOptions) { o.Export.Files = map[string]string{"a": "../a.vmdk"} },
		"bracket": func(o *StartOptions) { o.Export.Files = map[string]string{"a": "] a.vmdk"} },
	} {
		o := good
		change(&o)
		require.ErrorIs(t, o.check(disks), fs.ErrInvalid, what)
	}
	require.ErrorIs(t, (*StartOptions)(nil).check(nil), fs.ErrInvalid)
	require.Regexp(t, goodMark, markOf("/p"))
	require.NotEqual(t, markOf("/p"), markOf("/q"))
}
