// Package hypervtest is a Hyper-V host for tests, at its own boundary: a listener of WS-Management on 127.0.0.1 with NTLM and
// sealed messages, and behind it a small manager of CIM objects: classes with keys, instances, associations, a part of WQL,
// methods that are Go functions, jobs that take time, faults at any call, lost sessions. It shares no code with the client.
//
//	h, err := hypervtest.Start(&hypervtest.Options{User: "eva", Password: "pw"})
//	vm := h.AddVM(hypervtest.VM{Name: "web1", Generation: 2, Version: "9.0", Disks: []hypervtest.Disk{{Path: `C:\vm\web1.vhdx`, Size: 1 << 30}}})
//
// # Where its shapes come from
//
// Names of classes, methods, parameters and states are those of Microsoft's documentation of root\virtualization\v2. From
// general knowledge, and to be compared with a real host: the ResourceSubType words of drives and controllers, the forms of
// InstanceID, which association leads from settings to their parts, and what GetVirtualHardDiskSettingData gives besides
// sizes. The fragments of fault documents are those of [MS-WSMV].
//
// # What it does not do yet
//
// A checkpoint here is an object and no AVHDX file: disks have no content.
package hypervtest
