package cim_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

type before = func(hypervtest.Seen) *hypervtest.Failure

func start(t *testing.T, o hypervtest.Options, c *cim.Options) (*hypervtest.Host, *cim.Client) {
	t.Helper()
	h, err := hypervtest.Start(&o)
	require.NoError(t, err)
	t.Cleanup(h.Close)
	if c == nil {
		c = &cim.Options{}
	}
	c.Plain = true
	client, err := cim.Dial(t.Context(), h.Addr(), cim.Login{User: "eva", Password: "pw"}, c)
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	return h, client
}

// on fails the nth call of an action.
func on(action string, n int, f hypervtest.Failure) before {
	count := 0
	return func(s hypervtest.Seen) *hypervtest.Failure {
		if s.Action != action {
			return nil
		}
		if count++; count != n {
			return nil
		}
		return &f
	}
}

func count(h *hypervtest.Host, action string) (n int) {
	for _, s := range h.Seen() {
		if s.Action == action {
			n++
		}
	}
	return n
}

const everything = "SELECT * FROM Msvm_ComputerSystem"

// All of many come, in pages, whatever the pages' size; what is left early is released; nothing went in clear text.
func TestPages(t *testing.T) {
	for _, page := range []int{1, 2, 7, 100} {
		h, c := start(t, hypervtest.Options{}, &cim.Options{Page: page})
		for i := range 20 {
			h.AddVM(hypervtest.VM{Name: fmt.Sprintf("vm & %d", i)})
		}
		list, err := cim.All(c.Query(t.Context(), cim.Virtualization, everything, &cim.QueryOptions{Refs: true}))
		require.NoError(t, err)
		require.Len(t, list, 21)
		got, err := c.Get(t.Context(), list[20].Ref)
		require.NoError(t, err)
		require.Equal(t, "vm & 19", got.Text("ElementName"))
		for range c.Query(t.Context(), cim.Virtualization, everything, nil) {
			break
		}
		require.Zero(t, h.Open())
		require.False(t, h.Clear())
		_, err = cim.All(c.Query(t.Context(), cim.Virtualization, everything, &cim.QueryOptions{MaxItems: 20}))
		require.ErrorIs(t, err, cim.ErrTooLarge)
		require.Zero(t, h.Open())
	}
}

// Instances that together do not fit an answer are asked for in smaller numbers.
func TestLargeInstances(t *testing.T) {
	h, c := start(t, hypervtest.Options{Before: on("Enumerate", 1, hypervtest.Failure{Subcode: "EncodingLimit"})}, nil)
	for range 12 {
		h.AddVM(hypervtest.VM{Name: strings.Repeat("x", 90_000)})
	}
	list, err := cim.All(c.Query(t.Context(), cim.Virtualization, everything, nil))
	require.NoError(t, err)
	require.Len(t, list, 13)
	require.Equal(t, 2, count(h, "Enumerate"))
	h.AddVM(hypervtest.VM{Name: strings.Repeat("x", 600_000)})
	_, err = cim.All(c.Query(t.Context(), cim.Virtualization, everything, nil))
	require.ErrorIs(t, err, cim.ErrTooLarge)
}

func TestWQL(t *testing.T) {
	h, c := start(t, hypervtest.Options{}, nil)
	h.AddVM(hypervtest.VM{Name: `o'ne \ "two"`, State: 3})
	h.AddVM(hypervtest.VM{Name: "other"})
	in, err := cim.One(c.Query(t.Context(), cim.Virtualization, everything+" WHERE EnabledState = 3 AND ElementName = "+cim.Quote(`o'ne \ "two"`), nil))
	require.NoError(t, err)
	ref, err := in.Keyed(cim.Virtualization, "CreationClassName", "Name")
	require.NoError(t, err)
	set, err := cim.One(c.Associators(t.Context(), ref, cim.Hop{Association: "Msvm_SettingsDefineState"}, nil))
	require.NoError(t, err)
	require.Equal(t, "Microsoft:"+in.Text("Name"), set.Text("InstanceID"))
	link, err := cim.One(c.References(t.Context(), ref, "Msvm_SettingsDefineState", nil))
	require.NoError(t, err)
	var ends struct {
		Element cim.Ref `cim:"ManagedElement"`
	}
	require.NoError(t, link.Decode(&ends))
	require.True(t, ends.Element.Same(ref))

	_, err = cim.One(c.Query(t.Context(), cim.Virtualization, "SELECT nonsense", nil))
	require.ErrorIs(t, err, cim.ErrQuery)
	_, err = cim.One(c.Query(t.Context(), cim.Virtualization, "SELECT * FROM Nothing", nil))
	require.ErrorIs(t, err, fs.ErrNotExist)
	var op *cim.OpError
	require.ErrorAs(t, err, &op)
	require.Equal(t, "SELECT * FROM Nothing", op.Object)
	list, err := cim.All(c.Enumerate(t.Context(), cim.Virtualization, "CIM_ComputerSystem", &cim.QueryOptions{Polymorphism: cim.Exact}))
	require.NoError(t, err)
	require.Empty(t, list)
}

