// Package vss asks the writers of a Windows guest to be consistent: it is a requester of the Volume Shadow Copy Service,
// in pure Go. Reach for it in the component that runs inside the guest; nothing else can talk to the service.
//
// Nothing here was ever run on a real Windows: it is tested under wine with a library of ours in vssapi.dll's place.
// [Unverified] says so where a user sees it.
//
// # Two modes, said honestly
//
// A requester cannot hold writers while somebody else makes a snapshot: the service thaws them as soon as its own
// provider is done, within ten seconds at most. So there are two modes, and no third that would pretend:
//
//	Check   Writers are listed, their state is checked and their documents are kept with the point. Before the freeze
//	        they are let go, so that the requester of the hypervisor's own agent finds them free: writers of mail
//	        stores refuse a second backup at once. That agent freezes, tells the writers, truncates logs.
//	Own     Our own snapshot set of all volumes. Writers freeze and thaw inside DoSnapshotSet. What is consistent then
//	        is the shadow copy, not the volume beside it: who wants that must copy from it. It goes with the session.
//
// # The order of calls
//
//	Check   Initialize, SetContext, SetBackupState, GatherWriterMetadata, GatherWriterStatus, AddComponent …, PrepareForBackup,
//	        GatherWriterStatus, SaveAsXML, AbortBackup
//	Own     Initialize, SetContext, SetBackupState, GatherWriterMetadata, GatherWriterStatus, AddComponent …,
//	        StartSnapshotSet, AddToSnapshotSet …, PrepareForBackup, GatherWriterStatus
//	  Hold    DoSnapshotSet
//	  Resume  GatherWriterStatus
//	  Finish  SaveAsXML
//	  Settle  durable, and truncation asked or a copy: SetBackupSucceeded …, BackupComplete, GatherWriterStatus
//	          else: AbortBackup
//
// SetBackupSucceeded is what makes a writer throw logs away. It comes only once the point is durable.
//
// # What ends what
//
// Every wait has a limit; after it the operation is cancelled, and after [stuckAfter] more the thread that it hangs in
// is given up. Closing a session from any state aborts the backup. If the process dies, the service aborts it.
package vss

// Unverified is shown to users.
const Unverified = "not yet verified on Windows: the VSS requester, the service and the pipe were run under wine only"
