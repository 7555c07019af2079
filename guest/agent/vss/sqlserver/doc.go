// Package sqlserver ships the transaction logs of Microsoft SQL Server between image backups. The databases themselves are
// the business of their VSS writer (package vss).
//
// It was never run against a real SQL Server, and says so in [Unverified]: it is tested with a program of ours that
// answers as the documentation says sqlcmd does.
//
// # How it speaks to the server
//
// By the server's own client, sqlcmd, over shared memory and by Windows authentication: there is no driver in the
// component and no password of ours. Each batch is a process of its own. Statements go in on its input, never on its
// command line. Names of databases and files are written as numbers (0x…) and turned into text by the server, so that
// none is ever part of a statement, and rows come back in hexadecimal, so that none looks like the end of a row. What else
// comes back between our marks is a message of the server's.
//
// # Logs
//
// [Keeper.Logs] backs up the log of each database that has one in use (recovery model full or bulk-logged, online, with a
// full backup to follow, and on the replica that prefers to be backed up) into a file of the server's own backup folder,
// for its account can write there and not into ours. A file is called .part until it is whole. Files that were not shipped
// stay, and are listed again the next time. [Keeper.Shipped] deletes them.
//
// A log backup moves the log's beginning, so that space is used again; that is all that truncation needs. [Keeper.Discard]
// throws a log away instead of keeping it. It ends the chain of logs, and is there for those who ask for exactly that.
package sqlserver

// Kind is that of the applications here.
const Kind = "sqlserver"

// Unverified is shown to users.
const Unverified = "not yet verified on a real SQL Server"
