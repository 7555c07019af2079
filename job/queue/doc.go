// Package queue is what the machines of a fleet have in common: a queue of work, and tables with compare-and-set. It says what both
// must keep to, and has an implementation for one process; package job/natsqueue has one for many machines.
//
// Reach for it to bring a queue of your own: implement [Queue] and [Table], and run package queuetest on it. Whoever only wants to run
// jobs on several machines wants package job/fleet.
//
// # A message's life
//
//	Put      it waits under its label, at most once for its id
//	Take     a worker that reaches the label has it, for the time of a lease
//	Extend   the lease begins anew; a lease that ran out gives the message to the next one
//	Done     it is gone
//	Fail     it waits again, not before a delay
//	Bury     it is a dead letter: kept for people, given to nobody
//
// A queue gives a message at least once, never exactly once: a worker that was thought dead may be at work still. What makes the effects
// happen once are the tables: a [Claim] that one worker holds at a time, and an outcome that is created and never changed.
//
// # Clocks
//
// No time of another machine is believed. A claim is dead when its entry did not change for as long as a lease takes, by the watch of
// the one who looks.
package queue
