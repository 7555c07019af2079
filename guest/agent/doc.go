// Package agent is what runs inside a guest: it serves the verbs of guest/agent/wire over one stream, holds a lease, and
// takes itself away.
//
// The program is guest/agent/hikae-agent. What it can do comes in parts ([Freezer], [Applications], [LogKeeper],
// [Indexer], [Installer]); each system's build has those that work there, and Hello says which.
package agent
