// Package session carries calls between two movers over a line that breaks.
//
// # What it promises
//
// A caller makes calls, the other side's [Handler] carries each of them out once, however often the line is cut between,
// before or behind the two, and the caller gets the answer. Reads, of which the answer is content, may be carried out
// again; nothing else is. What is kept for that is bounded on both sides.
//
//	caller                                                        answering side
//	 Call ──► credit ──► queue ──► lane 0 ═══ TLS connection ═══► table: under way │ answer kept ──► Handler
//	                           └─► lane 1 ═══ TLS connection ═══►   (a number that is in the table is not begun again)
//	      ◄── answer ◄─────────── any lane ◄══════════════════════  the lanes that asked
//	                                        Ack ═════════════════►  the answer is forgotten
//
// A session is a random number of 16 bytes that belongs to one enrolled peer. It has one to eight lanes, each a
// connection of its own. Lanes take calls from one queue when they have room to send, so that a lane that stalls holds up
// only what it has taken. A lane that nothing is heard from for DeadAfter is closed, its calls go back to the front of the
// queue, and another lane is opened. A session without lanes is kept for a while by both sides.
//
// # Who opens, who calls
//
// [NewClient] opens lanes and [Server] accepts them. The side that opens is the caller (wire.Caller), or it is a collector
// (wire.Collector): then both sides call and both answer, because a target that collects gives its order by a call, and
// the source brings the blocks by calls of its own. The two directions have numbers, credits and tables of their own.
//
// # Time
//
// Everything that waits has a deadline: a Hello 10 s, a read or a write DeadAfter (20 s), a session without lanes GiveUp
// on the side that opens and Linger on the other (30 min each). A side says Ping when it has said or heard nothing for
// PingEvery (5 s). Where the machine slept, which the monotonic clock does not tell, the wall clock does.
package session
