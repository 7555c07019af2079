// Package guestops reaches the guests of vSphere through VMware Tools: programs and files go through vCenter or the ESXi host,
// so that no network has to lead to the guest. Reach for it where a guest is closed off, and where somebody knows an account
// in it.
//
// # What to know first
//
// The caller brings a client of govmomi that is logged in, with its own trust in the server: certificates and thumbprints
// are kept as they are there, also for the host that file transfers go to, and a transfer is never less protected than the
// client's own connection. The vSphere account needs the privileges VirtualMachine.GuestOperations.Query, .Modify and
// .Execute; the guest's account is another one: see [Password].
//
// A program runs with its streams in files of a private folder, which is made for each run and taken away after it. What a
// program prints is cut in the guest already, so that endless output does not fill its disk. Whether a guest is Windows is
// told by the paths that it is given: C:\… or /….
//
// Systems other than Windows need /bin/sh, head, cat and rm. A program that does not end in time is killed together with what
// it has started, where the guest has setsid.
//
// What was tested: govmomi's simulator, whose guest is the machine that it runs on. The scripts for Windows were read and
// never run.
package guestops
