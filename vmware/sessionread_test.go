package vmware

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// A property of the wrong type is an error that names it.
func TestPropertyOfTheWrongType(t *testing.T) {
	var vm mo.VirtualMachine
	ref := types.ManagedObjectReference{Type: "VirtualMachine", Value: "vm-1"}
	err := fillIn(types.ObjectContent{Obj: ref, PropSet: []types.DynamicProperty{{Name: "name", Val: "web"}, {Name: "snapshot", Val: "nothing"}}}, &vm)
	var wrong *AnswerError
	require.ErrorAs(t, err, &wrong)
	require.Equal(t, "vm-1", wrong.Object)
	require.Equal(t, "snapshot", wrong.Path)
}

// So is an answer in which an element says that it is of a type that cannot stand there.
func TestAnswerOfTheWrongType(t *testing.T) {
	f := newFront(t, small())
	c := f.connect(t, ConnectOptions{Latency: LatencyOptions{Off: true}})
	vm := c.someVM(t)
	f.on(func(w http.ResponseWriter, call string, _ int) bool {
		if call != "RetrievePropertiesEx" {
			return false
		}
		fmt.Fprintf(w, `<?xml version="1.0"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>`+
			`<RetrievePropertiesExResponse xmlns="urn:vim25"><returnval><objects><obj type="VirtualMachine">%s</obj><propSet><name>config</name>`+
			`<val xsi:type="VirtualMachineConfigInfo"><hardware><device xsi:type="Description"><label>x</label></device></hardware></val>`+
			`</propSet></objects></returnval></RetrievePropertiesExResponse></soapenv:Body></soapenv:Envelope>`, vm.Value)
		return true
	})
	_, err := c.machine(t.Context(), vm)
	f.on(nil)
	var wrong *AnswerError
	require.ErrorAs(t, err, &wrong)
	require.Contains(t, wrong.Object, "RetrievePropertiesEx")
}
