package kvm

import (
	"context"
	"errors"
	"fmt"
	picture "image"
	"image/png"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/qga"
	"github.com/hikae/hikae/kvm/qmp"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/nbd"
)

// KindBoot is the kind of the effect of a machine that is booted to be thrown away: its folder, and the QEMU that has it.
const KindBoot = "kvm.boot"

// BootOptions change how a machine is booted from a point to be looked at and thrown away. Nil and zero fields are good defaults.
type BootOptions struct {
	// Config and Facts are what was recorded of the machine; what is not known of it has a default, and Mapping says so.
	Config map[string][]byte
	Facts  map[string]string

	QEMU     string // the program. Empty: qemu-system-x86_64
	Accel    string // "kvm", "tcg". Empty: kvm where this machine has it, else tcg, which emulates and takes ten times as long or more
	MemoryMB int64  // zero: as recorded, else 2048
	CPUs     int    // zero: as recorded, at most 4, else 2
	Firmware string // "bios", "efi". Empty: as recorded, else bios
	Bus      string // of its disks: "virtio", "sata". Empty: virtio where it was recorded on QEMU, else sata
	// Options are further ones for QEMU, behind ours: a kernel to boot, or a CPU model.
	Options []string

	Folder  string // in which a folder is made for its overlays and sockets, with a short path. Empty: the system's for temporary files
	Ports   []int  // TCP ports of the guest that can be reached from this machine; no other way leads in, and none out
	Journal hikae.Journal
}

// Booted is a machine that runs from a point, cut off from every network: what it writes goes to overlays that go with it. It ends when
// the process that started it does, however that ends.
type Booted struct {
	opts    BootOptions
	dir     string
	done    func(context.Context) error
	plan    bootPlan
	files   []string
	closer  []func() error
	process *bootProcess
	agent   *qga.Client
	ended   chan struct{}

	looking, reading, dialing sync.Mutex
	printed                   string // at the serial port, the last of it
}

// Boot starts a machine from a point. On error nothing of it is left. Errors of options are fs.ErrInvalid.
func Boot(ctx context.Context, backend pipe.Backend, point pipe.PointInfo, opts *BootOptions) (*Booted, error) {
	b := &Booted{done: func(context.Context) error { return nil }, ended: make(chan struct{})}
	if opts != nil {
		b.opts = *opts
	}
	var err error
	if b.plan, err = planBoot(&b.opts); err != nil {
		return nil, err
	}
	if len(point.Disks) == 0 {
		return nil, fmt.Errorf("point %s has no disks: %w", point.ID, fs.ErrInvalid)
	}
	if err := b.start(ctx, backend, point); err != nil {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("boot point %s: %w", point.ID, err), b.Close(end))
	}
	return b, nil
}

func (b *Booted) start(ctx context.Context, backend pipe.Backend, point pipe.PointInfo) error {
	if err := b.place(ctx, point); err != nil {
		return err
	}
	disks, err := b.serve(ctx, backend, point)
	if err != nil {
		return err
	}
	for attempt := 0; ; attempt++ {
		if err := b.plan.choosePorts(b.opts.Ports); err != nil {
			return err
		}
		b.process, err = bootQEMU(b.plan.command(b.dir, disks, &b.opts), b.path("qemu.log"))
		if err != nil {
			return err
		}
		err = b.awaitMonitor(ctx)
		if err == nil {
			break
		}
		b.process.kill()
		// Somebody may have taken a port between our look and QEMU's.
		if attempt == 2 || !strings.Contains(err.Error(), "host forwarding") {
			return err
		}
	}
	b.agent = qga.New(b.path("qga.sock"), nil)
	go func() {
		<-b.process.ended
		close(b.ended)
	}()
	return nil
}

func (b *Booted) path(name string) string { return filepath.Join(b.dir, name) }

// place makes the folder, after it was noted. Its name is what a sweep knows the QEMU by.
func (b *Booted) place(ctx context.Context, point pipe.PointInfo) (err error) {
	parent := b.opts.Folder
	if parent == "" {
		parent = os.TempDir()
	}
	if parent, err = filepath.Abs(parent); err != nil {
		return err
	}
	dir := filepath.Join(parent, "hikae-boot-"+strconv.FormatInt(time.Now().UnixNano(), 36))
	if len(dir)+len("/nbd.sock") > maxSocketPath {
		return fmt.Errorf("%s: a socket's path has at most %d bytes, choose a folder with a shorter path: %w", dir, maxSocketPath, fs.ErrInvalid)
	}
	if b.opts.Journal != nil {
		if b.done, err = b.opts.Journal.Intend(ctx, hikae.Effect{Kind: KindBoot, VM: point.VM, Facts: map[string]string{"folder": dir}}); err != nil {
			return err
		}
	}
	b.dir = dir
	return os.Mkdir(dir, 0o700)
}

