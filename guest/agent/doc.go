// Package agent is what runs inside a guest: it serves the verbs of guest/agent/wire over one stream, holds a lease, and
// takes itself away.
//
// # Sessions
//
// [Agent.Serve] serves one stream as one session: what ends the stream ends the session. [Agent.Relay] is for channels that
// can only run programs: a session that is spoken to by asks, and that its lease alone ends. Either way the end is the same:
// file systems thaw, applications are let go, and a component of the runtime kind takes its [Place] away.
//
//	Hello → Inspect → Prepare → Freeze → (a snapshot is taken) → Thaw → Finish → (it is copied) → Settle → Remove
//
// A freeze goes scripts, applications, file systems; a thaw goes back. Whatever stops the one, the way back is gone. When the
// hold is over and nobody has said Thaw, the session thaws by itself, and if it cannot the freezer's watchdog does.
//
// The program is guest/agent/hikae-agent. What it can do comes in parts ([Freezer], [Applications], [LogKeeper],
// [Indexer], [Installer]); each system's build has those that work there, and Hello says which.
package agent
