package selftest

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/hypervtest"
	"github.com/hikae/hikae/job/selftest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lab is a fake host with a VM, and a site that is connected to it.
type lab struct {
	*hypervtest.Host
	site *hyperv.Site
	vm   string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	h, err := hypervtest.Start(&hypervtest.Options{Generation: "2019", User: "backup", Password: "secret of the test", Dir: t.TempDir()})
	require.NoError(t, err)
	l := &lab{Host: h}
	l.vm = h.AddVM(hypervtest.VM{Name: "web1", GuestOS: "windows", Disks: []hypervtest.Disk{{Size: 4 << 20}, {Size: 2 << 20}}})
	for disk := range 2 {
		require.NoError(t, h.VM(l.vm).Write(disk, 1<<20, bytes.Repeat([]byte("content "), 64<<10)))
	}
	l.site, err = hyperv.ConnectSite(t.Context(), h.Addr(), cim.Login{User: "backup", Password: "secret of the test"},
		&hyperv.SiteOptions{Host: hyperv.Options{CIM: &cim.Options{Plain: true}},
			Store: func(context.Context, string) (hyperv.Store, error) { return h.LocalFiles(), nil }})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, l.site.Close())
		h.Close()
	})
	return l
}

func (l *lab) clean(t *testing.T) {
	t.Helper()
	require.True(t, l.Settled(20*time.Second))
	require.Empty(t, l.Leftovers())
	require.Empty(t, l.ReferencePoints(l.vm), "the test's own base goes with its points")
}

func byName(r selftest.Result) map[string]selftest.Step {
	out := map[string]selftest.Step{}
	for _, s := range r.Steps {
		out[s.Name] = s
	}
	return out
}

// R080 to R099: the whole cycle, while the guest writes; the result tells the plan, and no names unless it is to; nothing is left, not
// even what tracking rests on.
func TestRun(t *testing.T) {
	l, scratch := newLab(t), t.TempDir()
	stop := l.VM(l.vm).Churn(1)
	defer stop()
	var told []string
	r, err := Run(t.Context(), l.site, l.vm, &Options{Scratch: scratch, Step: func(s selftest.Step) { told = append(told, s.Name) }})
	stop()
	require.NoError(t, err)
	text, err := json.MarshalIndent(r, "", " ")
	require.NoError(t, err)
	require.True(t, r.OK, "%s", text)
	require.Len(t, told, len(r.Steps))
	steps := byName(r)
	for _, name := range []string{"quiesced snapshot", "plain snapshot", "nothing left", "incremental backup"} {
		require.Equal(t, selftest.OK, steps[name].Status, "%s: %s", name, steps[name].Detail)
	}
	require.Equal(t, "production", r.Facts["procedure"])
	require.Contains(t, r.Facts["reasons"], "configuration version at least 8.0")
	require.Equal(t, "application", r.Facts["quiesced"])
	for _, name := range []string{"HV1", "127.0.0.1", `C:\`, "disk_1"} {
		require.NotContains(t, string(text), name)
	}
	left, err := os.ReadDir(scratch)
	require.NoError(t, err)
	require.Empty(t, left)
	l.clean(t)
}

// A guest that cannot be quiesced is a warning; a VM of which no checkpoint can be made is a failure, and leaves nothing either.
func TestRunDoubts(t *testing.T) {
	l := newLab(t)
	l.Fail(hypervtest.Fault{Event: "freeze", Times: -1, Code: 0x800423f4, Reason: "a writer did not answer"})
	r, err := Run(t.Context(), l.site, l.vm, &Options{Scratch: t.TempDir(), Names: true})
	require.NoError(t, err)
	require.Equal(t, selftest.Warned, byName(r)["quiesced snapshot"].Status)
	require.Equal(t, selftest.OK, byName(r)["plain snapshot"].Status)
	require.Equal(t, "HV1", r.Facts["host"])
	l.Heal()
	l.clean(t)

	l.Fail(hypervtest.Fault{Job: "CreateSnapshot", Times: -1, Code: 32775, Reason: "no room"})
	r, err = Run(t.Context(), l.site, l.vm, &Options{Scratch: t.TempDir()})
	require.NoError(t, err)
	require.False(t, r.OK)
	require.Equal(t, selftest.OK, byName(r)["nothing left"].Status)
	l.Heal()
	l.clean(t)
}

// A machine that is not there is a result, not an error.
func TestRunMissing(t *testing.T) {
	l := newLab(t)
	r, err := Run(t.Context(), l.site, "00000000-0000-4000-8000-000000000009", &Options{Scratch: t.TempDir()})
	require.NoError(t, err)
	require.False(t, r.OK)
	require.Equal(t, selftest.Failed, r.Steps[0].Status)
}

func TestDiscreet(t *testing.T) {
	test := &test{secret: []string{"HV1", ""}}
	for in, want := range map[string]string{
		"dial tcp 192.0.2.7:5985: refused":       "dial tcp …: refused",
		`open C:\VMs\web1\disk_1.vhdx: denied`:   "open … denied",
		`open \\fs1\vms\web1\disk_1.vhdx, again`: "open …, again",
		"host HV1 is busy":                       "host … is busy",
	} {
		require.Equal(t, want, test.discreet(in))
	}
	test.opts.Names = true
	require.Equal(t, "192.0.2.7", test.discreet("192.0.2.7"))
}
