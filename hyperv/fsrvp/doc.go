// Package fsrvp pins shares of a file server, by the File Server Remote VSS Protocol: VMs that lie on SMB shares are read from
// a share that shows the volume as it was at one moment, by whoever may read it, and not by the host that runs them.
//
// Reach for [Snapshotter] to hand it to a provider of package hyperv, or for [Dial] to speak to a file server directly.
//
//	\\fs1\vms\web1\web1.vhdx                      as the host names it
//	\\fs1\vms@{1C2A…}\web1\web1.vhdx              the same file, in the share that the server exposes
//
// # The order of calls
//
//	GetSupportedVersion, SetContext, IsPathSupported …, StartShadowCopySet, AddToShadowCopySet …, PrepareShadowCopySet,
//	CommitShadowCopySet, ExposeShadowCopySet, GetShareMapping …, RecoveryCompleteShadowCopySet;  DeleteShareMapping …
//
// A server gives up a set by itself when three minutes pass between two calls (after Add and Prepare: half an hour). After the
// last call nothing gives it up but us: its ids are in the journal from the moment in which they are known.
//
// # Who may, and how
//
// The account must be one of Administrators or Backup Operators of the file server. Calls go through the pipe FssagentRpc
// of an SMB connection that is signed, and are encrypted themselves, as the protocol demands.
//
// # What it was verified on
//
// Samba 4.17, which is not Windows: it lets a second set be made beside a living first, answers invalid arguments where the protocol has a wrong state, leaves the exposed share
// writable, and a set whose session died while it was made blocks others until the journal's Undo gives it up. Not yet verified on a Windows file server. Kerberos was not tried.
//
// Sources: [MS-FSRVP], [MS-RPCE].
package fsrvp
