// Package nfc is a client of the network disk service of ESXi hosts: it reads and writes the blocks of one virtual disk over
// TCP port 902, by what VMware calls the transport modes NBDSSL and NBD, without VMware's library.
//
// Reach for it with a ticket in hand, which vCenter Server or the host gives for a VM; package vmware gets them. For
// the protocol of the same name that the Linux kernel and QEMU speak, see pipe/nbd: the two have nothing in common.
//
//	conn, err := nfc.Dial(ctx, ticket, &nfc.Options{Size: capacity})
//	defer conn.Close()
//	disk, err := conn.Open(ctx, "[datastore1] web1/web1.vmdk", false) // a pipe.Image
//
// Met only our own fake: verified on no real host yet. What others saw real hosts do, of version 8.0, is below under
// Sources.
//
// # Layers
//
// All of it goes over one TCP connection. The first TLS carries the dialogue with the authentication daemon and is then
// left where it stands, without a last word; what follows is a second TLS on the same connection (NBDSSL), or nothing (NBD).
//
//	Disk: Image, ExtentImage              Target: ExtentTarget
//	  └── request: whole sectors, again over a new connection ──┘
//	┌─────────────────────────────────────────────────────────┐
//	│ frames      open session, open file, content, allocated │  16-byte heads, answers in any order
//	├─────────────────────────────────────────────────────────┤
//	│ classic     who speaks, which version                   │  264-byte messages, once
//	├──────────────────────────┬──────────────────────────────┤
//	│ authentication daemon    │                              │
//	│ SESSION … PROXY service  │                              │
//	├──────────────────────────┤  NBDSSL: the second TLS      │
//	│ the first TLS            │  NBD:    in the clear        │
//	├──────────────────────────┴──────────────────────────────┤
//	│ TCP, port 902: one line in the clear before the first TLS│
//	└─────────────────────────────────────────────────────────┘
//
// # Trust
//
// The certificate of each TLS must have the ticket's thumbprint, so that nothing is believed of a name or of who signed. The
// thumbprint is as good as the connection that the ticket came over. With NBD, the session id is protected and the disk
// is not: whoever is on the path sees and can change every byte that is read or written, and can go on in the session. It
// is for networks that are nobody else's. Neither mode tells a true host from one that lies about the content.
//
// # What goes over the wire
//
// Numbers are little-endian; lengths are bytes. A frame is a head of four 32-bit words (the magic 0xA100DA7A, a type, the
// payload's length, the request's number), the payload, and what some types carry beyond it:
//
//	type                payload of the request            its answer
//	 2 open session     16: 0, buffer, count, 0           16
//	 9 socket options   12 zeros                          any
//	22 resource pool     4: 1                             any
//	 4 open file        60: path length, …, 2 at 16,      60: handle at 8, capacity at 28,
//	                    flags at 20; the path             sector at 36
//	 7 read             44: handle, 1, offset, length,    44 for each piece: 0, 1, offset, total:32,
//	                    length:32, length:32, 0:32        at:32, length:32, length:32, 0:32; the content
//	 7 write            44: handle, 0, offset, total:32,  44: the same words; no content
//	                    0:32, length:32, length:32, 0:32;
//	                    the content
//	11 property        16: handle, key length:32, 0:32;   16: value length at 12; the value
//	                    the key
//	13 allocated        48: handle, 0, chunk, start,      48: the count at 32; a bit for each chunk, the lowest
//	                    count, 0                          first, in whole words of 32 bits
//	 5 close file        8: handle                        any
//	 3 close session     4: 0                             any
//	 1 error            (never)                           the code in the first 32 bits
//
// A write is one frame here, no longer than the buffer, although hosts are said to take several with one number: that
// is what every reading of the sources agrees on. Compression is not asked for, and an answer that is compressed is refused.
//
// # What is empty
//
// What a host calls not allocated is taken for zeros and not read. Since nothing else would show that a host is wrong there, or
// that its bitmap means something else on a disk that stands on another one, some of it is read all the same: of each
// answer the first and the last chunk and others at random, one in 256, 4 to 32, and about 512 of a disk in all. One byte
// that is not zero, and the whole disk is Data: [Disk.Untold] says why. It is a sample: a few wrong chunks among many may
// pass.
//
// # Errors of the disk itself
//
// A [HostError] to a read may be the disk's own, a block that its host cannot read, or the session's. The codes are not
// known, so it is never called the disk's: package vmware tries another transport for such a range.
//
// # When the connection breaks
//
// A break, a silence and a broken rule of the protocol all end the connection, and every request under way with it. With
// [Options.Redial], a new ticket opens the same file again, which must have the same capacity and UUID, and unanswered requests are
// made again from their beginning. No byte of an answer counts before all of it is there.
//
// # Sources
//
// The wire protocol is not published by VMware. What is known comes from the notes of Cloudbase's OpenVixDiskLib, made by
// watching VMware's library 8.0.2 against vCenter Server 8.0.1 and ESXi 8 (docs/nfc_auth.md, nfc_open.md, nfc_read.md,
// nfc_write.md of that project): facts of theirs, no code. Where the code of an error stands in its message is not in them
// and is a guess of ours. Limits of memory and of connections per host are from VMware's programming guide for VDDK.
package nfc