// serve lets QEMU read the disks of the point, and makes an overlay for each.
func (b *Booted) serve(ctx context.Context, backend pipe.Backend, point pipe.PointInfo) (disks []StartedDisk, err error) {
	var exports []nbd.Export
	host := context.WithoutCancel(ctx)
	var images []pipe.Image
	for i, d := range point.Disks {
		img, err := backend.Open(host, point.ID, d.Key)
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.Key, err)
		}
		img = nbd.Ahead(img, nil)
		b.closer = append(b.closer, img.Close)
		images = append(images, img)
		exports = append(exports, nbd.Export{Name: d.Key, Image: img, DroppedIsZero: true})
		disks = append(disks, StartedDisk{Key: d.Key, Size: d.Size, Path: b.path(fmt.Sprintf("%d.qcow2", i))})
	}
	server, err := nbd.NewServer(exports, nil)
	if err != nil {
		return nil, err
	}
	l, err := nbd.Listen(ctx, "unix:"+b.path("nbd.sock"))
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(host)
	served := make(chan error, 1)
	go func() { served <- server.Serve(running, l) }()
	b.closer = append(b.closer, func() error {
		stop()
		return <-served
	})
	for i, d := range disks {
		backing, err := backingName(b.path("nbd.sock"), d.Key, 0)
		if err != nil {
			return nil, err
		}
		b.files = append(b.files, d.Path)
		if err := createOverlay(ctx, d.Path, backing, images[i]); err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.Key, err)
		}
	}
	return disks, nil
}

const monitorWithin = 30 * time.Second

