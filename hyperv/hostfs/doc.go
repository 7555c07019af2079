// Package hostfs reads and writes the files of a Hyper-V host by SMB, by the names that the host itself uses for them. Reach for
// it wherever a disk or a configuration lies on a host, on a volume of its cluster or on a file server, and this machine is
// another one: nothing is mounted, nothing runs on the host, and no privilege is needed here.
//
//	files, err := hostfs.New(hostfs.Options{Machine: "HV1", Login: login})
//	disk, err := vhdx.OpenIn(ctx, files, `C:\VMs\web1.avhdx`, nil)
//
// # Names
//
//	C:\VMs\web1.vhdx                       \\HV1\C$\VMs\web1.vhdx        a drive is its administrative share
//	C:\ClusterStorage\Volume1\web1.vhdx    \\HV1\C$\ClusterStorage\…     any node reaches a cluster's volume
//	\\fs1\vms\web1.vhdx                    \\fs1\vms\web1.vhdx           a share is itself
//
// Names are taken as [vhdx.WindowsPath] takes them. A disk file can name anybody's server as the one that its parent lies on, and
// whoever is logged on to learns what an attack on the password needs: [Options.Login] is asked for every server, and answers for
// those that are known.
//
// # Reading
//
// A file is open with sharing for reading and writing, so that whoever runs the VM goes on. Several reads are under way at once,
// on several connections. What is lost with a connection is opened again by name, and only goes on if it is the same file as
// before, by the server's number for it, its length and when it was last written to: otherwise it is a *diskfile.ChangedError, and
// never bytes of two files. The client library knows no way to share deletion: who wants to delete or rename an open file waits
// until it is closed, so close images before the checkpoint goes that they belong to.
//
// # Writing
//
// Each file that is written to has a connection of its own. When it is lost, so is the file: an error that is [ErrLost], and
// nothing is repeated unseen. Who writes shares reading and writing too, as the library knows nothing else: a second writer by the
// same store is refused with [ErrBusy], and one from elsewhere is for who asks to keep out. Write to disks of VMs that are off.
//
// # Security
//
// Messages are signed, always; guests and anonymous users cannot sign and are refused. They are encrypted where server or share
// ask for it, and [Options.RequireEncryption] refuses others. What a server says is bounded and checked.
//
// What stands here has met Samba and no Windows yet.
package hostfs
