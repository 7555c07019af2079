// Package requester asks the Volume Shadow Copy Service of a Hyper-V host for backups of its VMs, for a client at the other end
// of one stream (package hyperv/helper/wire says what goes over it). It is what the program hikae-hyperv does on a host; the
// service below it is an interface, [VSS], so that all but the calls themselves runs anywhere.
//
// # The order of calls
//
//	components  New, Initialize, SetContext, SetBackupState, EnableWriterClasses, GatherWriterMetadata, Close
//	take        New, Initialize, SetContext, SetBackupState, EnableWriterClasses, GatherWriterMetadata, AddComponent …,
//	            StartSnapshotSet, AddToSnapshotSet …, PrepareForBackup, GatherWriterStatus, DoSnapshotSet, GatherWriterStatus,
//	            GetSnapshotProperties …
//	finish      good ones: SetBackupSucceeded …, BackupComplete, GatherWriterStatus; none: AbortBackup
//	delete      not finished: AbortBackup; DeleteSnapshots, Close
//	sweep       New, Initialize, SetContext (all), Query, DeleteSnapshots, Query, Close
//
// # What ends what
//
//	the link ends          everything is taken back
//	the lease runs out     the same: a client that says nothing for that long is gone
//	the client cancels     what is being made is taken back, and it is told when that is done
//	this process dies      the service aborts the backup, and deletes the shadow copies, which do not persist
//	the machine dies       shadow copies that do not persist do not survive it
//
// Of a set that a stuck service keeps the deletion is tried once more by a requester of its own, which also looks.
//
// A set's id is written down under its mark before the set is made ([Book]), so that a sweep finds what in spite of all
// that is there.
//
// # What may run beside what
//
//	reads, lists      beside everything; reads up to MaxReads at once
//	take, finish, …   one at a time: a set belongs to one of them
//
// # Not yet verified on Windows
//
// The calls into a real service ran under wine only, against a library of ours in vssapi.dll's place. What Hyper-V's writer says
// and does is from its documentation.
package requester
