// Command vsphere is a fake vCenter Server or ESXi host as a process of its own, for trying out and testing what talks to vSphere:
//
//	go run ./vmware/vmwaretest/vsphere --vms 2 --disks 2 --size 64MiB --fill random --control /tmp/control.sock
//
// It prints one line of JSON when it is ready, serves until it is told to end by a signal, and leaves nothing behind. The password
// comes by the environment, in HIKAE_SOURCE_PASSWORD; where there is none, one is made up and is on that line. The control address
// (package vmwaretest, Control) lets another process write as the guests do, switch power and set faults; its token is on the line.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	rand2 "math/rand/v2"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/hikae/hikae/vmware/vmwaretest"
	"github.com/spf13/cobra"
)

// ready is what is printed.
type ready struct {
	Listening  string   `json:"listening"`
	URL        string   `json:"url"`
	User       string   `json:"user"`
	Password   string   `json:"password,omitempty"` // only one that was made up here
	Thumbprint string   `json:"thumbprint"`
	CAFile     string   `json:"ca_file"`
	VMs        []string `json:"vms"`
	Control    string   `json:"control,omitempty"`
	Token      string   `json:"control_token,omitempty"`
}

type flags struct {
	options       vmwaretest.Options
	size          string
	fill, control string
	seed          uint64
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vsphere:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use: "vsphere", Short: "A fake vCenter Server or ESXi host", Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	fs := cmd.Flags()
	fs.IntVar(&f.options.VMs, "vms", 1, "how many VMs, called web0, web1, …")
	fs.IntVar(&f.options.DisksPerVM, "disks", 1, "disks of each")
	fs.StringVar(&f.size, "size", "64MiB", "length of each disk")
	fs.IntVar(&f.options.Hosts, "hosts", 1, "hosts")
	fs.IntVar(&f.options.Datastores, "datastores", 1, "datastores")
	fs.BoolVar(&f.options.ESX, "esx", false, "a single host instead of a vCenter Server")
	fs.StringVar(&f.options.Listen, "listen", "127.0.0.1:0", "address to listen on")
	fs.StringVar(&f.options.User, "user", "backup", "who may log in")
	fs.StringVar(&f.fill, "fill", "", "what the disks hold: a FILE, or random; nothing where it is empty")
	fs.Uint64Var(&f.seed, "seed", 0, "of random content; zero: another one each time")
	fs.StringVar(&f.control, "control", "", "control address: a socket's path, or 127.0.0.1:PORT")
	return cmd
}

func (f *flags) run(ctx context.Context, out io.Writer) (err error) {
	if f.options.DiskBytes, err = parseSize(f.size); err != nil {
		return err
	}
	r := ready{User: f.options.User}
	if f.options.Password = os.Getenv("HIKAE_SOURCE_PASSWORD"); f.options.Password == "" {
		f.options.Password = rand.Text()
		r.Password = f.options.Password
	}
	s, err := vmwaretest.Start(&f.options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	for i := range f.options.VMs {
		name := fmt.Sprintf("web%d", i)
		r.VMs = append(r.VMs, name)
		for d := range f.options.DisksPerVM {
			if err := f.fillDisk(ctx, s.VM(name).Disk(d), uint64(i*64+d)); err != nil {
				return fmt.Errorf("%s, disk %d: %w", name, d, err)
			}
		}
	}
	if r.Control, r.Token, err = f.serveControl(s); err != nil {
		return err
	}
	u := s.URL()
	r.Listening, r.Thumbprint, r.CAFile = u.Host, s.Thumbprint(), s.CAFile()
	u.User = nil
	r.URL = u.String()
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "%s\n", line); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// serveControl opens the control address, if one is wanted.
func (f *flags) serveControl(s *vmwaretest.Server) (address, token string, err error) {
	if f.control == "" {
		return "", "", nil
	}
	network := "unix"
	if host, _, err := net.SplitHostPort(f.control); err == nil && !strings.Contains(f.control, "/") {
		if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
			return "", "", fmt.Errorf("--control %s: only an address of this machine", f.control)
		}
		network = "tcp"
	}
	l, err := net.Listen(network, f.control)
	if err != nil {
		return "", "", err
	}
	token = vmwaretest.NewToken()
	if err := s.ServeControl(l, token); err != nil {
		return "", "", errors.Join(err, l.Close())
	}
	return network + ":" + l.Addr().String(), token, nil
}

// fillDisk gives a disk its first content, as its guest would write it.
func (f *flags) fillDisk(ctx context.Context, d *vmwaretest.Disk, salt uint64) error {
	var source io.Reader
	switch f.fill {
	case "":
		return nil
	case "random":
		seed := f.seed
		if seed == 0 {
			seed = rand2.Uint64()
		}
		source = &io.LimitedReader{R: &halfRandom{rng: rand2.New(rand2.NewPCG(seed, salt))}, N: d.Size()}
	default:
		fd, err := os.Open(f.fill)
		if err != nil {
			return err
		}
		defer fd.Close()
		source = &io.LimitedReader{R: fd, N: d.Size()}
	}
	buf := make([]byte, 1<<20)
	for off := int64(0); ctx.Err() == nil; {
		n, err := io.ReadFull(source, buf)
		if n > 0 {
			if err := d.Write(off, buf[:n]); err != nil {
				return err
			}
			off += int64(n)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// halfRandom is content of which about half can be compressed, and some is zero, as on disks.
type halfRandom struct{ rng *rand2.Rand }

// Read implements [io.Reader].
func (h *halfRandom) Read(p []byte) (int, error) {
	for at := 0; at < len(p); at += 4096 {
		page := p[at:min(at+4096, len(p))]
		switch h.rng.IntN(4) {
		case 0:
			clear(page)
		case 1:
			b := byte(h.rng.Uint32())
			for i := range page {
				page[i] = b
			}
		default:
			for i := range page {
				page[i] = byte(h.rng.Uint32())
			}
		}
	}
	return len(p), nil
}

// parseSize reads a length with an optional unit.
func parseSize(s string) (int64, error) {
	units := []struct {
		name string
		by   int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"", 1}}
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n <= 0 || n > math.MaxInt64/u.by || n*u.by > 62<<40 {
			return 0, fmt.Errorf("size %q: a number of bytes, with KiB, MiB, GiB or TiB after it if wanted, at most 62TiB", s)
		}
		return n * u.by, nil
	}
	return 0, nil
}
