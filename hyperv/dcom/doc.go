// Package dcom is the second route to the classes of a Windows machine: WMI over DCOM, for hosts on which WS-Management is off. Reach
// for it where port 5985 is closed and port 135 is not:
//
//	hyperv.Options{Route: dcom.Route(nil)}
//
// What it returns is a [cim.Caller] and has its values and errors. It needs port 135 and the port that the machine names in answer to it;
// it connects to the address that it was given, never to another that the machine names.
//
// # Security
//
// NTLM logs on, and calls are encrypted (packet privacy) without exception. A login with a Kerberos realm is refused.
//
// # Bounds
//
// A call ends with its context, and after Options.Timeout where that has no deadline; the connection of one that does not end is given
// up, and the next call makes another. An answer has at most 16 MiB and an object 1 MiB. Objects are taken apart by a decoder of our own,
// because the library's believes lengths before it looks at them: nothing is allocated that does not lie within its part, an object may
// have 4096 properties, four others within each other, and 16 MiB of memory by our own count. What does not fit, and what the library
// panics over in the reference around it, is a malformed answer, within a second and 128 MiB.
//
// # What it met
//
// No Windows machine and no other server. Tests hold the objects' codec, the calls' order and the mapping of errors over the library's client
// interfaces, and dialling against a silent and a closed port. Activation, logon and encryption have run against nothing.
//
// Sources: [MS-DCOM], [MS-WMI], [MS-WMIO].
package dcom
