// Package replica keeps copies of VMs that are ready to run, and moves a VM to its copy and back.
//
// Reach for it when minutes matter: a restore has to write a disk before the VM can start, a replica is there already.
// What a replica is made of, and how it is started, is a [Site]'s affair; this package knows no hypervisor. Package
// kvmsite makes one of a folder of qcow2 files.
//
// # A replica's life
//
//	Sync            a new point of the VM: by a backup of its own into the site, or a copy of one in a repository
//	PlannedFailover the VM is stopped, a last point is made of it while it is off, and the replica starts: nothing is lost
//	Failover        the replica starts from its newest right point: what the VM wrote since is lost
//	Undo            what the replica wrote is thrown away, and it is a replica again
//	Failback        the replica is stopped, what it wrote becomes a point, that is written over the original, which starts
//
// # Never two that run
//
// Two copies of one VM that both run answer to one name, and write to two disks that nobody can join again. So a planned
// failover starts the replica after a point was made of a VM that was off. An unplanned one is refused unless the VM is
// known to be off, or a person says so: that a VM cannot be reached proves nothing. A failback starts the original when
// the replica is off, and its content is the original's.
//
// # Crashes
//
// What is under way stands in a [Book], one small file for each VM, before it is done. A process that is killed at any
// moment leaves a state that the same call goes on from; what may be undone is undone by Undo:
//
//	killed in         what runs            the same call          Undo
//	PlannedFailover   the VM, or nothing   goes on                starts the VM again
//	... started       the replica          finds it done          stops nothing: the replica must be off
//	Failover          nothing, or it       goes on                discards what ran
//	Failback          the replica          goes on                discards what ran
//	... sealed        nothing              goes on                refused: go on, or Failover to the sealed point
//
// One call at a time works on a VM: another gets a *hikae.BusyError.
package replica
