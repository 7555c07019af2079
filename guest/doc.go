// Package guest works inside virtual machines: it brings a small component into a guest, freezes and thaws it right around a
// snapshot, asks its applications to be consistent, indexes its files, ships its transaction logs, and leaves nothing.
//
// # Ways in
//
// A [Way] is one kind of channel set up for one guest: SSH, SMB with the service control manager, WinRM, or what the
// hypervisor offers. Each is a package of its own, so that a program compiles only those that it names:
//
//	guest/sshchannel     SSH and SFTP                          Linux, Windows with OpenSSH      TCP 22
//	guest/smbchannel     SMB and the service control manager   Windows                          TCP 445
//	guest/winrmchannel   WinRM                                 Windows                          TCP 5985, 5986
//	kvm                  QEMU guest agent                      any                              none
//	vmware/guestops      vSphere guest operations              any with VMware Tools            none (443 to the host)
//	hyperv/psdirect      PowerShell Direct                     Windows on Hyper-V 2016+         none (5985 to the host)
//
// [Over] makes a channel of any [hikae.GuestChannel].
//
// # Components
//
// The runtime component is deployed when a session starts and removed when it ends; removal is proven. The persistent
// component is installed once and listens on one port. Both are the program of package guest/agent and speak the frames
// of guest/agent/wire; a [Component] is the client of either.
package guest
