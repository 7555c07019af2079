package selftest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae/job/selftest"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware"
	"github.com/hikae/hikae/vmware/vmwaretest"
)

// lab is a fake server with one VM of two disks, and a client of it.
type lab struct {
	*vmwaretest.Server
	client *vmware.Client
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := newLabOf(t, &vmwaretest.Options{DisksPerVM: 2, DiskBytes: 8 << 20})
	rnd := rand.NewChaCha8([32]byte{1})
	for _, d := range l.VM("web0").Disks() {
		p := make([]byte, 3<<20+512)
		_, err := io.ReadFull(rnd, p)
		require.NoError(t, err)
		require.NoError(t, d.Write(1<<20, p))
	}
	return l
}

func newLabOf(t *testing.T, opts *vmwaretest.Options) *lab {
	t.Helper()
	s, err := vmwaretest.Start(opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	c, err := vmware.Connect(t.Context(), s.URL(), vmware.Login{User: s.User(), Password: s.Password()},
		&vmware.ConnectOptions{Thumbprint: s.Thumbprint(), CallTimeout: 20 * time.Second, Latency: vmware.LatencyOptions{Off: true}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close(context.WithoutCancel(t.Context()))) })
	return &lab{s, c}
}

func (l *lab) vm() types.ManagedObjectReference { return l.VM("web0").Ref() }

// left is what the server still has of the test, but for the session that is open.
func (l *lab) left() (out []string) {
	for _, text := range l.Leftovers() {
		if !strings.HasPrefix(text, "session of ") {
			out = append(out, text)
		}
	}
	return out
}

// tools says that VMware Tools run in web0.
func (l *lab) tools(t *testing.T) {
	t.Helper()
	l.toolsOf(t, l.vm())
}

func (l *lab) toolsOf(t *testing.T, vm types.ManagedObjectReference) {
	t.Helper()
	require.NoError(t, l.reconfigure(vm, types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{
		&types.OptionValue{Key: "SET.guest.toolsRunningStatus", Value: string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)}}}))
}

func byName(r selftest.Result) map[string]selftest.Step {
	out := map[string]selftest.Step{}
	for _, s := range r.Steps {
		out[s.Name] = s
	}
	return out
}

func text(t *testing.T, r selftest.Result) string {
	t.Helper()
	p, err := json.MarshalIndent(r, "", " ")
	require.NoError(t, err)
	return string(p)
}

// The whole cycle: every transport that can be had here gives what backups read, and nothing is left.
func TestRun(t *testing.T) {
	l := newLab(t)
	l.tools(t)
	scratch, told := t.TempDir(), 0
	order := []string{vmware.NBDSSL, vmware.NBD, vmware.HTTPS, vmware.Export, vmware.VDDK}
	r, err := Run(t.Context(), l.client, l.vm(), &Options{Scratch: scratch, Step: func(selftest.Step) { told++ },
		VMware: &vmware.Options{Transports: &vmware.TransportOptions{Order: order}}})
	require.NoError(t, err)
	steps := byName(r)
	require.True(t, r.OK, text(t, r))
	require.Equal(t, len(r.Steps), told)
	for _, s := range r.Steps {
		if s.Name == "transport vddk" {
			require.Equal(t, selftest.Skipped, s.Status, "%+v", s)
			continue
		}
		require.Equal(t, selftest.OK, s.Status, "%+v", s)
	}
	require.Equal(t, "it was off, is on now, and stays so", steps["changed-block tracking"].Detail)
	require.Contains(t, steps["quiesced snapshot"].Detail, "consistency filesystem")
	for _, name := range order[:4] {
		require.Contains(t, steps["transport "+name].Detail, "the same; opened in", name)
		require.Contains(t, steps["transport "+name].Detail, "MiB read at", name)
	}
	require.Contains(t, steps["transport vddk"].Detail, "cannot be used here: no VDDK was named")
	require.Contains(t, r.Facts["server"], "vCenter")
	require.Contains(t, r.Facts["host release"], "build 21930508")
	require.NotEmpty(t, r.Facts["datastores"])
	require.Empty(t, l.left())
	left, err := os.ReadDir(scratch)
	require.NoError(t, err)
	require.Empty(t, left)
}

// Who is asked to send a result tells nothing of hosts, addresses and files by it, unless they say so.
func TestNames(t *testing.T) {
	l := newLab(t)
	l.Fail(vmwaretest.Fault{Method: "NfcRandomAccessOpenReadonly", Times: -1, Fault: &types.InvalidState{}})
	secret := []string{l.URL().Host, "DC0_H0", "DC0_C0_RP0_", "[LocalDS_0]", "127.0.0.1"}
	run := func(names bool) string {
		r, err := Run(t.Context(), l.client, l.vm(), &Options{Scratch: t.TempDir(), Names: names,
			VMware: &vmware.Options{Transports: &vmware.TransportOptions{Order: []string{"!hotadd"}}}})
		require.NoError(t, err)
		require.NotEmpty(t, byName(r)["transport nbdssl"])
		return text(t, r)
	}
	discreet := run(false)
	for _, name := range secret {
		require.NotContains(t, discreet, name)
	}
	require.Contains(t, discreet, `"vm": "web0"`)
	require.Contains(t, run(true), `"host": "DC0`)
	require.Empty(t, l.left())
}