// What only reads goes again where the link breaks or the answer is lost, or the logon is forgotten; a page that was lost
// is not asked for again, since the next would follow: the query fails.
func TestLostReads(t *testing.T) {
	for name, f := range map[string]hypervtest.Failure{"cut": {Cut: true}, "lost": {Lose: true}, "forgotten": {Forget: true},
		"busy": {Subcode: "QuotaLimit", Reason: "too many"}, "slow": {Subcode: "TimedOut"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, c := start(t, hypervtest.Options{Before: on("Enumerate", 1, f)}, nil)
			_, err := cim.One(c.Query(t.Context(), cim.Virtualization, everything, nil))
			require.NoError(t, err)
			require.Equal(t, 2, count(h, "Enumerate"))
		})
	}
	h, c := start(t, hypervtest.Options{Before: on("Pull", 1, hypervtest.Failure{Lose: true})}, &cim.Options{Page: 1})
	h.AddVM(hypervtest.VM{})
	h.AddVM(hypervtest.VM{})
	_, err := cim.All(c.Query(t.Context(), cim.Virtualization, everything, nil))
	require.Error(t, err)
	require.Equal(t, 1, count(h, "Pull"))
	_, c = start(t, hypervtest.Options{Before: on("Pull", 1, hypervtest.Failure{Subcode: "TimedOut"})}, &cim.Options{Page: 1})
	_, err = cim.All(c.Query(t.Context(), cim.Virtualization, everything, nil))
	require.NoError(t, err)
}

func service(t *testing.T, c *cim.Client, class string) cim.Ref {
	t.Helper()
	in, err := cim.One(c.Enumerate(t.Context(), cim.Virtualization, class, &cim.QueryOptions{Refs: true}))
	require.NoError(t, err)
	return in.Ref
}

func snapshot(t *testing.T, c *cim.Client, vm string) (cim.Ref, []cim.Property) {
	set := &cim.Instance{Class: "Msvm_VirtualSystemSnapshotSettingData"}
	set.Set("ConsistencyLevel", uint8(1))
	return service(t, c, "Msvm_VirtualSystemSnapshotService"), []cim.Property{
		{Name: "AffectedSystem", Value: cim.Ref{Namespace: cim.Virtualization, Class: "Msvm_ComputerSystem",
			Keys: []cim.Key{{Name: "CreationClassName", Value: "Msvm_ComputerSystem"}, {Name: "Name", Value: vm}}}},
		{Name: "SnapshotSettings", Value: set}, {Name: "SnapshotType", Value: uint16(32768)}}
}

