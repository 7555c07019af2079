package guestops

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hikae/hikae/guest"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"
)

// host is a simulated vCenter or ESXi host with one machine whose guest is this machine.
type host struct {
	client *vim25.Client
	vm     *object.VirtualMachine
	dir    string // of the guest: here the component and what programs print go
}

const secret = "pa55-in-the-guest"

var cred = guest.Credential{User: "root", Password: secret}

func soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// newHost starts one with TLS, whose certificate is known by its thumbprint alone.
func newHost(t testing.TB, model *simulator.Model) *host {
	t.Helper()
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("there is no tar here, by which the simulator moves files")
	}
	require.NoError(t, model.Create())
	t.Cleanup(model.Remove)
	model.Service.TLS = new(tls.Config)
	s := model.Service.NewServer()
	t.Cleanup(s.Close)
	h := &host{dir: t.TempDir()}
	require.NoError(t, os.Chmod(h.dir, 0o700))
	c, err := govmomi.NewClient(soon(t), s.URL, true)
	require.NoError(t, err)
	t.Cleanup(c.CloseIdleConnections)
	h.client = c.Client
	f := find.NewFinder(c.Client)
	vms, err := f.VirtualMachineList(soon(t), "/*/vm/*")
	require.NoError(t, err)
	h.vm = vms[0]
	h.reconfigure(t, map[string]string{"RUN.container": "guest", "RUN.mountdmi": "false"})
	return h
}

func (h *host) reconfigure(t testing.TB, extra map[string]string) {
	t.Helper()
	var spec types.VirtualMachineConfigSpec
	for k, v := range extra {
		spec.ExtraConfig = append(spec.ExtraConfig, &types.OptionValue{Key: k, Value: v})
	}
	task, err := h.vm.Reconfigure(soon(t), spec)
	require.NoError(t, err)
	require.NoError(t, task.Wait(soon(t)))
}

func small() *simulator.Model {
	m := simulator.VPX()
	m.Host, m.Cluster, m.ClusterHost, m.Machine = 1, 0, 0, 1
	return m
}

func (h *host) way() *Way {
	return New(h.client, h.vm.Reference(), Password(cred), &Options{Temp: []string{h.dir}})
}

func (h *host) open(t testing.TB) *Channel {
	t.Helper()
	c, err := Open(soon(t), h.client, h.vm.Reference(), Password(cred), &Options{Temp: []string{h.dir}})
	require.NoError(t, err)
	return c
}

// left is what lies in the guest.
func (h *host) left(t testing.TB) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(h.dir)
	require.NoError(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// cutting loses the nth request, or its answer.
type cutting struct {
	http.RoundTripper
	at, count atomic.Int64
	answer    bool // it is the answer that is lost
}

var errCut = errors.New("the line was cut")

func (c *cutting) RoundTrip(r *http.Request) (*http.Response, error) {
	cut := c.count.Add(1) == c.at.Load()
	if cut && !c.answer {
		return nil, errCut
	}
	res, err := c.RoundTripper.RoundTrip(r)
	if cut && err == nil {
		res.Body.Close()
		return nil, errCut
	}
	return res, err
}

// cut puts a line that can be cut under the client.
func (h *host) cut(answer bool) *cutting {
	c := &cutting{RoundTripper: h.client.Client.Client.Transport, answer: answer}
	h.client.Client.Client.Transport = c
	return c
}

func (h *host) uncut(c *cutting) { h.client.Client.Client.Transport = c.RoundTripper }