func TestDiscreet(t *testing.T) {
	test := &test{secret: []string{"esx1.example.org", ""}}
	for in, want := range map[string]string{
		"dial tcp 192.0.2.7:902: refused":                     "dial tcp …: refused",
		"dial tcp [2001:db8::7]:902: refused":                 "dial tcp …: refused",
		"ticket for esx1.example.org":                         "ticket for …",
		"cannot open [fast 1] web1/web1-000001.vmdk: no room": "cannot open […] … no room",
		"ESXi 8.0.3 in [4096, 8192)":                          "ESXi 8.0.3 in [4096, 8192)",
	} {
		require.Equal(t, want, test.discreet(in))
	}
	test.opts.Names = true
	require.Equal(t, "192.0.2.7", test.discreet("192.0.2.7"))
}

// liar is a transport that gives other content, and broken one that cannot be opened.
type liar struct{ server *vmwaretest.Server }

func (liar) Name() string                                { return "liar" }
func (liar) Check(context.Context, *vmware.Pinned) error { return nil }
func (l liar) Open(_ context.Context, p *vmware.Pinned) (pipe.Image, error) {
	img, err := l.server.OpenDisk(p.Disk.File, false)
	return lying{img}, err
}

type lying struct{ pipe.Image }

func (l lying) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := l.Image.ReadAt(ctx, p, off)
	if off <= 2<<20 && 2<<20 < off+int64(n) {
		p[2<<20-off] ^= 1
	}
	return n, err
}

type broken struct{}

func (broken) Name() string                                { return "broken" }
func (broken) Check(context.Context, *vmware.Pinned) error { return nil }
func (broken) Open(context.Context, *vmware.Pinned) (pipe.Image, error) {
	return nil, errors.New("it does not answer")
}

// One wrong bit fails the test; a transport that does not answer is a warning, and the others are tried all the same. Both leave
// nothing.
func TestTransportIsWrong(t *testing.T) {
	l := newLab(t)
	run := func(order ...string) selftest.Result {
		opts := &vmware.TransportOptions{Order: append([]string{vmware.NBDSSL}, order...), More: []vmware.Transport{liar{l.Server}, broken{}}}
		r, err := Run(t.Context(), l.client, l.vm(), &Options{Scratch: t.TempDir(), VMware: &vmware.Options{Transports: opts}})
		require.NoError(t, err)
		require.Empty(t, l.left())
		return r
	}
	r := run("broken", vmware.HTTPS)
	require.True(t, r.OK, text(t, r))
	steps := byName(r)
	require.Equal(t, selftest.Warned, steps["transport broken"].Status)
	require.Equal(t, "disk 1: it does not answer", steps["transport broken"].Detail)
	require.Equal(t, selftest.OK, steps["transport https"].Status)

	r = run("liar", vmware.HTTPS)
	require.False(t, r.OK)
	steps = byName(r)
	require.Equal(t, selftest.Failed, steps["transport liar"].Status)
	require.Contains(t, steps["transport liar"].Detail, "other content")
	require.Equal(t, selftest.Skipped, steps["transport https"].Status)
	require.Equal(t, selftest.OK, steps["nothing left"].Status)
}

// Somebody else's work is neither disturbed nor taken for ours; what is off limits is not touched.
func TestRunBesideOthers(t *testing.T) {
	l := newLab(t)
	_, err := l.VM("web0").CreateSnapshot("before the update", "mine")
	require.NoError(t, err)
	r, err := Run(t.Context(), l.client, l.vm(), &Options{Scratch: t.TempDir(),
		VMware: &vmware.Options{KeepTracking: true, Quiesce: vmware.NoQuiesce, Transports: &vmware.TransportOptions{Order: []string{vmware.NBDSSL}}}})
	require.NoError(t, err)
	require.True(t, r.OK, text(t, r))
	steps := byName(r)
	require.Equal(t, selftest.Skipped, steps["quiesced snapshot"].Status)
	require.Contains(t, steps["quiesced snapshot"].Detail, "left alone")
	require.Equal(t, selftest.Warned, steps["changed-block tracking"].Status)
	require.Len(t, l.VM("web0").Snapshots(), 1)

	p, err := vmware.New(l.client, []types.ManagedObjectReference{l.vm()}, nil)
	require.NoError(t, err)
	snap, err := p.Snapshot(t.Context(), l.vm().Value, nil)
	require.NoError(t, err)
	r, err = Run(t.Context(), l.client, l.vm(), &Options{Scratch: t.TempDir()})
	require.NoError(t, err)
	require.False(t, r.OK)
	require.Equal(t, selftest.OK, byName(r)["nothing left"].Status, "what was there before is none of ours")
	require.NoError(t, snap.Release(t.Context()))
}

// A machine that is not there is a result, not an error; an interrupted test is one.
func TestRunMissing(t *testing.T) {
	l := newLab(t)
	gone := types.ManagedObjectReference{Type: "VirtualMachine", Value: "vm-9999"}
	r, err := Run(t.Context(), l.client, gone, &Options{Scratch: t.TempDir()})
	require.NoError(t, err)
	require.False(t, r.OK)
	require.Equal(t, selftest.Failed, r.Steps[0].Status)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Run(ctx, l.client, l.vm(), &Options{Scratch: filepath.Clean(t.TempDir())})
	require.ErrorIs(t, err, context.Canceled)
}
