// Package lockd is the helper that makes a directory's objects immutable until a date: a small server beside a directory
// store, with the one right that the store's user must not have. The program in examples/lockd is this package and its
// flags; package lockline has the protocol.
//
// # Who can do what
//
//	backup user    creates objects; removes what is not locked; asks for locks. It cannot end or shorten one.
//	helper (root)  sets and clears FS_IMMUTABLE_FL; owns the folders that lead to locked objects
//
// A file that is immutable cannot be written, cut, renamed, linked or removed by anybody. That says nothing of its folder,
// whose owner could rename it and put another into its place: so with the first lock below it a folder becomes the helper's,
// with the sticky bit and the rights of the user's group. There the user makes and removes files of its own as before, and
// the folder stays where it is. (An immutable or append-only folder would do too, but nothing could be removed from it
// before the last of its locks has ended.)
//
// A file that somebody has open for writing is not locked: what was open could still write. A read lease, which the kernel
// gives on no such file, says so.
//
// # The book
//
// Dates are kept in a folder of the helper's own: a date is durable before the flag is set, and struck out after the flag was
// cleared. Killed between, the helper sets again at its next start what the book has, and clears again what was due. A file
// that is immutable and not in the book (the book was lost) is kept for [Options].Adopt from then on, and not for ever.
//
// # The clock
//
// While the system runs, time is what has passed since boot; steps of the wall clock mean nothing. Over a restart it never
// goes back behind what the book has seen, and goes forward by at most [Options].MaxStep: beyond that the helper stays behind,
// which keeps locks longer, and says so until a person vouches for the clock. What remains: who can set the wall clock and
// restart the machine, again and again, gains that step each time; who is root there needs neither.
package lockd
