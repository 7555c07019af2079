// Package mover carries backups between two machines: what a job reads and writes may be far away, behind a line that
// is slow, loses packets and breaks.
//
// # Two movers
//
// One mover stands where the disks are, the other where the repository is (R008–R012). Between them is one session, over
// several TLS connections where that helps. Either side may be the one that connects:
//
//	    source                                                                  target
//	┌─────────────────────┐                                        ┌──────────────────────────────┐
//	│ job ─► pipe.Copy    │  a backup that the source begins       │ Server                       │
//	│          │          │                                        │   handler ─► pipe.Backend    │
//	│          ▼          │  Begin, Query, Put, Mark, Commit ───►  │      │       (a repository)  │
//	│        Client ══════╪═══════════ TLS 1.3, pins ══════════════╪══════╡                       │
//	│ (a pipe.Backend)    │  ◄─── Known, Placed, Durable, Credit   │      ├──► BlindStore         │
//	└─────────────────────┘                                        │      │    (objects, no keys) │
//	┌─────────────────────┐                                        └──────┼───────────────────────┘
//	│ Server ─► Source    │  a backup that the target orders              │
//	│            │        │  ◄──────────────────────────── Collect ───────┘
//	│            └─►Client╪═══════════ the same calls, back by the same session ═══►
//	└─────────────────────┘
//
// [Dial] gives a [Client]: a far repository that is used as if it were near, as a [pipe.Backend]. [NewServer] gives the
// other side: a trusted target (any backend), a blind target ([BlindStore]), or a source service ([Source]). [Collect] is
// the target that drives. PROTOCOL.md, beside this file, has every message; the packages below have the parts: wire the
// messages, trust who is who, session the connections, bandwidth the limits.
//
// # Trusted and blind
//
// A trusted target holds the repository's keys. It decodes each block, holds it against its id, names it anew as the
// repository does, and deduplicates in the whole repository. A blind target keeps objects that it cannot read: the client
// runs the repository itself, and the server's guard sees to it that an append peer only adds.
//
// # Who may do what
//
// A peer is known by its key alone, and who is not in the book of peers fails in the handshake. There are two roles. A
// full peer may do everything. An append peer may begin points of its own VMs, and see of them what an increment needs:
// descriptions, and where disks hold data. It reads no content, deletes nothing, and learns nothing of others:
//
//   - Its VM "web1" is "NAME/web1" in the repository. The server adds and takes off the name, so there is no way to say
//     another's. Another's point is answered as one that does not exist.
//   - Ids on the wire are keyed with a key of the peer's own. A block is "known" only where this peer has sent it.
//   - What a block, a writer or a point cost is counted for it as if it were alone.
//
// What can still be seen is time: a block that the repository has already is placed a little faster.
//
// # What an answer means
//
// Placed means that the block is right and taken; it is durable when the target says so ([pipe.Durable]), or with the
// commit. Committed means that the point is listed, durable, and will not come a second time. Until content is durable
// the client keeps it, and a target that was started anew gets back what it lost, without the copy noticing.
//
// Who comes back after being frozen, when another session of the same peer has taken the VM, is fenced: none of its calls
// on that point does anything any more.
//
// # What may run beside what
//
//	calls of one disk            beside each other, as their ranges do not overlap
//	SealDisk, DropDisk           wait for the disk's other calls, and shut it
//	Commit                       waits for all calls of the point, and shuts it
//	Begin of the same VM         puts the older point of the same peer aside: its calls are ended and waited for
//	end of a session, DropPoint  as Begin does, for all points of the session, or for the one
//	points of different VMs      as many at once as MaxWriters; others wait in the order in which they came
package mover
