// Command hyperv is a fake Hyper-V host, or a cluster of them, as a process of its own, for trying out and testing what talks to
// Hyper-V:
//
//	go run ./hyperv/hypervtest/hyperv --vms 2 --disks 2 --size 64MiB --fill random --control /tmp/control.sock
//
// It prints one line of JSON when it is ready, serves until a signal comes, or the pipe that is its input ends, and leaves nothing behind. The
// password comes by the environment, in HIKAE_SOURCE_PASSWORD; where there is none, one is made up and is on that line. Files are
// served by a Samba of its own; where this machine has none, or with --local, the line tells the folder that they lie in, and why.
// What is started as a service over that Samba is the server of package hyperv/helper, with this host's own VSS below it,
// whatever program was uploaded. The control address (package hypervtest, Control) lets another process make VMs, write as the guests do, move VMs, set faults and
// ask what happened; its token is on the line.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/hyperv/hypervtest"
)

// ready is what is printed.
type ready struct {
	Listening string `json:"listening"` // of the first host
	URL       string `json:"url"`
	User      string `json:"user"`
	Password  string `json:"password,omitempty"` // only one that was made up here
	Cluster   string `json:"cluster,omitempty"`
	Hosts     []host `json:"hosts"`
	VMs       []vm   `json:"vms"`
	Local     string `json:"local,omitempty"` // why files are told as folders
	Control   string `json:"control,omitempty"`
	Token     string `json:"control_token,omitempty"`
}

// host is one machine.
type host struct {
	Name   string `json:"name"`
	CIM    string `json:"cim"`
	SMB    string `json:"smb,omitempty"`
	Folder string `json:"folder"` // of this machine, with C: in C
}

// vm is one of those that were made at the start.
type vm struct {
	ID    string   `json:"id"`
	Name  string   `json:"name"`
	Host  string   `json:"host"`
	Files []string `json:"files"`
}

type flags struct {
	host                                 hypervtest.Options
	vms, disks, nodes                    int
	size, fill, format, guestOS, control string
	version                              string
	fixed, local                         bool
	seed                                 uint64
	level                                int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "hyperv:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use: "hyperv", Short: "A fake Hyper-V host, or a cluster", Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			if in := cmd.InOrStdin(); tells(in) {
				go func() {
					defer cancel()
					_, _ = io.Copy(io.Discard, in)
				}()
			}
			return f.run(ctx, cmd.OutOrStdout())
		},
	}
	fs := cmd.Flags()
	fs.IntVar(&f.vms, "vms", 1, "how many VMs, called web0, web1, …")
	fs.IntVar(&f.disks, "disks", 1, "disks of each")
	fs.StringVar(&f.size, "size", "64MiB", "length of each disk")
	fs.StringVar(&f.format, "format", "vhdx", "of disks: vhdx or vhd")
	fs.BoolVar(&f.fixed, "fixed", false, "disks of fixed size, instead of ones that grow")
	fs.StringVar(&f.guestOS, "guest", "windows", "what runs in the VMs: windows or linux")
	fs.StringVar(&f.version, "config-version", "", "of the VMs' configuration; empty: as the generation makes them")
	fs.StringVar(&f.host.Generation, "generation", "2022", "of the host: 2008r2, 2012, 2012r2, 2016, 2019, 2022 or 2025")
	fs.IntVar(&f.nodes, "nodes", 1, "hosts; more than one are a cluster")
	fs.IntVar(&f.level, "level", 0, "the cluster's functional level; zero: the highest possible")
	fs.StringVar(&f.host.User, "user", "backup", "who may log on")
	fs.StringVar(&f.host.Dir, "dir", "", "folder for everything; empty: a temporary one, removed at the end")
	fs.BoolVar(&f.local, "local", false, "tell the folder of the files, instead of serving them by Samba")
	fs.DurationVar(&f.host.JobTime, "job-time", 20*time.Millisecond, "how long a job takes")
	fs.DurationVar(&f.host.Late, "late", 0, "after which a checkpoint is in listings, from its job's end")
	fs.BoolVar(&f.host.TLS, "tls", false, "serve WS-Management over TLS")
	fs.StringVar(&f.fill, "fill", "", "what the disks hold: a FILE, or random; nothing where it is empty")
	fs.Uint64Var(&f.seed, "seed", 0, "of random content; zero: another one each time")
	fs.StringVar(&f.control, "control", "", "control address: a socket's path, or 127.0.0.1:PORT")
	return cmd
}

// tells says whether the end of the input means that whoever started this is gone: of a pipe it does, of a terminal or nothing at
// all it does not.
func tells(in io.Reader) bool {
	f, ok := in.(*os.File)
	if !ok {
		return true
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&(os.ModeNamedPipe|os.ModeSocket) != 0
}

func (f *flags) run(ctx context.Context, out io.Writer) (err error) {
	bytes, err := parseSize(f.size)
	if err != nil {
		return err
	}
	r := ready{User: f.host.User}
	if f.host.Password = os.Getenv("HIKAE_SOURCE_PASSWORD"); f.host.Password == "" {
		f.host.Password = rand.Text()
		r.Password = f.host.Password
	}
	s, err := f.start()
	if err != nil {
		return err
	}
	defer s.close()
	for i := range f.vms {
		made, err := f.addVM(ctx, s, i, bytes)
		if err != nil {
			return fmt.Errorf("VM %d: %w", i, err)
		}
		r.VMs = append(r.VMs, made)
	}
	if r.Local, err = f.share(ctx, s); err != nil {
		return err
	}
	if r.Control, r.Token, err = f.serveControl(s); err != nil {
		return err
	}
	for _, h := range s.hosts {
		r.Hosts = append(r.Hosts, host{Name: h.Name(), CIM: h.Addr(), SMB: h.SMB(), Folder: h.Dir()})
	}
	if s.cluster != nil {
		r.Cluster = s.cluster.Name()
	}
	r.Listening = s.hosts[0].Addr()
	r.URL = "hyperv://" + r.User + "@" + r.Listening + "/"
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

// site is what was started.
type site struct {
	hosts   []*hypervtest.Host
	cluster *hypervtest.Cluster // nil: one host
}

func (s *site) close() {
	if s.cluster != nil {
		s.cluster.Close()
		return
	}
	s.hosts[0].Close()
}

func (f *flags) start() (*site, error) {
	if f.nodes > 1 {
		c, err := hypervtest.StartCluster(&hypervtest.ClusterOptions{Nodes: f.nodes, Host: f.host, Level: f.level, Dir: f.host.Dir})
		if err != nil {
			return nil, err
		}
		return &site{hosts: c.Hosts(), cluster: c}, nil
	}
	h, err := hypervtest.Start(&f.host)
	if err != nil {
		return nil, err
	}
	return &site{hosts: []*hypervtest.Host{h}}, nil
}

// share starts Samba, or says why not.
func (f *flags) share(ctx context.Context, s *site) (why string, err error) {
	if f.local {
		return "asked for", nil
	}
	for _, h := range s.hosts {
		if err = h.StartSMB(ctx, &hypervtest.SMBOptions{Program: serveHelper(h)}); err != nil {
			break
		}
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return err.Error(), nil
	}
	return "", err
}

// serveControl opens the control address, if one is wanted.
func (f *flags) serveControl(s *site) (address, token string, err error) {
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
	serve := s.hosts[0].ServeControl
	if s.cluster != nil {
		serve = s.cluster.ServeControl
	}
	token = hypervtest.NewToken()
	if err := serve(l, token); err != nil {
		return "", "", errors.Join(err, l.Close())
	}
	return network + ":" + l.Addr().String(), token, nil
}
