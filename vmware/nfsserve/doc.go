// Package nfsserve offers disks as VMDK files over NFS version 3, so that an ESXi host can start a VM from a restore point
// without copying it first: a datastore is what it mounts, and the point is what lies in it.
//
// Reach for [New] with the images of a point. What the VM writes goes into a folder, never into the images.
//
//	ESXi ── mount ──► Server ── web1.vmdk ────────► a descriptor, made here
//	        NFSv3       │       web1-flat.vmdk ───► Overlay ── written ──► Folder/overlays
//	                    │                              └────── else ─────► the point's image
//	                    └────── everything else ──► Folder/files: .vmx, logs, swap, locks: what the host makes
//
// # Trust
//
// NFS version 3 knows hosts and no users. A server answers only addresses that it was told, mounts only under a path that
// holds a secret, and gives handles that nobody can make up; all of it goes over the wire in the clear, so the network
// between the host and here has to be one that is trusted. Every call is looked at, whole, before the
// library below gets it: what does not have its procedure's form, or is longer than a host's calls are, ends its connection.
//
// # What is durable
//
// A write is answered when it is on the disk of this machine: the overlay is flushed first, once for all writes that wait.
// [Options.Async] answers earlier; then what was written in the last second can be lost with the machine.
//
// # What was tested
//
// An own client of the protocol, in the tests, and no ESXi host yet. The library below (github.com/willscott/go-nfs
// v0.0.4) does not know exclusive creation; whether a host does without it is not known. Everything goes over one port, and
// a host asks for it at port 111: see [Portmap].
package nfsserve
