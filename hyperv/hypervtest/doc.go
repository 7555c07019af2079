// Package hypervtest is a Hyper-V host for tests, at its own boundary: a listener of WS-Management on 127.0.0.1 with NTLM and
// sealed messages, and behind it VMs whose disks are real files, with guests that write, are quiesced, get checkpoints and go on.
// It shares no code with the client.
//
//	h, err := hypervtest.Start(&hypervtest.Options{Generation: "2022"})
//	defer h.Close()
//	id := h.AddVM(hypervtest.VM{Name: "web1", Disks: []hypervtest.Disk{{Size: 64 << 20}, {Size: 1 << 30, Format: "vhd"}}})
//	vm := h.VM(id)
//	stop := vm.Churn(1)                          // it writes from here on
//	…                                            // a client takes a checkpoint over h.Addr() and reads h.LocalFiles()
//	want := vm.AtFreeze(0)                       // what it has to have read
//
// # What is real in it
//
// Disks are VHDX or VHD files below [Options].Dir, C:\ in its folder C. A checkpoint makes AVHDX children that the guest writes into from
// then on; removing it merges them in two passes, during which the parent changes, the child is still the tip, and OperationalStatus
// tells 32772. Chains branch where a user's checkpoint is applied. A file that nobody names any more and that one child stands on is
// merged, also in the middle of a chain; below a recovery checkpoint nothing moves. What the disks hold is kept a second time as a
// plain map of pages, so that files can be compared with something that knows no format: [Guest.AtFreeze], [Guest.Now].
//
// Changes are tracked from the first recovery checkpoint on, for VHDX files of VMs of configuration 8.0 and later. They get rougher when
// the VM goes off, or is moved, and roughest at a power cut; ids end with their reference point. GetVirtualDiskChanges gives bounded lists.
//
//	who                     | may run beside it
//	calls over the wire     | one at a time
//	guests' writes          | anything: a checkpoint or a merge holds them for a moment
//	jobs, merges            | end by themselves, whether or not somebody asks
//
// # The host's VSS, and older hosts
//
// [Host.VSS] is the Volume Shadow Copy Service with the Hyper-V writer of the host's generation, as a requester on the host calls it. Each
// generation has an order of its own, which testdata/hostvss holds as tables: a snapshot inside the guest and auto-recovery inside the
// shadow copy (2008 R2, 2012); two checkpoints, and recovery before the shadow copy (2012 R2); a guest that stands still (2016 and later).
// Shadow copies are copies of the files of a volume at one moment. [Host.Storage] is the array below the volumes, with a vendor's means.
// 2008 R2 has the namespace root\virtualization alone, whose words for a VM's parts are others.
//
// # Where its shapes come from
//
// Names of classes, methods, parameters and states are those of Microsoft's documentation of root\virtualization\v2. From
// general knowledge, or our choice, and to be compared with a real host:
//
//   - the ResourceSubType words of drives and controllers, the forms of InstanceID, which association leads from settings to their
//     parts, and what GetVirtualHardDiskSettingData gives besides sizes;
//   - how many bytes each of the three records of changes is exact to, how many ranges a list has, and that an id is unknown once
//     its reference point is destroyed;
//   - what a revert does to change tracking: ids stay known, and lists do not tell that the content went back (the worse of what may be);
//   - that extending a disk ends its ids;
//   - that a new checkpoint while a merge goes on stops that merge until the checkpoint is gone;
//   - that GuestBackupType refuses a call on hosts before 2019, as they do not know it, and recovery checkpoints before 2016;
//   - that a job's ErrorDescription holds the HRESULT of what failed;
//   - what is in configuration files (.vmcx, .vmrs, .vmgs, .rct, .mrt): stand-ins that only this package reads.
//
// The fragments of fault documents are those of [MS-WSMV].
package hypervtest
