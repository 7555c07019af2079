// Package libvirt talks to a libvirt daemon on this machine: which domains there are, how they are described, and what
// a backup needs of their QEMU, which is its monitor and its guest agent.
//
// Reach for it where libvirt owns the machines: it holds their monitors, and hands commands through. [Dial] connects,
// [Conn.Domains] and [Conn.Lookup] find, [Conn.Monitor] and [Conn.Agent] hand through.
//
// # The protocol
//
// Calls and replies are packets over a unix socket, in XDR (RFC 4506):
//
//	length │ program │ version │ procedure │ type │ serial │ status │ payload
//	  4    │    4    │    4    │     4     │  4   │   4    │   4    │ length − 28
//
// Replies bear the serial of their call and come in any order. Two programs are used: libvirt's own, and the one for
// what belongs to QEMU alone, which libvirt hands through without a promise and marks the domain "tainted" for.
//
// # What to know first
//
// A daemon lets in whoever it trusts by the socket: root, or the owner of a session daemon, or a user for whom polkit
// needs to ask nobody. Passwords (SASL) and daemons on other machines are refused: run the program there, or bring the
// socket here with ssh -L.
//
// # Bounds
//
// A packet is at most [MaxMessage] bytes, a text in it libvirt's own bound of 4 MiB. Every call has a deadline: the
// context's, or [Timeout].
package libvirt
