package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	jobfleet "github.com/hikae/hikae/job/fleet"
	"github.com/hikae/hikae/job/natsqueue"
	"github.com/hikae/hikae/job/natsqueue/natsserver"
	jobqueue "github.com/hikae/hikae/job/queue"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/vmware"
	"github.com/hikae/hikae/vmware/vmwaretest"
)

const specEnv = "HIKAE_FLEET_CHILD"

// spec is what a child is told.
type spec struct {
	Role, Name, IP string
	Dir            string // certificates, the repository, and what each keeps
	Login          natsqueue.Credentials
	URLs           string   // of the queue
	Peers          []string // of the cluster
	Hosts          *vsphere
	VMs            int
	DiskBytes      int64
	Lease          time.Duration
	Slots          int
	Run            string
	Full           bool // read disks whole
}

// vsphere is how to log in to the fake.
type vsphere struct{ URL, User, Password, Thumbprint string }

// said is what a child says, one document a line.
type said struct {
	What   string
	VM     string           `json:",omitempty"`
	Text   string           `json:",omitempty"`
	Hosts  *vsphere         `json:",omitempty"`
	Result *jobfleet.Result `json:",omitempty"`
	Counts *jobqueue.Counts `json:",omitempty"`
	Left   []string         `json:",omitempty"`
	Late   *late            `json:",omitempty"`
}

// late is what became of a commit that came late: by the worker's own check, and past it in the repository.
type late struct {
	ByWorker, ByRepository string
	Lost, Revoked          bool
}

var saying sync.Mutex

func say(s said) {
	saying.Lock()
	defer saying.Unlock()
	_ = json.NewEncoder(os.Stdout).Encode(s)
}

