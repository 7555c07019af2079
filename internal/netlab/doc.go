// Package netlab makes networks out of namespaces, for tests and for figures: sites, cables of a set rate, and a bad
// line between two sites. Nothing that ships uses it. It needs Linux and root; [Check] says what is missing.
//
// # What there is
//
// A [Lab] owns what it made, and Close takes all of it away. A [Space] is a network namespace: [Space.Listen] and
// [Space.Dial] open sockets in it and hand them out, so that both ends of a connection can live in one process;
// [Space.Start] starts a program in it. [Lab.Cable] is a veth pair between two spaces, with tc's tbf where it has a
// rate. [Lab.Road] joins two sites by a router with a bad line:
//
//	 site a              router                               site b
//	┌────────┐ veth ┌────────────────────────────────┐ veth ┌────────┐
//	│ 10.x.1.2 ─────── 10.x.1.1            10.x.2.1 ─────── 10.x.2.2 │
//	└────────┘      │       │               │        │      └────────┘
//	                │     tun0 ── Line ── tun1       │
//	                └────────────────────────────────┘
//
// What comes from one site is routed into a TUN device, read by this process, lost, delayed and ordered as the [Line]
// of that direction says, and put into the other TUN device. The kernel's netem is not needed.
//
// # What to know
//
// A line's clock is that of Go's timers: about a millisecond. TCP is cubic in every space, whatever the machine's
// default. Names of namespaces hold the process's id and its start time; [Sweep] removes those whose process is gone.
package netlab
