// Package nfcsoap has the calls that hand out tickets for a host's network disk service. They are part of vSphere's API but not
// of its published bindings, so that neither govmomi's client nor its simulator knows them.
//
// # The object
//
// [Find] says where the service's managed object is: what the server itself calls it, or the name that is fixed for its kind.
//
//	vCenter Server   NfcService:nfcService
//	ESXi             NfcService:ha-nfc-service
//
// # The calls
//
//	NfcGetVmFiles(vm, hostForAccess?)                                    read: any file of the VM's disks, snapshots' parents too
//	NfcRandomAccessOpenReadonly(vm, diskDeviceKey, hostForAccess?)       read: one disk
//	NfcRandomAccessOpenDisk(vm, diskDeviceKey, hostForAccess?)           write: one disk of a VM that is off
//
// Each answers a types.HostServiceTicket, whose session id is good for one connection. Which file is opened is said on that
// connection, not here. Names and order of the parameters are those that VMware's own library was seen to send to vCenter Server
// 8.0; no host of another version has been met.
package nfcsoap
