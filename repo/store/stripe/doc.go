// Package stripe keeps a repository's objects in several stores at once, so that the loss of any m of them loses nothing:
// a striped set of k+m over directories, shares, buckets and whatever else is a [store.Store], in any mixture.
//
// Reach for it when one machine or one building must not be enough to lose everything, and three full copies are too
// much: 4+2 over six stores takes half as much again, and outlives any two of them. For one store with rotting sectors
// the parity in every pack is enough.
//
// # What stands where
//
//	member a          member b          …        (each is a store of its own)
//	hikae-stripe/member, member-copy             who this is: set id, member id
//	hikae-stripe/state/<generation>              what all agree on: k, m, the members, the arbiter
//	log/0000…01       log/0000…01                a record with the object in it: mirrored on every member
//	data/…/7f3a       data/…/7f3a                a record that says where the shards are, on every member
//	hikae-stripe/shard/c5/c532…-00  …-01  …      a shard each, on k+m members
//
// An object exists when its record does. Small and vital objects are in their records; large ones ([Options.Striped]) are
// cut into k shards of data and m of parity. A record names the seats of its shards, so sets may have more than k+m
// members; the order of the seats is another one for every object, and all are used evenly.
//
//	record   "HKSR" | version 2 | kind 1 | k 1 | m 1 | set 16 | attempt 16 | generation 8 | length 8 | cell 4 | name length 2
//	         | name | seats k+m | [zeros to 496 where the object is in it] | sum 16 | [the object]
//	shard    "HKSS" | version 2 | number 1 | k 1 | m 1 | set 16 | attempt 16 | generation 8 | length 8 | cell 4
//	         | name length 2 | name | zeros to 496 | sum 16 | cells, each of them payload and an 8 byte sum
//
// Numbers are little-endian, lengths bytes. Sums of 16 bytes are the first half of the SHA-256 of all before them and of the
// object after them. Attempt is random: it names this one creation of the object. A shard's payload is ⌈length/k⌉ bytes
// in cells of 32 KiB; data shard i has the i-th part of the object, so a small range is in one shard, mostly. Cell c of all
// shards is one code word of the plain Vandermonde code over GF(2⁸). A cell's sum is the xxHash64 of its payload, the
// seed being xxHash64 of the shard's whole header plus c·0x9e3779b97f4a7c15: so a cell that is flipped, cut off, old, or of
// another shard, object or place is found by whoever reads it, and computed from others. These sums find faults, not
// forgers; those the repository's own tags find.
//
// # How an object comes to be
//
//  1. Its shards are made durable, at once, under the attempt's name.
//  2. Its record is created exclusively on the arbiter. This decides, and is the moment from which the object exists.
//  3. The record is copied to all other members. Another object there under the same name was there first: ours is taken
//     back, and that is [ErrConflict]. A member that was filled since step 1 gets its shard too.
//  4. Every member is asked whether there is a newer state of the set. If not, the object is acknowledged.
//
// A crash before step 2 leaves shards that nobody names: [Store.Sweep]. One after it leaves a whole object, which
// [Store.Settle] gives to all members. Removing goes backwards: copies, the arbiter's record, shards.
//
// # Who is believed
//
// Every change of the set is a state with the next generation, written to at least a quorum of the members: n−m of n, and
// more than half. A member is current if it has the newest state and that calls it current; only current members are
// asked for records. One that is put back as it had been, or misses a change, is behind by itself. Its shards are
// used all the same: each cell proves itself. Whoever makes the next state marks it as behind there, so that it does not become
// current by having that. A state that fewer than n−m members can have was never in force, since its maker died: the next one to
// write completes it.
//
// An arbiter that is put back as it had been, within one state, lacks records and does not show it. So no rebuild and no sweep
// takes its word that an object is not there, and listings have what a second member knows besides.
//
// By default all members must be there to write. With [Options.Degraded] a quorum with the arbiter is enough: whoever misses
// something is marked as behind in a new state before anything is acknowledged. Each member that is behind is one loss less
// that the set can take, until [Store.Rebuild] brings it up to date.
//
// # When the arbiter is lost
//
// Create and Remove give [ErrNoArbiter]; reading goes on. [Store.Promote] writes a state without an arbiter to a quorum,
// brings all records together, and writes the state with the new one. Since a quorum of creates (step 4) and a quorum of
// the state always share a member, and a create copies before it asks while a promotion writes before it gathers, a create
// under the old arbiter either is gathered or is not acknowledged ([ErrFenced]).
//
// # What may run beside what
//
//	              Create, Remove   reads     Rebuild            Promote             Scrub    Sweep(alone)
//	Create        arbiter decides  a record  filling member     fenced by           sees     never: it takes
//	Remove                         is whole  gets both          generations         either   unfinished shards
//	Rebuild                                  the second gives   one of them gives   yes      never
//	                                         ErrConflict        up
//	Promote                                                     one wins            yes      never
//
// What a reader saw of an object whose Create was not acknowledged may be gone if the arbiter is lost before anybody has
// settled it. A repository's log is chained, so that this shows.
//
// # What to know first
//
// Every call of a member has a deadline, also where the member does not heed its context; one that did not answer is not
// asked for a while. Reads ask other shards when the first ones are late, and mend nothing: [Store.Scrub] finds, Rebuild
// mends. The weakest member's abilities are the set's. Names under hikae-stripe/ are the set's own; objects are at most
// [MaxObject]. docs/stripe.md is for whoever runs one.
package stripe