func (b *Booted) awaitMonitor(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, monitorWithin)
	defer cancel()
	for {
		err := b.monitor(ctx, func(ctx context.Context, mon *qmp.Conn) error { return nil })
		if err == nil {
			return nil
		}
		select {
		case <-b.process.ended:
			return fmt.Errorf("QEMU ended: %s", b.Why())
		case <-ctx.Done():
			return fmt.Errorf("QEMU's monitor: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// monitor does one thing at the monitor.
func (b *Booted) monitor(ctx context.Context, do func(context.Context, *qmp.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	mon, err := qmp.Dial(ctx, b.path("qmp.sock"))
	if err != nil {
		return err
	}
	defer mon.Close()
	return do(ctx, mon)
}

// Mapping says what was recorded of the machine, and what it was started with, a line each.
func (b *Booted) Mapping() []string { return slices.Clone(b.plan.mapping) }

// Ended is closed when QEMU has ended; Why is the last of what it printed.
func (b *Booted) Ended() <-chan struct{} { return b.ended }

// Why is the last of what QEMU printed.
func (b *Booted) Why() string {
	said := strings.TrimSpace(endOf(b.path("qemu.log"), 1000))
	if said == "" {
		return "QEMU said nothing: the guest shut down, or was reset"
	}
	return said
}

const serialRing = 64 << 10 // bytes; a power of two, as QEMU asks

// Serial is the last of what the guest printed at its serial port, 64 KiB at most.
func (b *Booted) Serial(ctx context.Context) (text string, err error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	err = b.monitor(ctx, func(ctx context.Context, mon *qmp.Conn) error {
		return mon.Execute(ctx, "ringbuf-read", map[string]any{"device": "serial", "size": serialRing}, &text)
	})
	b.printed += text // a read takes it out of the ring
	if over := len(b.printed) - serialRing; over > 0 {
		b.printed = b.printed[over:]
	}
	if err != nil && b.printed != "" {
		err = nil // the machine may have ended after it
	}
	return b.printed, err
}

const maxScreen = 64 << 20

// Screen is what the machine's screen shows.
func (b *Booted) Screen(ctx context.Context) (picture.Image, error) {
	b.looking.Lock()
	defer b.looking.Unlock()
	path := b.path("screen.png")
	err := b.monitor(ctx, func(ctx context.Context, mon *qmp.Conn) error {
		return mon.Execute(ctx, "screendump", map[string]any{"filename": path, "format": "png"}, nil)
	})
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return png.Decode(io.LimitReader(f, maxScreen))
}

// Ping asks the guest's agent whether it is there.
func (b *Booted) Ping(ctx context.Context) error { return b.agent.Do(ctx, "guest-ping", nil, nil) }

// Run has the guest's agent run a program.
func (b *Booted) Run(ctx context.Context, path string, args []string) (hikae.RunResult, error) {
	r, err := b.agent.Exec(ctx, path, args, nil, maxStream)
	return hikae.RunResult{Stdout: r.Stdout, Stderr: r.Stderr, ExitCode: r.ExitCode, Truncated: r.Truncated}, err
}

// Address is where on this machine a port of the guest is reached; empty for one that was not asked for.
func (b *Booted) Address(port int) string { return b.plan.ports[port] }

// Dial connects to a port of the guest. QEMU takes a connection before it asks the guest, so QEMU is asked whether the guest took it.
func (b *Booted) Dial(ctx context.Context, port int) (_ net.Conn, err error) {
	to, ok := b.plan.ports[port]
	if !ok {
		return nil, fmt.Errorf("port %d: it was not asked for: %w", port, fs.ErrInvalid)
	}
	b.dialing.Lock()
	defer b.dialing.Unlock()
	before, _, err := b.connections(ctx, port)
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", to)
	if err != nil {
		return nil, err
	}
	for first := true; ; first = false {
		taken, asked, err := b.connections(ctx, port)
		switch {
		case err == nil && taken > before:
			return conn, nil
		case err == nil && asked == 0 && !first:
			err = fmt.Errorf("port %d: the guest refused the connection", port)
		case err == nil:
			select {
			case <-time.After(50 * time.Millisecond):
				continue
			case <-ctx.Done():
				err = fmt.Errorf("port %d: the guest does not answer: %w", port, ctx.Err())
			}
		}
		return nil, errors.Join(err, conn.Close())
	}
}

// connections counts those to a port of the guest: that it took, and that it was asked to take.
func (b *Booted) connections(ctx context.Context, port int) (taken, asked int, err error) {
	var table string
	err = b.monitor(ctx, func(ctx context.Context, mon *qmp.Conn) error {
		return mon.Execute(ctx, "human-monitor-command", map[string]any{"command-line": "info usernet"}, &table)
	})
	for line := range strings.Lines(table) {
		// Protocol[State] FD Source-Address Port Dest.-Address Port RecvQ SendQ
		f := strings.Fields(line)
		if len(f) < 6 || f[5] != strconv.Itoa(port) {
			continue
		}
		switch f[0] {
		case "TCP[ESTABLISHED]":
			taken++
		case "TCP[SYN_SENT]":
			asked++
		}
	}
	return taken, asked, err
}

// Written is how many bytes the overlays grew to.
func (b *Booted) Written() (n int64) {
	for _, path := range b.files {
		n += allocated(path)
	}
	return n
}

// Close ends the machine and removes everything of it. It may be called again after an error.
func (b *Booted) Close(ctx context.Context) error {
	if b.process != nil {
		b.process.kill()
		select {
		case <-b.process.ended:
		case <-ctx.Done():
			return fmt.Errorf("QEMU %d does not end: %w", b.process.pid(), ctx.Err())
		}
	}
	if b.agent != nil {
		b.agent.Close()
		b.agent = nil
	}
	var errs []error
	for i := len(b.closer) - 1; i >= 0; i-- {
		errs = append(errs, b.closer[i]())
	}
	b.closer = nil
	if b.dir != "" {
		errs = append(errs, os.RemoveAll(b.dir))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return b.done(ctx)
}

// BootSweeper undoes what a boot left whose process was killed: a QEMU that is still there, which is known by the name of its folder, and
// the folder.
type BootSweeper struct{}

var _ hikae.Sweeper = BootSweeper{}

// Undo implements [hikae.Sweeper].
func (BootSweeper) Undo(ctx context.Context, e hikae.Effect, _ []hikae.ChangeID) error {
	dir := e.Facts["folder"]
	if e.Kind != KindBoot || !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || !strings.HasPrefix(filepath.Base(dir), "hikae-boot-") {
		return fmt.Errorf("effect %s of %s: %w: folder %q", e.ID, e.Kind, fs.ErrInvalid, dir)
	}
	if err := endBooted(ctx, dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
