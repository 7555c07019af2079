package netlab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const tunDevice = "/dev/net/tun"

// Road joins two sites by a router with a bad line. See the package comment.
type Road struct {
	A, B   string // addresses of the sites
	Router *Space
	There  *Way // from site a to site b
	Back   *Way

	workers sync.WaitGroup
	once    sync.Once
	err     error
}

// RoadOptions are what is rarely needed.
type RoadOptions struct {
	Back *Line  // the line from b to a; nil: as the one there
	MTU  int    // of the line; 0: 1,500
	Seed uint64 // of chance; the same seed and packets have the same fates
}

// Road joins two sites.
func (l *Lab) Road(ctx context.Context, a, b *Space, line Line, opts *RoadOptions) (*Road, error) {
	o := RoadOptions{}
	if opts != nil {
		o = *opts
	}
	if o.MTU == 0 {
		o.MTU = 1500
	}
	if o.Back == nil {
		o.Back = &line
	}
	router, err := l.Space(ctx, "router")
	if err != nil {
		return nil, err
	}
	r := &Road{Router: router}
	var tuns [2]*os.File
	for i := range tuns {
		if tuns[i], err = openTUN(router, tunName(i)); err != nil {
			return nil, errors.Join(err, closeAll(tuns[:i]))
		}
	}
	if err := r.wire(ctx, l, a, b, o.MTU); err != nil {
		return nil, errors.Join(err, closeAll(tuns[:]))
	}
	r.There = newWay(line, tuns[0], tuns[1], o.MTU, o.Seed, 0)
	r.Back = newWay(*o.Back, tuns[1], tuns[0], o.MTU, o.Seed, 1)
	for _, w := range []*Way{r.There, r.Back} {
		r.workers.Go(w.read)
		r.workers.Go(w.write)
	}
	l.mu.Lock()
	l.roads = append(l.roads, r)
	l.mu.Unlock()
	return r, nil
}

func tunName(i int) string { return "tun" + strconv.Itoa(i) }

// wire lays cables from the sites to the router, and routes what comes from one through its TUN device.
func (r *Road) wire(ctx context.Context, l *Lab, a, b *Space, mtu int) error {
	var near [2]string
	for i, site := range []*Space{a, b} {
		c, err := l.Cable(ctx, r.Router, site, 0)
		if err != nil {
			return err
		}
		near[i] = c.B
		table := strconv.Itoa(100 + i)
		for _, args := range [][]string{
			{"link", "set", tunName(i), "mtu", strconv.Itoa(mtu), "txqueuelen", "10000", "up"},
			{"route", "add", "default", "dev", tunName(i), "table", table},
			{"rule", "add", "iif", c.links[0], "lookup", table},
		} {
			if err := r.Router.ip(ctx, args...); err != nil {
				return err
			}
		}
	}
	r.A, r.B = near[0], near[1]
	for i, site := range []*Space{a, b} {
		gateway := near[i][:len(near[i])-1] + "1"
		err := site.ip(ctx, append([]string{"route", "add", near[1-i] + "/32", "via", gateway}, cubic...)...)
		if err != nil {
			return err
		}
	}
	return r.Router.Set("net/ipv4/ip_forward", "1")
}

// openTUN makes a TUN device in a space. It is gone when the file is closed.
func openTUN(s *Space, name string) (f *os.File, err error) {
	err = s.Do(func() error {
		fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", tunDevice, err)
		}
		request, err := unix.NewIfreq(name)
		if err == nil {
			request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
		}
		if err != nil {
			unix.Close(fd)
			return fmt.Errorf("make TUN device %s: %w", name, err)
		}
		f = os.NewFile(uintptr(fd), tunDevice)
		return nil
	})
	return f, err
}

func closeAll(files []*os.File) error {
	var errs []error
	for _, f := range files {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

func newWay(line Line, in, out *os.File, mtu int, seed, stream uint64) *Way {
	w := &Way{in: in, out: out, mtu: mtu, done: make(chan struct{}), wake: make(chan struct{}, 1),
		model: model{rnd: rand.New(rand.NewPCG(seed, stream))}}
	w.packets.New = func() any { return &packet{buf: make([]byte, mtu)} }
	w.Set(line)
	return w
}

// Set changes both directions.
func (r *Road) Set(l Line) {
	r.There.Set(l)
	r.Back.Set(l)
}

// Cut loses every packet in both directions, without a word to anybody.
func (r *Road) Cut() {
	r.There.Cut()
	r.Back.Cut()
}

// Restore ends a cut of either direction.
func (r *Road) Restore() {
	r.There.Restore()
	r.Back.Restore()
}

// CutFor cuts both directions for a while.
func (r *Road) CutFor(ctx context.Context, d time.Duration) {
	r.Cut()
	defer r.Restore()
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func (r *Road) close() error {
	r.once.Do(func() {
		close(r.There.done)
		close(r.Back.done)
		r.err = closeAll([]*os.File{r.There.in, r.There.out})
		r.workers.Wait()
	})
	return r.err
}
