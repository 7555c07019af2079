package nfcsoap

import (
	"reflect"

	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// Service is the type of the managed object.
const Service = "NfcService"

// The names that the object has.
var (
	OfVCenter = types.ManagedObjectReference{Type: Service, Value: "nfcService"}
	OfHost    = types.ManagedObjectReference{Type: Service, Value: "ha-nfc-service"}
)

// Requests have to be known by name to a server that decodes them with govmomi. RetrieveInternalContent is known to govmomi's
// simulator already, by a type of its own, and registering another one would break every simulator of the process.
func init() {
	types.Add("NfcGetVmFiles", reflect.TypeFor[NfcGetVmFiles]())
	types.Add("NfcRandomAccessOpenReadonly", reflect.TypeFor[NfcRandomAccessOpenReadonly]())
	types.Add("NfcRandomAccessOpenDisk", reflect.TypeFor[NfcRandomAccessOpenDisk]())
}

// NfcGetVmFiles asks for a ticket that reads the disks of a VM.
type NfcGetVmFiles struct {
	This types.ManagedObjectReference  `xml:"_this"`
	Vm   types.ManagedObjectReference  `xml:"vm"`
	Host *types.ManagedObjectReference `xml:"hostForAccess,omitempty"`
}

// NfcRandomAccessOpenReadonly asks for a ticket that reads one disk.
type NfcRandomAccessOpenReadonly struct {
	This          types.ManagedObjectReference  `xml:"_this"`
	Vm            types.ManagedObjectReference  `xml:"vm"`
	DiskDeviceKey int32                         `xml:"diskDeviceKey"` // 2000 …
	Host          *types.ManagedObjectReference `xml:"hostForAccess,omitempty"`
}

// NfcRandomAccessOpenDisk asks for a ticket that reads and writes one disk.
type NfcRandomAccessOpenDisk struct {
	This          types.ManagedObjectReference  `xml:"_this"`
	Vm            types.ManagedObjectReference  `xml:"vm"`
	DiskDeviceKey int32                         `xml:"diskDeviceKey"`
	Host          *types.ManagedObjectReference `xml:"hostForAccess,omitempty"`
}

// TicketResponse is what each of the three answers.
type TicketResponse struct {
	Returnval types.HostServiceTicket `xml:"returnval"`
}

// NfcGetVmFilesBody is the call and its answer.
type NfcGetVmFilesBody struct {
	Req    *NfcGetVmFiles  `xml:"urn:vim25 NfcGetVmFiles,omitempty"`
	Res    *TicketResponse `xml:"NfcGetVmFilesResponse,omitempty"`
	Fault_ *soap.Fault     `xml:"http://schemas.xmlsoap.org/soap/envelope/ Fault,omitempty"`
}

// Fault is the server's, if it refused.
func (b *NfcGetVmFilesBody) Fault() *soap.Fault { return b.Fault_ }

// NfcRandomAccessOpenReadonlyBody is the call and its answer.
type NfcRandomAccessOpenReadonlyBody struct {
	Req    *NfcRandomAccessOpenReadonly `xml:"urn:vim25 NfcRandomAccessOpenReadonly,omitempty"`
	Res    *TicketResponse              `xml:"NfcRandomAccessOpenReadonlyResponse,omitempty"`
	Fault_ *soap.Fault                  `xml:"http://schemas.xmlsoap.org/soap/envelope/ Fault,omitempty"`
}

// Fault is the server's, if it refused.
func (b *NfcRandomAccessOpenReadonlyBody) Fault() *soap.Fault { return b.Fault_ }

// NfcRandomAccessOpenDiskBody is the call and its answer.
type NfcRandomAccessOpenDiskBody struct {
	Req    *NfcRandomAccessOpenDisk `xml:"urn:vim25 NfcRandomAccessOpenDisk,omitempty"`
	Res    *TicketResponse          `xml:"NfcRandomAccessOpenDiskResponse,omitempty"`
	Fault_ *soap.Fault              `xml:"http://schemas.xmlsoap.org/soap/envelope/ Fault,omitempty"`
}

// Fault is the server's, if it refused.
func (b *NfcRandomAccessOpenDiskBody) Fault() *soap.Fault { return b.Fault_ }

// retrieveInternalContent is named in the body's tag, not registered: see above.
type retrieveInternalContent struct {
	This types.ManagedObjectReference `xml:"_this"`
}

// InternalContentResponse names the service's managed object.
type InternalContentResponse struct {
	Returnval InternalContent `xml:"returnval"`
}

// InternalContent is that part of a server's internal content which is of use here.
type InternalContent struct {
	NfcService *types.ManagedObjectReference `xml:"nfcService"`
}

// InternalContentBody is the call and its answer.
type InternalContentBody struct {
	Req    *retrieveInternalContent `xml:"urn:vim25 RetrieveInternalContent,omitempty"`
	Res    *InternalContentResponse `xml:"RetrieveInternalContentResponse,omitempty"`
	Fault_ *soap.Fault              `xml:"http://schemas.xmlsoap.org/soap/envelope/ Fault,omitempty"`
}

// Fault is the server's, if it refused.
func (b *InternalContentBody) Fault() *soap.Fault { return b.Fault_ }