// A method that starts a job is waited for; its checkpoint is there, and goes by another job.
func TestRun(t *testing.T) {
	h, c := start(t, hypervtest.Options{JobTime: 60 * time.Millisecond}, nil)
	vm := h.AddVM(hypervtest.VM{Name: "web1"})
	s, args := snapshot(t, c, vm)
	looks := 0
	var started cim.Ref
	out, err := c.Run(t.Context(), s, "CreateSnapshot", args, &cim.JobOptions{Poll: 50 * time.Millisecond, Progress: func(cim.Job) { looks++ },
		Started: func(job cim.Ref) error { require.Zero(t, looks); started = job; return nil }})
	require.NoError(t, err)
	require.True(t, started.Same(out.Job))
	require.Equal(t, cim.JobDone, out.State.State)
	require.Greater(t, looks, 1)
	require.False(t, out.Job.Zero())
	const recovery = "SELECT * FROM Msvm_VirtualSystemSettingData WHERE VirtualSystemType = 'Microsoft:Hyper-V:Snapshot:Recovery'"
	in, err := cim.One(c.Query(t.Context(), cim.Virtualization, recovery, &cim.QueryOptions{Refs: true}))
	require.NoError(t, err)
	_, err = c.Run(t.Context(), s, "DestroySnapshot", []cim.Property{{Name: "AffectedSnapshot", Value: in.Ref}}, nil)
	require.NoError(t, err)
	_, err = cim.One(c.Query(t.Context(), cim.Virtualization, recovery, nil))
	require.ErrorIs(t, err, fs.ErrNotExist)

	_, err = c.Run(t.Context(), s, "CreateSnapshot", args[1:], nil)
	var refused *cim.ReturnError
	require.ErrorAs(t, err, &refused)
	require.ErrorIs(t, err, cim.ErrArgument)
	_, err = c.Run(t.Context(), s, "NoSuchMethod", nil, nil)
	require.ErrorIs(t, err, cim.ErrArgument)
}

// A job that fails says why, and one that has no end in time says that it may go on.
func TestJobs(t *testing.T) {
	_, c := start(t, hypervtest.Options{JobTime: 10 * time.Millisecond}, nil)
	images := service(t, c, "Msvm_ImageManagementService")
	_, err := c.Run(t.Context(), images, "GetVirtualHardDiskSettingData", []cim.Property{{Name: "Path", Value: `C:\none.vhdx`}}, nil)
	var job *cim.JobError
	require.ErrorAs(t, err, &job)
	require.Equal(t, []string{"the system cannot find the file specified"}, job.Errors)
	require.Equal(t, cim.JobException, job.Job.State)

	h, c := start(t, hypervtest.Options{JobTime: time.Hour}, nil)
	s, args := snapshot(t, c, h.AddVM(hypervtest.VM{Name: "web1"}))
	out, err := c.Run(t.Context(), s, "CreateSnapshot", args, &cim.JobOptions{Limit: 100 * time.Millisecond, Poll: 20 * time.Millisecond})
	var unknown *cim.UnknownError
	var limit *cim.JobLimitError
	require.ErrorAs(t, err, &unknown)
	require.ErrorAs(t, err, &limit)
	require.False(t, out.Job.Zero(), "which job it is stays known")

	_, err = c.Wait(t.Context(), cim.Ref{Namespace: cim.Virtualization, Class: "Msvm_ConcreteJob", Keys: []cim.Key{{Name: "InstanceID", Value: "gone"}}}, nil)
	require.ErrorIs(t, err, cim.ErrJobGone)
	require.ErrorAs(t, err, &unknown)
}

// A method is called once, whatever is lost. Where it may have run the error says so; where it cannot have, it does not.
func TestLostMethods(t *testing.T) {
	for name, c := range map[string]struct {
		f       hypervtest.Failure
		unknown bool
		calls   int
	}{
		"cut":       {hypervtest.Failure{Cut: true}, true, 1},
		"lost":      {hypervtest.Failure{Lose: true}, true, 1},
		"slow":      {hypervtest.Failure{Subcode: "TimedOut"}, true, 1},
		"nonsense":  {hypervtest.Failure{Body: []byte("<x>")}, true, 1},
		"denied":    {hypervtest.Failure{Subcode: "AccessDenied", Code: 5}, false, 1},
		"forgotten": {hypervtest.Failure{Forget: true}, false, 2}, // it was not read, and goes again
	} {
		t.Run(name, func(t *testing.T) {
			h, client := start(t, hypervtest.Options{Before: on("CreateSnapshot", 1, c.f)}, nil)
			s, args := snapshot(t, client, h.AddVM(hypervtest.VM{Name: "web1"}))
			_, err := client.Run(t.Context(), s, "CreateSnapshot", args, nil)
			var unknown *cim.UnknownError
			require.Equal(t, c.unknown, errors.As(err, &unknown), "%v", err)
			require.Equal(t, c.calls == 2, err == nil, "%v", err)
			require.Equal(t, c.calls, count(h, "CreateSnapshot"))
		})
	}
}

