package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/labca"
	"github.com/hikae/hikae/internal/netlab"
	"github.com/hikae/hikae/job/natsqueue"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// site is a router, and machines that are namespaces of their own, each behind a cable to it. Programs on them are real processes.
type site struct {
	t      *testing.T
	lab    *netlab.Lab
	router *netlab.Space
	dir    string
	ca     *labca.CA
	shared spec // what all children are told
	hosts  *child
	nodes  []*child
}

// place is a machine.
type place struct {
	s     *site
	name  string
	space *netlab.Space
	cable *netlab.Cable
	ip    string
}

func newSite(t *testing.T) *site {
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier != "long" && tier != "release" {
		t.Skip("a fleet in network namespaces: needs HIKAE_TEST_TIER=long")
	}
	if err := netlab.Check(); err != nil {
		t.Skipf("no network namespaces here: %v", err)
	}
	s := &site{t: t, dir: t.TempDir()}
	var err error
	s.lab, err = netlab.New(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.lab.Close()) })
	s.router, err = s.lab.Space(t.Context(), "router")
	require.NoError(t, err)
	require.NoError(t, s.router.Set("net/ipv4/ip_forward", "1"))
	s.ca, err = labca.New()
	require.NoError(t, err)
	s.shared = spec{Dir: s.dir, Login: natsqueue.Credentials{User: "fleet", Password: "correct horse"}}
	return s
}

func (s *site) place(name string) *place {
	s.t.Helper()
	p := &place{s: s, name: name}
	var err error
	p.space, err = s.lab.Space(s.t.Context(), name)
	require.NoError(s.t, err)
	p.cable, err = s.lab.Cable(s.t.Context(), s.router, p.space, 0)
	require.NoError(s.t, err)
	p.ip = p.cable.B
	_, err = p.space.Run(s.t.Context(), "ip", "route", "add", "default", "via", p.cable.A)
	require.NoError(s.t, err)
	require.NoError(s.t, s.ca.Write(s.dir, name, p.ip))
	return p
}

// cut has the router lose what comes from a machine and what goes to it, without a word.
func (p *place) cut(cut bool) {
	p.s.t.Helper()
	what := map[bool][2]string{true: {"add", "replace"}, false: {"del", "del"}}[cut]
	_, err := p.s.router.Run(p.s.t.Context(), "ip", "rule", what[0], "from", p.ip, "blackhole")
	require.NoError(p.s.t, err)
	_, err = p.s.router.Run(p.s.t.Context(), "ip", "route", what[1], "blackhole", p.ip+"/32")
	require.NoError(p.s.t, err)
}

// child is a process on a machine.
type child struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	log  string

	mu    sync.Mutex
	heard []said
	over  chan struct{}
}

// start starts a process in a role, and waits until it says that it is ready.
func (p *place) start(sp spec) *child {
	t := p.s.t
	t.Helper()
	sp.Name, sp.IP = p.name, p.ip
	text, err := json.Marshal(sp)
	require.NoError(t, err)
	c := &child{t: t, name: p.name, cmd: exec.Command(os.Args[0], "-test.run", "^TestLabChild$"), log: filepath.Join(p.s.dir, p.name+".log"), over: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), specEnv+"="+string(text), "GORACE=atexit_sleep_ms=0")
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	c.cmd.Stderr = log
	c.in, err = c.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := c.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.space.Start(c.cmd))
	require.NoError(t, log.Close())
	go func() {
		defer close(c.over)
		for lines := bufio.NewReader(out); ; {
			line, err := lines.ReadBytes('\n')
			var one said
			if json.Unmarshal(line, &one) == nil {
				c.mu.Lock()
				c.heard = append(c.heard, one)
				c.mu.Unlock()
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(c.kill)
	return c
}

// kill ends the process as a power cut does.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	<-c.over
	_ = c.cmd.Wait()
}

// tell sends a line to the process.
func (c *child) tell(line string) {
	c.t.Helper()
	_, err := io.WriteString(c.in, line+"\n")
	require.NoError(c.t, err)
}

// all is what the process has said so far of one kind.
func (c *child) all(what string) (out []said) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.heard {
		if s.What == what {
			out = append(out, s)
		}
	}
	return out
}

// await waits until the process has said n things of a kind, and returns the last.
func (c *child) await(what string, n int, limit time.Duration) said {
	c.t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		if list := c.all(what); len(list) >= n {
			return list[n-1]
		}
		select {
		case <-c.over:
			if len(c.all(what)) < n {
				c.t.Fatalf("%s ended before it said %q:\n%s", c.name, what, c.tail())
			}
		default:
			if time.Now().After(end) {
				c.t.Fatalf("%s did not say %q %d times:\n%s", c.name, what, n, c.tail())
			}
		}
	}
}

func (c *child) tail() string {
	text, _ := os.ReadFile(c.log)
	return string(text[max(0, len(text)-4000):])
}

// furnish starts a vSphere with VMs, makes a repository in a shared folder, and starts a cluster of three.
func (s *site) furnish(vms int, diskBytes int64) {
	t := s.t
	t.Helper()
	s.hosts = s.place("hosts").start(spec{Role: "hosts", Dir: s.dir, VMs: vms, DiskBytes: diskBytes})
	s.shared.Hosts = s.hosts.await("ready", 1, 5*time.Minute).Hosts
	st, err := dirstore.Init(filepath.Join(s.dir, "repo"))
	require.NoError(t, err)
	r, err := repo.Init(t.Context(), st, nil, &repo.InitOptions{BlockSize: 64 << 10, NoEncryption: true}, &repo.OpenOptions{StateDir: t.TempDir()})
	require.NoError(t, err)
	require.NoError(t, r.Close())

	var places []*place
	var urls []string
	for i := range 3 {
		p := s.place(fmt.Sprintf("node%d", i))
		places = append(places, p)
		s.shared.Peers = append(s.shared.Peers, p.ip+":6222")
		urls = append(urls, "tls://"+p.ip+":4222")
	}
	s.shared.URLs = strings.Join(urls, ",")
	for _, p := range places {
		sp := s.shared
		sp.Role = "node"
		s.nodes = append(s.nodes, p.start(sp))
	}
	for _, n := range s.nodes {
		n.await("ready", 1, time.Minute)
	}
}

// worker starts one with two slots.
func (s *site) worker(p *place, lease time.Duration) *child {
	s.t.Helper()
	sp := s.shared
	sp.Role, sp.Lease, sp.Slots = "worker", lease, 2
	c := p.start(sp)
	c.await("ready", 1, 2*time.Minute)
	return c
}

// dispatch has a process put a run of all VMs, and wait for it.
func (s *site) dispatch(p *place, lease time.Duration, run string, vms int) *child {
	s.t.Helper()
	sp := s.shared
	sp.Role, sp.Lease, sp.Run, sp.VMs = "dispatcher", lease, run, vms
	return p.start(sp)
}

// repository is what all wrote to, opened by somebody who only reads.
func (s *site) repository(ctx context.Context) *repo.Repository {
	s.t.Helper()
	r, err := openShared(ctx, s.dir, "reader")
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, r.Close()) })
	return r
}
