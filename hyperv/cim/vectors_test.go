package cim

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The files of testdata were written from the standards, each with what it rests on, before and without this code.

func vector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	return b
}

// plain is a document without what does not count: prefixes, their declarations, comments, spaces between elements.
func plain(t testing.TB, b []byte) string {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(string(b)))
	var out strings.Builder
	for {
		tok, err := d.Token()
		if err != nil {
			require.EqualError(t, err, "EOF")
			return out.String()
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			out.WriteString("\n<" + tok.Name.Space + " " + tok.Name.Local)
			var attrs []string
			for _, a := range tok.Attr {
				if a.Name.Space != "xmlns" && a.Name.Local != "xmlns" {
					attrs = append(attrs, a.Name.Space+":"+a.Name.Local+"="+a.Value)
				}
			}
			sort.Strings(attrs)
			out.WriteString(" " + strings.Join(attrs, " ") + ">")
		case xml.EndElement:
			out.WriteString("</>")
		case xml.CharData:
			out.WriteString(strings.TrimSpace(string(tok)))
		}
	}
}

const (
	vmID = "A0A00000-0000-4000-8000-000000000001"
	id   = "6F9619FF-8B86-4D01-B42D-00CF4FC964FF"
)

var vm = Ref{Namespace: Virtualization, Class: "Msvm_ComputerSystem", Keys: []Key{{Name: "CreationClassName", Value: "Msvm_ComputerSystem"}, {Name: "Name", Value: vmID}}}

// sent records what a client sends, and answers with vectors.
type sent struct {
	t       *testing.T
	answers []string
	got     [][]byte
}

func (s *sent) post(m []byte) []byte {
	s.got = append(s.got, m)
	require.NotEmpty(s.t, s.answers, "an exchange too many:\n%s", m)
	a := s.answers[0]
	s.answers = s.answers[1:]
	return vector(s.t, a)
}

func (s *sent) want(names ...string) {
	s.t.Helper()
	require.Len(s.t, s.got, len(names))
	for i, n := range names {
		require.Equal(s.t, plain(s.t, vector(s.t, n)), plain(s.t, s.got[i]), n)
	}
}

func onVectors(t *testing.T, answers ...string) (*Client, *sent) {
	s := &sent{t: t, answers: answers}
	c := wired(t, s.post)
	return c, s
}

func TestGetVector(t *testing.T) {
	c, s := onVectors(t, "get-answer.xml")
	in, err := c.Get(t.Context(), vm)
	require.NoError(t, err)
	s.want("get.xml")
	checkVM(t, in, vmID)
	require.Equal(t, vm, in.Ref)
}

func checkVM(t *testing.T, in *Instance, name string) {
	t.Helper()
	var got struct {
		Class  string    `cim:"CreationClassName"`
		Title  string    `cim:"elementname"`
		State  uint16    `cim:"EnabledState"`
		Health *uint16   `cim:"HealthState"`
		Made   time.Time `cim:"InstallDate"`
		Name   string    `cim:"Name"`
		Status []uint16  `cim:"OperationalStatus"`
		On     uint64    `cim:"OnTimeInMilliseconds"`
		None   []string  `cim:"NotThere"`
		Maybe  string    `cim:"NotThereEither,optional"`
	}
	require.NoError(t, in.Decode(&got))
	require.Equal(t, "Msvm_ComputerSystem", in.Class)
	require.Equal(t, "Büro & Web", got.Title)
	require.Equal(t, uint16(2), got.State)
	require.Nil(t, got.Health)
	require.True(t, time.Date(2025, 5, 6, 7, 8, 9, 250_000_000, time.UTC).Equal(got.Made))
	require.Equal(t, name, got.Name)
	require.Equal(t, []uint16{2, 32772}, got.Status)
	require.Equal(t, uint64(1<<64-1), got.On)
	require.Nil(t, got.None)
	var narrow struct {
		On uint32 `cim:"OnTimeInMilliseconds"`
	}
	require.ErrorIs(t, in.Decode(&narrow), ErrMalformed)
	require.ErrorContains(t, in.Decode(&narrow), "Msvm_ComputerSystem.OnTimeInMilliseconds")
	var missing struct {
		X string `cim:"NotThere"`
	}
	require.ErrorIs(t, in.Decode(&missing), ErrMalformed)
}

