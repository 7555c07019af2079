// Package wire has the messages between a backup session and the component in a guest. Reach for it to write either side.
//
// The same frames go over the stdin and stdout of an SSH session, a named pipe on SMB, a unix socket that a relay
// feeds, and a port with mutual TLS. What carries them has authenticated both sides before the first frame; here is
// nothing secret and nothing negotiated.
//
// # Frames
//
//	0  4  length of the payload
//	4  1  kind
//	5  3  zero
//	8  4  number of the call that it belongs to, from 1
//	12    payload
//
// All numbers are big-endian. A client sends Request with the next number; the component sends any number of Data, the
// last one empty, where the verb gives data, and then Answer or Failure, which ends the call. Install alone takes data:
// the client's Data follow its Request, the last one empty. Cancel asks for a call to end; the component answers it all
// the same. At most [MaxCalls] are open.
//
// Data does not get ahead of its reader: [Window] bytes of a call may be sent, and MaxData more for each More that comes
// back. So a slow reader of one call holds up nobody else's answer, least of all that of a thaw.
//
// What comes late is no error: Data, Cancel and More for a call that has ended are dropped.
//
// Payloads of Request, Answer and Failure are JSON objects with exactly the fields of the structs here. An unknown field
// or verb is an error: both sides are of one version, and Hello says which.
//
// # Verbs
//
// The set is closed. There is no verb that runs anything, reads a file by its name, or writes one.
package wire
