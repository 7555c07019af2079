package hypervtest

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func host(t *testing.T) *Host {
	t.Helper()
	h, err := Start(&Options{JobTime: time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(h.Close)
	return h
}

// ask answers a vector of the client's, which was written from the standards.
func ask(t *testing.T, h *Host, name string, replace ...string) (string, *Failure) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "cim", "testdata", name))
	require.NoError(t, err)
	r := &request{}
	require.NoError(t, xml.Unmarshal([]byte(strings.NewReplacer(replace...).Replace(string(b))), r))
	return h.answer(r)
}

const vm = "A0A00000-0000-4000-8000-000000000001"

// The fake takes what the standards say that a client sends.
func TestVectors(t *testing.T) {
	h := host(t)
	h.AddVM(VM{ID: vm, Name: "a"})
	body, f := ask(t, h, "get.xml")
	require.Nil(t, f)
	require.Contains(t, body, "<p:ElementName>a</p:ElementName>")
	require.Contains(t, body, `<p:ProcessID xsi:nil="true"/>`)

	body, f = ask(t, h, "enumerate-class.xml")
	require.Nil(t, f)
	require.Equal(t, 2, strings.Count(body, "<a:EndpointReference>"))
	require.Contains(t, body, "<w:EndOfSequence/>")
	body, f = ask(t, h, "enumerate-class.xml", "<wsman:MaxElements>2<", "<wsman:MaxElements>1<")
	require.Nil(t, f)
	require.NotContains(t, body, "EndOfSequence")
	context := body[strings.Index(body, "uuid:"):][:41]
	body, f = ask(t, h, "pull.xml", "uuid:c0ffee00-0000-4000-8000-000000000001", context)
	require.Nil(t, f)
	require.Contains(t, body, "<n:EndOfSequence/>")
	_, f = ask(t, h, "pull.xml", "uuid:c0ffee00-0000-4000-8000-000000000001", context)
	require.Equal(t, "InvalidEnumerationContext", f.Subcode)
	_, f = ask(t, h, "release.xml")
	require.Nil(t, f)

	body, f = ask(t, h, "enumerate-wql.xml")
	require.Nil(t, f)
	require.Contains(t, body, "<p:InstanceID>Microsoft:"+vm)
	body, f = ask(t, h, "invoke.xml")
	require.Nil(t, f)
	require.Contains(t, body, "<p:ReturnValue>4096</p:ReturnValue></p:CreateSnapshot_OUTPUT>")
	require.Contains(t, body, "Msvm_ConcreteJob</w:ResourceURI>")
	_, f = ask(t, h, "invoke.xml", "CreateSnapshot_INPUT", "Other_INPUT")
	require.Equal(t, "ActionNotSupported", f.Subcode)
	_, f = ask(t, h, "get.xml", vm, "nobody")
	require.Equal(t, uint32(0x80041002), f.HRESULT)
}

// A checkpoint is in listings from its job's end at the earliest.
func TestCheckpointTakesTime(t *testing.T) {
	h := host(t)
	h.AddVM(VM{ID: vm, Name: "a"})
	h.opts.JobTime, h.opts.Late = time.Hour, time.Hour
	count := func() int {
		found, _, err := h.query(V2, "SELECT * FROM Msvm_VirtualSystemSettingData WHERE VirtualSystemType = 'Microsoft:Hyper-V:Snapshot:Recovery'")
		require.NoError(t, err)
		return len(found)
	}
	_, f := ask(t, h, "invoke.xml")
	require.Nil(t, f)
	require.Zero(t, count())
	now := time.Now()
	h.tick(now.Add(2 * time.Hour)) // its job ends; the checkpoint is late
	require.Zero(t, count())
	h.tick(now.Add(4 * time.Hour))
	require.Equal(t, 1, count())
}

func TestWQL(t *testing.T) {
	h := host(t)
	h.AddVM(VM{ID: vm, Name: `a'b`, State: 3})
	for q, want := range map[string]int{
		`SELECT * FROM Msvm_ComputerSystem`: 2,
		`select Name, ElementName from CIM_ComputerSystem where EnabledState=3 and ElementName='a\'b'`:                                 1,
		`SELECT * FROM Msvm_ComputerSystem WHERE Name <> 'HV1'`:                                                                        1,
		`ASSOCIATORS OF {Msvm_ComputerSystem.CreationClassName="Msvm_ComputerSystem",Name="` + vm + `"}`:                               1,
		`REFERENCES OF {Msvm_VirtualSystemSettingData.InstanceID="Microsoft:` + vm + `"} WHERE ResultClass = Msvm_SettingsDefineState`: 1,
	} {
		found, _, err := h.query(V2, q)
		require.NoError(t, err, q)
		require.Len(t, found, want, q)
	}
	for _, q := range []string{"", "SELECT", "SELECT * FROM", "SELECT * FROM Msvm_ComputerSystem WHERE", "SELECT * FROM Msvm_ComputerSystem WHERE a = 'b", "DELETE FROM x y",
		"SELECT * FROM Msvm_ComputerSystem WHERE a LIKE b", "ASSOCIATORS OF x", "ASSOCIATORS OF {Msvm_ComputerSystem.Name} WHERE", "SELECT * FROM ;"} {
		_, _, err := h.query(V2, q)
		require.Error(t, err, q)
	}
}

func FuzzWQL(f *testing.F) {
	f.Add(`SELECT a, b FROM Msvm_ComputerSystem WHERE a = 'x\'y' AND b <> 3`)
	f.Add(`ASSOCIATORS OF {Msvm_ComputerSystem.Name="x"} WHERE AssocClass = A ResultClass = B`)
	h, err := Start(nil)
	require.NoError(f, err)
	defer h.Close()
	f.Fuzz(func(t *testing.T, q string) { h.query(V2, q) })
}
