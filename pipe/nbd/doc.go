// Package nbd reads, writes and serves disks over the network block device protocol, without cgo and without a kernel
// device: a hypervisor's live snapshot is an image here, and a restore point is a disk there.
//
// # Client
//
// [Dial] opens an export. A [Client] is a pipe.Image and a pipe.ExtentImage; [Client.BlockStatus] asks for what else the
// server knows about ranges, such as a dirty bitmap of QEMU; [Client.Target] writes.
//
//	c, err := nbd.Dial(ctx, "nbd+unix:///sda?socket=/run/vm.sock", &nbd.Options{Contexts: []string{"qemu:dirty-bitmap:cp1"}})
//	…
//	defer c.Close()
//	stats, err := pipe.Copy(ctx, target, c, nil)
//
// # Server
//
// A [Server] offers any pipe.Image, read-only. An [Overlay] around it takes writes into a file of its own, so that a
// virtual machine can start from a restore point that nobody changes.
//
//	l, err := nbd.Listen(ctx, "unix:/run/point.sock")
//	…
//	server := nbd.NewServer([]nbd.Export{{Name: "disk0", Image: image}}, nil)
//	err = server.Serve(ctx, l)
//
// # On the wire
//
// Newstyle negotiation in its fixed form, then any number of requests at once, answered in any order:
//
//	client                                        server
//	   │  ◄────────────── greeting, flags ──────────  │
//	   │  ── STARTTLS, EXTENDED_HEADERS or            │   every option is answered before the next;
//	   │     STRUCTURED_REPLY, SET_META_CONTEXT ──►   │   one deadline for all of it
//	   │  ── GO name, BLOCK_SIZE ──────────────────►  │
//	   │  ◄── size, flags, block sizes ─────────────  │
//	   │                                              │
//	   │  ── READ cookie 1 ── WRITE cookie 2 + data ► │   as many requests and bytes at once as the
//	   │  ── BLOCK_STATUS cookie 3 ────────────────►  │   server's limits admit; it stops reading there
//	   │  ◄── cookie 3: ranges ─────────────────────  │
//	   │  ◄── cookie 1: data │ cookie 1: hole, done   │   chunks of several answers may alternate
//	   │  ◄── cookie 2: done ───────────────────────  │
//	   │  ── DISC ─────────────────────────────────►  │
//
// Integers are big-endian. A request has a header of 28 bytes, with extended headers 32 (and then lengths of 64 bits);
// an answer is simple (16 bytes, data after it where it was a read), or chunks of 20 or 32 bytes and a payload. What the
// other side may send is bounded everywhere (the limits stand together in wire.go), memory follows what arrives and never
// what a length claims, and every wait has a deadline.
//
// # Trust
//
// NBD itself knows no users. A server listens on a socket file that only its owner can open, or asks for TLS with
// client certificates ([ServerTLS]). A client that is told to use TLS never goes on without it: what an attacker in
// between could strip is not negotiable.
//
// Sources: the protocol is doc/proto.md of https://github.com/NetworkBlockDevice/nbd, with its extension-ext-header
// branch; addresses are doc/uri.md there.
package nbd