// TestLabChild is the other end of place.start.
func TestLabChild(t *testing.T) {
	text := os.Getenv(specEnv)
	if text == "" {
		t.Skip("it is a part of other tests")
	}
	var s spec
	err := json.Unmarshal([]byte(text), &s)
	roles := map[string]func(context.Context, spec, <-chan string) error{"hosts": beHosts, "node": beNode, "worker": beWorker, "dispatcher": beDispatcher}
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		lines := make(chan string, 16)
		go func() {
			in := bufio.NewScanner(os.Stdin)
			for in.Scan() {
				lines <- in.Text()
			}
			os.Exit(1) // the parent is gone
		}()
		err = roles[s.Role](ctx, s, lines)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// content is what a VM's disk holds, told by its name.
func content(vm string, size int64) []byte {
	h := fnv.New64a()
	_, _ = io.WriteString(h, vm)
	var seed [32]byte
	h.Sum(seed[:0])
	data := make([]byte, size)
	_, _ = rand.NewChaCha8(seed).Read(data)
	return data
}

// beHosts is a vSphere, until it is told to end.
func beHosts(ctx context.Context, s spec, lines <-chan string) error {
	v, err := vmwaretest.Start(&vmwaretest.Options{VMs: s.VMs, Hosts: 8, DiskBytes: s.DiskBytes, Listen: s.IP + ":0"})
	if err != nil {
		return err
	}
	defer v.Close()
	for _, vm := range v.VMs() {
		if err := vm.Disk(0).Write(0, content(vm.Name(), s.DiskBytes)); err != nil {
			return err
		}
	}
	u := v.URL()
	u.User = nil
	say(said{What: "ready", Hosts: &vsphere{u.String(), v.User(), v.Password(), v.Thumbprint()}})
	for {
		select {
		case line := <-lines:
			if line == "end" {
				return nil
			}
			say(said{What: "left", Left: v.Leftovers()})
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// trusted is TLS of a node or a client: it shows its own certificate, and believes the authority alone.
func (s *spec) trusted() (*tls.Config, error) {
	text, err := os.ReadFile(filepath.Join(s.Dir, "ca.pem"))
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(s.Dir, s.Name+".pem"), filepath.Join(s.Dir, s.Name+".key"))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}, err
}

// beNode is a node of the cluster, until it is killed.
func beNode(ctx context.Context, s spec, _ <-chan string) error {
	config, err := s.trusted()
	if err != nil {
		return err
	}
	_, err = natsserver.Start(ctx, natsserver.Options{Dir: filepath.Join(s.Dir, s.Name), Listen: s.IP + ":4222", Credentials: &s.Login, TLS: config,
		Cluster: &natsserver.Cluster{Name: s.Name, Listen: s.IP + ":6222", Peers: s.Peers}})
	if err != nil {
		return err
	}
	say(said{What: "ready"})
	<-ctx.Done()
	return ctx.Err()
}

func (s *spec) open(ctx context.Context) (*natsqueue.Queue, error) {
	config, err := s.trusted()
	if err != nil {
		return nil, err
	}
	return natsqueue.Open(ctx, s.URLs, &natsqueue.Options{Credentials: &s.Login, TLS: config, Replicas: 3, Lease: s.Lease, Patience: time.Minute,
		Warn: func(text string) { fmt.Fprintln(os.Stderr, time.Now().Format(time.TimeOnly), text) }})
}

// beDispatcher puts a run and waits for it.
func beDispatcher(ctx context.Context, s spec, _ <-chan string) error {
	q, err := s.open(ctx)
	if err != nil {
		return err
	}
	if err := s.tellLeader(ctx); err != nil {
		return err
	}
	run := jobfleet.Run{Job: "nightly", Run: s.Run}
	for i := range s.VMs {
		vm := fmt.Sprintf("web%d", i)
		run.Tasks = append(run.Tasks, jobfleet.Task{ID: vm, VM: vm, Kind: "backup", Claim: "vm/" + vm, Label: "site"})
	}
	res, err := jobfleet.Dispatch(ctx, q, run, &jobfleet.DispatchOptions{Outcomes: func(o jobfleet.Outcome) { say(said{What: "outcome", VM: o.VM, Text: o.Worker}) }})
	one := said{What: "result", Result: &res}
	if err != nil {
		one.Text = err.Error()
	}
	counts, err := q.Counts(ctx)
	if err != nil {
		return err
	}
	one.Counts = &counts
	say(one)
	return q.Close()
}

// tellLeader says which node leads the group that has the tasks: its loss is the worst.
func (s *spec) tellLeader(ctx context.Context) error {
	config, err := s.trusted()
	if err != nil {
		return err
	}
	nc, err := nats.Connect(s.URLs, nats.Secure(config), nats.UserInfo(s.Login.User, s.Login.Password))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	stream, err := js.Stream(ctx, "HIKAE-TASKS")
	if err != nil {
		return err
	}
	say(said{What: "leader", Text: stream.CachedInfo().Cluster.Leader})
	return nil
}

// openShared opens the repository as a machine does that has the folder mounted.
func openShared(ctx context.Context, dir, name string) (*repo.Repository, error) {
	st, err := dirstore.Open(filepath.Join(dir, "repo"))
	if err != nil {
		return nil, err
	}
	return repo.Open(ctx, st, nil, &repo.OpenOptions{StateDir: filepath.Join(dir, name+".state")})
}

// labWorker is a worker with a session at the vSphere and the repository open.
type labWorker struct {
	r        *repo.Repository
	client   *vmware.Client
	sweepers map[string]hikae.Sweeper
	full     bool
	journal  *hikae.FileJournal
	sessions *job.Sessions

	mu    sync.Mutex
	going chan struct{} // closed: commits are not held up
}

// beWorker works until it is killed, or told to end. Told to "hold", it stops before each commit until it is told to "go".
func beWorker(ctx context.Context, s spec, lines <-chan string) error {
	w := &labWorker{going: make(chan struct{}), full: s.Full}
	close(w.going)
	var err error
	if w.r, err = openShared(ctx, s.Dir, s.Name); err != nil {
		return err
	}
	if err := w.connect(ctx, s); err != nil {
		return err
	}
	q, err := s.open(ctx)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	worker := jobfleet.NewWorker(q, []string{"site"}, map[string]jobfleet.Handler{"backup": w.backup},
		&jobfleet.WorkerOptions{Name: s.Name, Slots: s.Slots, First: time.Second, Events: tellEvent})
	go func() {
		for line := range lines {
			w.mu.Lock()
			switch line {
			case "hold":
				w.going = make(chan struct{})
			case "go":
				close(w.going)
			case "end":
				end()
			}
			w.mu.Unlock()
		}
	}()
	say(said{What: "ready"})
	err = errors.Join(worker.Run(ctx), q.Close(), w.client.Close(context.Background()), w.journal.Close(), w.r.Close())
	say(said{What: "end"})
	return err
}

func tellEvent(e jobfleet.Event) {
	fmt.Fprintln(os.Stderr, time.Now().Format(time.TimeOnly), e.What, e.VM, e.Attempt, e.Err)
	say(said{What: string(e.What), VM: e.VM})
}

// connect logs in, and removes what an earlier process of this machine left there.
func (w *labWorker) connect(ctx context.Context, s spec) error {
	u, err := url.Parse(s.Hosts.URL)
	if err != nil {
		return err
	}
	who := vmware.Login{User: s.Hosts.User, Password: s.Hosts.Password}
	if w.client, err = vmware.Connect(ctx, u, who, &vmware.ConnectOptions{Thumbprint: s.Hosts.Thumbprint}); err != nil {
		return err
	}
	if w.journal, err = hikae.OpenFileJournal(filepath.Join(s.Dir, s.Name+".journal")); err != nil {
		return err
	}
	if w.sessions, err = job.OpenSessions(filepath.Join(s.Dir, s.Name+".sessions")); err != nil {
		return err
	}
	sweeper := &vmware.Sweeper{Connect: func(context.Context, string) (*vmware.Client, error) { return w.client, nil }}
	w.sweepers = map[string]hikae.Sweeper{"vmware.": sweeper}
	_, err = w.journal.Sweep(ctx, w.sweepers, nil)
	return err
}

// backup is one attempt at one VM.
func (w *labWorker) backup(ctx context.Context, task *jobfleet.Work) (jobfleet.Report, error) {
	behind := &pastRepo{Repository: w.r}
	fenced, err := task.Fence(ctx, "repository/"+w.r.ID(), behind)
	if err != nil {
		return jobfleet.Report{}, err
	}
	if p, ok, err := fenced.Point(ctx, task.VM); ok || err != nil {
		return jobfleet.Report{Point: p.ID}, err
	}
	if n, err := task.Sweep(ctx, w.r.ID(), w.sweepers, nil); err != nil {
		return jobfleet.Report{}, err
	} else if n > 0 {
		say(said{What: "swept", VM: task.VM})
	}
	found, err := w.client.Find(ctx, vmware.Selection{VMs: []string{task.VM}})
	if err != nil {
		return jobfleet.Report{}, err
	}
	provider, err := vmware.New(w.client, vmware.Refs(found), nil)
	if err != nil {
		return jobfleet.Report{}, err
	}
	res, err := job.Backup(ctx, provider, "", &holding{fenced, w, behind}, &job.BackupOptions{Journal: task.Journal(w.journal), Sessions: w.sessions, Workers: 1, Full: w.full})
	return jobfleet.Report{Point: res.Point, Warnings: res.Warnings}, err
}

// pastRepo keeps the repository's own writer, so that a late commit can go around all checks of the worker.
type pastRepo struct {
	*repo.Repository
	writer pipe.PointWriter
}

func (p *pastRepo) Begin(ctx context.Context, vm string, opts *pipe.PointOptions) (pipe.PointWriter, error) {
	w, err := p.Repository.Begin(ctx, vm, opts)
	p.writer = w
	return w, err
}

// holding stops before a commit while the worker is told to.
type holding struct {
	*jobfleet.Fenced
	w    *labWorker
	past *pastRepo
}

func (h *holding) Begin(ctx context.Context, vm string, opts *pipe.PointOptions) (pipe.PointWriter, error) {
	w, err := h.Fenced.Begin(ctx, vm, opts)
	if err != nil {
		return nil, err
	}
	return &heldWriter{w, h, vm}, nil
}

type heldWriter struct {
	pipe.PointWriter
	h  *holding
	vm string
}

func (w *heldWriter) Commit(ctx context.Context, tracking map[string]string) (string, error) {
	w.h.w.mu.Lock()
	going := w.h.w.going
	w.h.w.mu.Unlock()
	select {
	case <-going:
		return w.PointWriter.Commit(ctx, tracking)
	default:
	}
	say(said{What: "holding", VM: w.vm})
	<-going
	_, byWorker := w.PointWriter.Commit(context.WithoutCancel(ctx), tracking)
	_, byRepository := w.h.past.writer.Commit(context.WithoutCancel(ctx), tracking)
	say(said{What: "late", VM: w.vm, Late: &late{fmt.Sprint(byWorker), fmt.Sprint(byRepository), errors.Is(byWorker, jobqueue.ErrLost), errors.Is(byRepository, repo.ErrRevoked)}})
	return "", errors.Join(byWorker, byRepository, errors.New(strings.TrimSpace("it came late")))
}
