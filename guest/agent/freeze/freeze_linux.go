package freeze

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/guest/agent"
	"github.com/hikae/hikae/guest/agent/wire"
)

// FIFREEZE and FITHAW are _IOWR('X', 119, int) and _IOWR('X', 120, int). A request that goes both ways has the same number
// on every architecture: three in the generic layout's two bits is six in the three bits of MIPS, PowerPC and SPARC.
const (
	fiFreeze = 0xC0045877
	fiThaw   = 0xC0045878
)

const (
	openLimit = 3 * time.Second
	syncLimit = 2 * time.Minute // before anything is frozen
	thawLimit = 20 * time.Second
)

// Options say how the watchdog is started. Nil and zero fields are good defaults.
type Options struct {
	// Watchdog is the command that runs [Watchdog]. Nil: this program, with the argument "watchdog".
	Watchdog []string
	// Leave is a folder that the watchdog removes when this process dies in a freeze: nobody else would.
	Leave *agent.Place
}

// Freezer freezes the file systems that this process sees.
type Freezer struct{ opts Options }

var _ agent.Freezer = (*Freezer)(nil)

// New makes a freezer.
func New(opts *Options) *Freezer {
	f := &Freezer{}
	if opts != nil {
		f.opts = *opts
	}
	return f
}

func table() ([]Mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return Mounts(f)
}

// Volumes implements [agent.Freezer].
func (f *Freezer) Volumes(ctx context.Context) ([]wire.Volume, error) {
	mounts, err := table()
	if err != nil {
		return nil, err
	}
	targets, skipped, err := choose(mounts)
	if err != nil {
		return nil, err
	}
	var out []wire.Volume
	for _, t := range targets {
		v := volume(t.Mounts[0], "")
		o, err := open(ctx, t)
		if err != nil {
			v.Skip = err.Error()
		} else {
			v.Mount, v.Size, v.Free = o.mount.Point, o.size, o.free
			o.file.Close()
		}
		out = append(out, v)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return append(append(out, skipped...), elsewhere(ctx, mounts)...), nil
}

// opened is a target that is open.
type opened struct {
	mount      Mount
	file       *os.File
	size, free int64
}

// open opens a target where it can be seen. A path may lead over a file system that hangs, so it is waited for only so long.
func open(ctx context.Context, t *target) (*opened, error) {
	type result struct {
		o   *opened
		err error
	}
	done := make(chan result, 1)
	go func() {
		o, err := openAny(t.Mounts)
		done <- result{o, err}
	}()
	wait := time.NewTimer(openLimit)
	defer wait.Stop()
	late := func() {
		go func() {
			if r := <-done; r.o != nil {
				r.o.file.Close()
			}
		}()
	}
	select {
	case r := <-done:
		return r.o, r.err
	case <-wait.C:
		late()
		return nil, fmt.Errorf("it could not be opened within %v", openLimit)
	case <-ctx.Done():
		late()
		return nil, ctx.Err()
	}
}

func openAny(mounts []Mount) (*opened, error) {
	var first error
	for _, m := range mounts {
		o, err := openMount(m)
		if err == nil {
			return o, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

var errHidden = errors.New("hidden below another mount")

// openMount opens a mount point for reading; a descriptor by O_PATH would not freeze. What is mounted over it has the same
// path, so the descriptor is asked which mount it is of.
func openMount(m Mount) (*opened, error) {
	fd, err := unix.Open(m.Point, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENOTDIR) {
		return nil, errors.New("mounted on a file only")
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", m.Point, err)
	}
	o := &opened{mount: m, file: os.NewFile(uintptr(fd), m.Point)}
	if id, err := mountID(fd); err == nil && id != m.ID {
		o.file.Close()
		return nil, errHidden
	}
	var st unix.Statfs_t
	if unix.Fstatfs(fd, &st) == nil {
		o.size, o.free = int64(st.Blocks)*int64(st.Bsize), int64(st.Bavail)*int64(st.Bsize)
	}
	return o, nil
}

// mountID is the number of the mount that a descriptor is of.
func mountID(fd int) (int, error) {
	text, err := os.ReadFile(path.Join("/proc/self/fdinfo", strconv.Itoa(fd)))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strconv.Atoi(strings.TrimSpace(rest))
		}
	}
	return 0, errors.New("fdinfo without mnt_id")
}

// Ready implements [agent.Freezer]. What is dirty is written out before the first one freezes, so that they stand still
// for as short as can be. The hold begins with the watchdog's word that it is armed, which is the last thing here.
func (f *Freezer) Ready(ctx context.Context, args wire.FreezeArgs) (agent.Ready, error) {
	mounts, err := table()
	if err != nil {
		return nil, err
	}
	targets, skipped, err := choose(mounts)
	if err != nil {
		return nil, err
	}
	if targets, err = pick(targets, skipped, args.Mounts); err != nil {
		return nil, err
	}
	skipped = append(skipped, elsewhere(ctx, mounts)...)
	s := &stacks{mounts: mounts, left: maxDevices}
	z := &frozen{hold: time.Duration(args.HoldMillis) * time.Millisecond, answer: wire.FreezeAnswer{Skipped: skipped}}
	for _, t := range order(targets, s.under) {
		o, err := open(ctx, t)
		switch {
		case err == nil:
			z.files = append(z.files, &frozenFile{opened: o})
		case ctx.Err() != nil || len(args.Mounts) > 0:
			z.closeFiles()
			return nil, fmt.Errorf("%s: %w", t.point(), err)
		default:
			z.answer.Skipped = append(z.answer.Skipped, volume(t.Mounts[0], err.Error()))
		}
	}
	if len(z.files) == 0 {
		z.thawed = make(chan struct{})
		close(z.thawed)
		z.held = true
		return &ready{z: z}, nil
	}
	if err := z.sync(ctx); err != nil {
		z.closeFiles()
		return nil, err
	}
	if z.dog, err = startWatchdog(ctx, &f.opts, z.files, z.hold); err != nil {
		z.closeFiles()
		return nil, err
	}
	return &ready{z: z}, nil
}

// ready is a freeze that is about to be.
type ready struct {
	z    *frozen
	done bool // it was frozen, or given up
}

// Freeze implements [agent.Ready].
func (r *ready) Freeze(ctx context.Context) (agent.Frozen, error) {
	r.done = true
	if len(r.z.files) == 0 {
		return r.z, nil
	}
	if err := r.z.freeze(ctx); err != nil {
		return nil, err
	}
	return r.z, nil
}

// Close implements [agent.Ready]. Nothing was frozen, so the watchdog has nothing to do.
func (r *ready) Close() error {
	if !r.done && len(r.z.files) > 0 {
		r.z.dog.release()
		r.z.closeFiles()
	}
	r.done = true
	return nil
}
