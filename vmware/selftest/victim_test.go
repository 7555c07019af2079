package selftest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/vmware/govmomi/vim25/types"
	"go.uber.org/goleak"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/vmware"
)

// victimEnv makes of the test program one that backs a VM up and kills itself. It holds a plan. Such a program runs no test, and so
// starts no other.
const victimEnv = "HIKAE_VSPHERE_VICTIM"

func TestMain(m *testing.M) {
	if text := os.Getenv(victimEnv); text != "" {
		os.Exit(victim(text))
	}
	goleak.VerifyTestMain(m)
}

// plan is what a victim does.
type plan struct {
	Server, User, Password, Thumbprint string
	VM                                 string
	Repo, State, Journal               string
	Proxy, ProxyRoot                   string // where disks are attached; empty: they are read over the network
	At                                 int    // the step after which it kills itself; 0: it tells its steps
}

func (p *plan) connect(ctx context.Context) (*vmware.Client, error) {
	u, err := url.Parse(p.Server)
	if err != nil {
		return nil, err
	}
	return vmware.Connect(ctx, u, vmware.Login{User: p.User, Password: p.Password},
		&vmware.ConnectOptions{Thumbprint: p.Thumbprint, CallTimeout: 20 * time.Second, Latency: vmware.LatencyOptions{Off: true}})
}

func (p *plan) options() *vmware.Options {
	o := &vmware.TransportOptions{Order: []string{vmware.NBDSSL}}
	if p.ProxyRoot != "" {
		o = &vmware.TransportOptions{Order: []string{vmware.HotAdd}, HotAdd: &vmware.HotAddOptions{Proxy: p.Proxy, Root: p.ProxyRoot}}
	}
	return &vmware.Options{Transports: o}
}

func (p *plan) open(ctx context.Context) (*repo.Repository, *hikae.FileJournal, error) {
	st, err := dirstore.Open(p.Repo)
	if err != nil {
		return nil, nil, err
	}
	r, err := repo.Open(ctx, st, nil, &repo.OpenOptions{StateDir: p.State})
	if err != nil {
		return nil, nil, err
	}
	j, err := hikae.OpenFileJournal(p.Journal)
	if err != nil {
		return nil, nil, errors.Join(err, r.Close())
	}
	return r, j, nil
}

func victim(text string) int {
	os.Unsetenv(victimEnv)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var p plan
	err := json.Unmarshal([]byte(text), &p)
	s := &steps{at: p.At}
	if err == nil {
		err = p.backup(ctx, s)
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(s.names)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (p *plan) backup(ctx context.Context, s *steps) error {
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	c.HTTP().Transport = &counted{c.HTTP().Transport, s}
	r, j, err := p.open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	defer j.Close()
	provider, err := vmware.New(c, []types.ManagedObjectReference{{Type: "VirtualMachine", Value: p.VM}}, p.options())
	if err != nil {
		return err
	}
	_, err = job.Backup(ctx, provider, p.VM, r, &job.BackupOptions{Name: "web0", Workers: 1, Journal: &countedJournal{j, s},
		Wrap: func(_ context.Context, _ hikae.Disk, img pipe.Image) (pipe.Image, error) {
			return &countedImage{img, s}, nil
		}})
	return err
}

// steps counts what a session has done, and ends the program after one of them as a power cut would.
type steps struct {
	mu    sync.Mutex
	at    int
	names []string
}

func (s *steps) pass(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = append(s.names, name)
	if len(s.names) == s.at {
		if self, err := os.FindProcess(os.Getpid()); err == nil {
			self.Kill()
		}
		select {}
	}
}

// countedJournal has a step after each effect that is written down, and after each that is struck out.
type countedJournal struct {
	hikae.Journal
	steps *steps
}

func (j *countedJournal) Intend(ctx context.Context, e hikae.Effect) (func(context.Context) error, error) {
	done, err := j.Journal.Intend(ctx, e)
	j.steps.pass("intend " + e.Kind)
	return func(ctx context.Context) error {
		err := done(ctx)
		j.steps.pass("done " + e.Kind)
		return err
	}, err
}

// counted has a step after each answer of the server.
type counted struct {
	http.RoundTripper
	steps *steps
}

var methodName = regexp.MustCompile(`Body[^>]*>\s*<(\w+)`)

func (t *counted) RoundTrip(req *http.Request) (*http.Response, error) {
	name := req.Method + " " + req.URL.Path
	if req.Body != nil && req.URL.Path == "/sdk" {
		body, err := io.ReadAll(io.LimitReader(req.Body, 1<<20)) // calls are short
		if err != nil {
			return nil, err
		}
		req.Body = io.NopCloser(bytes.NewReader(body))
		if m := methodName.FindSubmatch(body); m != nil {
			name = string(m[1])
		}
	}
	res, err := t.RoundTripper.RoundTrip(req)
	t.steps.pass(name)
	return res, err
}

// countedImage has a step after each read.
type countedImage struct {
	pipe.Image
	steps *steps
}

func (i *countedImage) Unwrap() pipe.Image { return i.Image }

func (i *countedImage) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := i.Image.ReadAt(ctx, p, off)
	i.steps.pass("read")
	return n, err
}