func TestPut(t *testing.T) {
	h, c := start(t, hypervtest.Options{}, nil)
	r := cim.Ref{Namespace: cim.Virtualization, Class: "Msvm_VirtualSystemSettingData", Keys: []cim.Key{{Name: "InstanceID", Value: "Microsoft:" + h.AddVM(hypervtest.VM{Name: "x"})}}}
	in := &cim.Instance{Class: r.Class}
	in.Set("ElementName", " a <b> & ü ")
	in.Set("ConfigurationID", nil)
	got, err := c.Put(t.Context(), r, in)
	require.NoError(t, err)
	require.Equal(t, " a <b> & ü ", got.Text("ElementName"))
	again, err := c.Get(t.Context(), r)
	require.NoError(t, err)
	v, there := again.Value("configurationid")
	require.True(t, there)
	require.Nil(t, v)
}

// Whatever a peer sends is an error within a bound.
func TestHostile(t *testing.T) {
	deep := strings.Repeat("<a>", 200_000)
	for name, body := range map[string]string{
		"huge":     strings.Repeat("x", 2<<20),
		"deep":     deep,
		"many":     "<a>" + strings.Repeat("<b/>", 200_000) + "</a>",
		"entities": `<!DOCTYPE a [<!ENTITY b "bbbb">]><a>&b;</a>`,
		"nothing":  "",
		"no body":  `<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"/>`,
		"endless":  `<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"><s:Body><n:EnumerateResponse xmlns:n="http://schemas.xmlsoap.org/ws/2004/09/enumeration"/></s:Body></s:Envelope>`,
	} {
		t.Run(name, func(t *testing.T) {
			if body == "" {
				body = " "
			}
			_, c := start(t, hypervtest.Options{Before: func(hypervtest.Seen) *hypervtest.Failure { return &hypervtest.Failure{Body: []byte(body)} }}, nil)
			begun := time.Now()
			_, err := cim.All(c.Query(t.Context(), cim.Virtualization, everything, nil))
			require.Error(t, err)
			require.Less(t, time.Since(begun), 5*time.Second)
		})
	}
}

func TestWhoMayNot(t *testing.T) {
	h, _ := start(t, hypervtest.Options{}, nil)
	_, err := cim.Dial(t.Context(), h.Addr(), cim.Login{User: "eva", Password: "wrong"}, &cim.Options{Plain: true})
	var reach *cim.ReachError
	require.ErrorAs(t, err, &reach)
	require.Equal(t, "login", reach.Step)
	require.NotContains(t, err.Error(), "wrong")
	require.Empty(t, h.Seen())
}

func TestCancel(t *testing.T) {
	h, c := start(t, hypervtest.Options{JobTime: time.Hour}, nil)
	s, args := snapshot(t, c, h.AddVM(hypervtest.VM{Name: "x"}))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err := c.Run(ctx, s, "CreateSnapshot", args, nil)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, c.Close())
	_, err = c.Get(t.Context(), s)
	require.Error(t, err)
}

func TestArguments(t *testing.T) {
	_, c := start(t, hypervtest.Options{}, nil)
	s := service(t, c, "Msvm_ImageManagementService")
	for _, p := range []cim.Property{{Name: "a b", Value: "x"}, {Name: "A", Value: struct{}{}}, {Name: "A", Value: 1}, {Name: "A", Value: cim.Ref{}},
		{Name: "A", Value: &cim.Instance{Class: "<"}}, {Name: "A", Value: []any{map[string]int{}}}} {
		_, err := c.Invoke(t.Context(), s, "X", []cim.Property{p})
		require.ErrorIs(t, err, cim.ErrArgument, "%v", p)
	}
	_, err := c.Invoke(t.Context(), s, "X y", nil)
	require.ErrorIs(t, err, cim.ErrArgument)
	_, err = cim.All(c.Query(t.Context(), "root/<x>", everything, nil))
	require.ErrorIs(t, err, cim.ErrArgument)
	require.NotEmpty(t, bytes.TrimSpace([]byte(s.Path("HV1"))))
}
