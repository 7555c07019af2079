// Package smbchannel reaches Windows guests over SMB and their service control manager: one connection to TCP 445, no
// other port, no agent in the guest beforehand. It implements [guest.Way], [guest.Channel], [guest.Launcher] and
// [guest.Cleaner].
//
// # What it does in a guest
//
//	ADMIN$     a folder hikae-… in C:\Windows, where only administrators can make one; it is closed to everybody but
//	           SYSTEM and Administrators before anything is put into it, and that is looked at. Files are made, never
//	           overwritten.
//	svcctl     a service hikae-… that runs the component as LocalSystem when we start it, and not at a start of the guest
//	           (package scm)
//	srvsvc     the guest's name and the folder behind ADMIN$
//	hikae-…    the component's own pipe: the frames of guest/agent/wire ride on the same session
//
// Closing the stream of a component stops and deletes its service; Clean looks whether service and folder are gone.
//
// # Who may
//
// The account must be an administrator of the guest. With a local one other than the built-in Administrator, remote UAC
// takes the rights away unless the guest's LocalAccountTokenFilterPolicy is 1: that shows as "rights", a wrong password as
// "login". NTLMv2 or Kerberos; with KerberosOnly nothing else is offered, and the guest must be named in full. SMB 2 or
// newer, and every message signed: a server that lets somebody in as a guest, or does not sign, is refused.
//
// # What was verified on what
//
// Files, access rights, signatures, pipes and logons were run against Samba 4.17, Kerberos against a domain controller of
// Samba's that takes no NTLM, and of the service control manager what Samba has. Making and deleting services was run
// against our own fake behind Samba (package smbtest), with the real component. Not yet verified on Windows.
//
// # What it cannot do
//
// It runs no programs for their output ([ErrNoRun]). A component that neither ends nor stops cannot be killed from here:
// its service is marked for deletion, and named as left behind. A group managed service account needs a proxy on Windows.
package smbchannel
