// Package qmp talks to the monitor of a running QEMU (the QEMU Machine Protocol, over a unix socket).
//
// Reach for it to ask a QEMU about its disks or to change them. It knows the protocol and how jobs end, not what the
// commands mean: arguments and results are the caller's own types.
//
// # What to know first
//
// A monitor serves one client. [Dial] to one that is taken waits until its context ends and then says [ErrTaken]. So
// nobody should keep a connection that they do not use. One that greets, and answers nothing from then on, is
// [ErrSilent].
//
// # Bounds
//
// A message is at most [MaxMessage] bytes. Every command has a deadline: the context's, or [Timeout] where that has
// none, and never more than [MaxWait]. When a command's answer does not come, the connection is closed: on a stream of answers nobody can tell which
// is missing.
//
// # Waiting
//
// Events can be lost: with the connection, or when nobody reads them. So [Conn.Until] asks for the state of things,
// again whenever an event says that it may have changed, and from time to time without one.
package qmp
