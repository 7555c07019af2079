// Package natsqueue is a [queue.Queue] on NATS JetStream, for many machines.
//
// Reach for it where workers are on several machines: [Open] connects to a server or a cluster. Package natsserver, below, starts a
// server in this process for one site; it is apart, so that a worker does not bring it.
//
// # What lies where
//
//	stream HIKAE-TASKS    one subject for each message, hikae.task.LABEL.ID, of which there may be one message: that makes Put
//	                      idempotent for as long as the message is there, not only in a window of time
//	a consumer per label  work queue, explicit acknowledgement; a lease is its AckWait, extended by "in progress"
//	bucket hikae          tables and dead letters, one word before the keys of each. It is read from the leader of its group,
//	                      never from a follower that may be behind
//
// # Durability
//
// On a cluster of three everything is on three servers before a call returns, if Options.Replicas is 3. A JetStream server syncs its files every two
// minutes unless it is told otherwise: for a single server set sync_interval to always, as natsserver does.
//
// # Trust
//
// There is always authentication, and TLS wherever the server is not on this machine. Whoever may publish can put work for all
// workers: the credentials of a queue are worth as much as those of the hosts that its workers reach. See docs/fleet.md.
package natsqueue
