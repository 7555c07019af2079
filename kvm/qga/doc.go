// Package qga talks to the QEMU guest agent in a virtual machine, over the unix socket of its serial port.
//
// Reach for it to freeze and thaw the guest's file systems, to run a program in the guest, to read or write a file of it.
//
// # What to know first
//
// Nobody tells when no agent listens: the answer does not come. Every connection therefore begins with a short
// exchange that must be answered within [Options].SyncTimeout, and every call has a deadline: the context's, or
// [Timeout]. The serial port serves one client at a time, and commands one after the other.
//
// A missing answer is a real case: one thaw in some thousands was seen without. A [Client] closes the connection then
// and makes a fresh one for the next call; calls that may be repeated are, and [Client.Thaw] goes on until the agent
// says that nothing is frozen.
//
// # A hostile guest
//
// The guest is not trusted. A message is at most [MaxMessage] bytes, output and files have the caller's bound, numbers
// are checked, and nothing that the guest says becomes a path or a command on this side.
package qga
