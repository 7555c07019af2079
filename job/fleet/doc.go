// Package fleet runs one job's work on many machines: a dispatcher puts its tasks into a queue, workers take what they can reach, and
// of each task there is one outcome, and of each backup one point, whatever becomes of workers, servers and lines meanwhile.
//
// Reach for it when one machine is not enough, or when hosts and repositories are reached from different places. [Dispatch] and
// [Worker] need a [queue.Queue]: in this process, or package job/natsqueue.
//
// # A task's life
//
//	Dispatch    the task is put under the label that a worker must reach: once, however often it is asked for
//	take        a worker has it for the time of a lease, and shows that it lives
//	claim       nobody else works on that VM meanwhile; who held it and fell silent is ended first
//	do          a [Handler] does the steps, each of which may have been done before
//	outcome     is created, which only one can: who comes late is told so, and what it did counts for nothing
//
// # How a late commit is refused
//
// Worker A copies a VM, is cut off before its commit, and wakes up when B has done the task anew. [Fenced] keeps A's point from
// becoming a second one, without any clock or trust in A:
//
//	A   begins a session in the repository, which has a lease with a number
//	A   writes that number into its claim, by compare-and-set; where that fails it goes no further
//	B   finds the claim silent, takes it by compare-and-set, and with it the number
//	B   revokes that lease in the repository's log
//	B   looks for a point of this run, which is there now or never, and makes one if there is none
//	A   commits: the log has a revocation before it, and the commit is refused
//
// Between A's writing the number and B's revoking it A may still commit. Then B finds the point, and the task is done.
package fleet