func TestEnumerateVectors(t *testing.T) {
	c, s := onVectors(t, "enumerate-answer.xml", "pull-answer.xml")
	list, err := All(c.Enumerate(t.Context(), Virtualization, "Msvm_ComputerSystem", &QueryOptions{Refs: true, Polymorphism: Exact, Page: 2}))
	require.NoError(t, err)
	require.Len(t, list, 2)
	checkVM(t, list[0], vmID)
	checkVM(t, list[1], vmID[:35]+"2")
	require.Equal(t, vm, list[0].Ref)
	require.Equal(t, plain(t, vector(t, "enumerate-class.xml")), plain(t, s.got[0]))
}

func TestQueryVectors(t *testing.T) {
	c, s := onVectors(t, "enumerate-answer.xml", "pull-answer.xml")
	_, err := All(c.Associators(t.Context(), vm, Hop{Association: "Msvm_SettingsDefineState", Result: "Msvm_VirtualSystemSettingData"}, nil))
	require.NoError(t, err)
	s.want("enumerate-wql.xml", "pull.xml")

	c, s = onVectors(t, "enumerate-answer.xml", "get-answer.xml")
	for range c.Associators(t.Context(), vm, Hop{Association: "Msvm_SettingsDefineState", Result: "Msvm_VirtualSystemSettingData"}, nil) {
		break // what is not read to its end is released
	}
	s.want("enumerate-wql.xml", "release.xml")
}

var snapshots = Ref{Namespace: Virtualization, Class: "Msvm_VirtualSystemSnapshotService", Keys: []Key{{Name: "SystemCreationClassName", Value: "Msvm_ComputerSystem"},
	{Name: "SystemName", Value: "HV1"}, {Name: "CreationClassName", Value: "Msvm_VirtualSystemSnapshotService"}, {Name: "Name", Value: "vmms"}}}

func snapshotArgs() []Property {
	set := &Instance{Class: "Msvm_VirtualSystemSnapshotSettingData"}
	set.Set("ConsistencyLevel", uint8(1))
	set.Set("IgnoreNonSnapshottableDisks", false)
	return []Property{{Name: "AffectedSystem", Value: vm}, {Name: "SnapshotSettings", Value: set}, {Name: "SnapshotType", Value: uint16(32768)},
		{Name: "ResultingSnapshot"}}
}

func TestInvokeVectors(t *testing.T) {
	for _, answer := range []string{"invoke-answer.xml", "invoke-answer-class.xml"} {
		c, s := onVectors(t, answer)
		out, err := c.Invoke(t.Context(), snapshots, "CreateSnapshot", snapshotArgs())
		require.NoError(t, err)
		s.want("invoke.xml")
		code, err := Returned(out)
		require.NoError(t, err)
		require.Equal(t, uint32(JobStarted), code)
		var got struct {
			Job    Ref  `cim:"Job"`
			Result *Ref `cim:"ResultingSnapshot"`
		}
		require.NoError(t, out.Decode(&got))
		require.Nil(t, got.Result)
		require.Equal(t, Ref{Namespace: Virtualization, Class: "Msvm_ConcreteJob", Keys: []Key{{Name: "InstanceID", Value: "10B00000-0000-4000-8000-000000000007"}}}, got.Job)
	}
}

func TestPutVector(t *testing.T) {
	c, s := onVectors(t, "get-answer.xml")
	in := &Instance{Class: "Msvm_VirtualSystemSettingData"}
	in.Set("ElementName", "a < b & c")
	in.Set("Notes", []string{"one", "two"})
	in.Set("CreationTime", time.Date(2025, 5, 6, 7, 8, 9, 0, time.UTC))
	in.Set("AutomaticStartupActionDelay", 90*time.Second)
	in.Set("IncrementalBackupEnabled", true)
	_, err := c.Put(t.Context(), Ref{Namespace: Virtualization, Class: in.Class, Keys: []Key{{Name: "InstanceID", Value: "Microsoft:" + vmID}}}, in)
	require.NoError(t, err)
	s.want("put.xml")
}

