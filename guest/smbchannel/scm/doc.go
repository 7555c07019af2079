// Package scm talks to the service control manager of a Windows machine: make a service of a program, start it, ask
// after it, stop it, delete it. Reach for it where a program must be started on a machine of which only TCP 445 can be
// reached.
//
// It is MS-SCMR over a pipe named svcctl that somebody else opened and authenticated (package guest/smbchannel does it
// over SMB). The account must be one that the machine takes for an administrator.
//
// # What was held against what
//
// Open, status, start and control were run against Samba's own implementation. Samba has no CreateServiceW and no
// DeleteService: those two are held against bytes written by hand from the standards (testdata/vectors.txt), against the
// calls of an independent client library, and against our own fake, package scmtest. Not yet verified on Windows.
package scm