func TestFaultVectors(t *testing.T) {
	for name, want := range map[string]struct {
		is   []error
		text string
	}{
		"fault-wmi.xml":      {[]error{os.ErrNotExist}, "InternalError (WMI 0x80041002): The service failed.: Not found"},
		"fault-denied.xml":   {[]error{os.ErrPermission}, "AccessDenied (0x00000005): Access is denied."},
		"fault-timedout.xml": {[]error{ErrTimedOut}, "TimedOut (0x80338029)"},
		"fault-encoding.xml": {[]error{ErrTooLarge}, "EncodingLimit: It does not fit."},
		"fault-filter.xml":   {[]error{ErrQuery}, "CannotProcessFilter (WMI 0x80041017): The filter is invalid.: Invalid query"},
	} {
		_, err := readAnswer(vector(t, name), id)
		var f *Fault
		require.ErrorAs(t, err, &f, name)
		require.Contains(t, err.Error(), want.text, name)
		for _, e := range []error{os.ErrNotExist, os.ErrPermission, ErrTimedOut, ErrTooLarge, ErrQuery, ErrBusy, ErrArgument} {
			require.Equal(t, slices.Contains(want.is, e), f.Is(e), "%s: %v", name, e)
		}
	}
	f, _ := readAnswer(vector(t, "fault-encoding.xml"), id)
	require.Nil(t, f)
	_, err := readAnswer(vector(t, "get-answer.xml"), "another")
	require.ErrorIs(t, err, ErrMalformed)
}

func TestInstanceVector(t *testing.T) {
	inner := &Instance{Class: "Inner"}
	inner.Set("A", uint16(7))
	in := &Instance{Class: "Msvm_VirtualSystemExportSettingData", Properties: []Property{
		{Name: "CopySnapshotConfiguration", Value: uint8(3)}, {Name: "CopyVmStorage", Value: true}, {Name: "Signed", Value: int32(-5)},
		{Name: "Ratio", Value: 0.5}, {Name: "DifferentialBackupBase", Type: "string"},
		{Name: "SnapshotVirtualSystem", Value: Ref{Namespace: Virtualization, Class: "Msvm_VirtualSystemSettingData",
			Keys: []Key{{Name: "InstanceID", Value: "Microsoft:5AA&<1>"}}}.Path("HV1")},
		{Name: "ExcludedVirtualHardDisks", Value: []string{"a", "b"}}, {Name: "Sizes", Value: []uint64{0, 1<<64 - 1}},
		{Name: "At", Value: time.Date(2025, 5, 6, 7, 8, 9, 250_000_000, time.FixedZone("", 3600))},
		{Name: "For", Value: 26*time.Hour + 3*time.Minute + 4*time.Second + 5*time.Microsecond}, {Name: "Inner", Value: inner},
		{Name: "Of", Value: Ref{Namespace: Virtualization, Class: "Msvm_ComputerSystem", Keys: []Key{{Name: "Name", Value: "x"}}}},
	}}
	text, err := in.XML()
	require.NoError(t, err)
	want := vector(t, "instance.xml")
	require.Equal(t, plain(t, want), plain(t, []byte(text)))

	back, err := ParseXML(want)
	require.NoError(t, err)
	var got struct {
		Copy   uint8         `cim:"CopySnapshotConfiguration"`
		Vm     bool          `cim:"CopyVmStorage"`
		Signed int32         `cim:"Signed"`
		Ratio  float64       `cim:"Ratio"`
		Base   *string       `cim:"DifferentialBackupBase"`
		Of     Ref           `cim:"SnapshotVirtualSystem"`
		Disks  []string      `cim:"ExcludedVirtualHardDisks"`
		Sizes  []uint64      `cim:"Sizes"`
		At     time.Time     `cim:"At"`
		For    time.Duration `cim:"For"`
		Inner  *Instance     `cim:"Inner"`
		Owner  Ref           `cim:"Of"`
	}
	require.NoError(t, back.Decode(&got))
	require.Equal(t, uint8(3), got.Copy)
	require.True(t, got.Vm)
	require.Equal(t, int32(-5), got.Signed)
	require.Nil(t, got.Base)
	require.Equal(t, "Microsoft:5AA&<1>", got.Of.Key("instanceid"))
	require.Equal(t, []uint64{0, 1<<64 - 1}, got.Sizes)
	require.True(t, got.At.Equal(time.Date(2025, 5, 6, 6, 8, 9, 250_000_000, time.UTC)))
	require.Equal(t, 26*time.Hour+3*time.Minute+4*time.Second+5*time.Microsecond, got.For)
	require.Equal(t, "7", got.Inner.Text("A"))
	require.Equal(t, in.Properties[11].Value, got.Owner)
}

func TestInstanceOfWMI(t *testing.T) {
	in, err := ParseXML(vector(t, "instance-wmi.xml"))
	require.NoError(t, err)
	require.Equal(t, "'web1' failed to merge <disk>", in.Text("Message"))
	v, there := in.Value("MessageArguments")
	require.True(t, there)
	require.Nil(t, v)
	require.Equal(t, "'web1' failed to merge <disk>", errorText(string(vector(t, "instance-wmi.xml"))))
}
