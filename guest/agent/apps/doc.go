// Package apps is what the component in a Linux guest knows of database servers: PostgreSQL 13 to 18, MariaDB 10.4 and
// newer, MySQL 8 (the last one not yet run against a real server). It finds them, gets them ready for a freeze, and hands
// out their transaction logs. Other systems have package vss.
//
// # Clients
//
// A server is spoken to through its own command-line client (psql, mariadb, mysql), which is kept open as a coprocess:
// one connection, one statement at a time. So the component has no driver and no password of its own: where it is root
// the client runs as the server's own account and is let in by that (peer, unix_socket), else with what lies ready for
// root (.pgpass, .my.cnf), and this for servers of the accounts postgres, mysql and mariadb alone: anybody can start a
// program of such a name. The way is the server's unix socket, never TCP: it has to be the server account's own, and psql
// is told to hold the account behind it against that (requirepeer). Nothing is installed, configured or logged in the guest. A statement that fails ends the
// client and so the session; the server then lets go of what the session held. Every statement has a deadline, every
// answer a bound, and what a server says is shown to people only after control characters are taken out.
//
// # Around a freeze
//
//	            PostgreSQL                        MariaDB                          MySQL 8
//	Prepare     pg_backup_start, a checkpoint     BACKUP STAGE START, FLUSH,       LOCK INSTANCE FOR BACKUP
//	                                              BLOCK_DDL
//	Hold        is the session alive?             BACKUP STAGE BLOCK_COMMIT,       FLUSH TABLES WITH READ LOCK,
//	                                              position in the binlog           position in the binlog
//	(freeze, snapshot, thaw)
//	Resume      is the session alive?             BACKUP STAGE END                 UNLOCK TABLES, UNLOCK INSTANCE
//	Finish      pg_backup_stop: backup_label,     binlog.json                      binlog.json
//	            tablespace_map, backup.json
//	Close       the session ends: a backup that was not stopped is aborted by the server, locks are gone
//
// A session that was lost between Prepare and Resume is an Outcome with a problem: what was copied is then as a crash
// would leave it. PostgreSQL recovers an image that was taken in one moment with or without a label; the label is for
// disks that were copied one after the other, and for a point in time. It needs the WAL up to pg_backup_stop, which
// comes by Logs and Fetch: list once after Finish.
//
// A standby is left as it is: its image recovers by itself, and its primary is where a backup begins.
//
// # Logs
//
//	PostgreSQL   completed WAL segments from pg_wal, and the timeline's history file. A physical replication slot
//	             hikae_<system identifier>_<guest> keeps them (Begin makes it, and drops those that copies of other guests
//	             brought along; End drops it; Shipped moves it on); archive_command is not touched. Where archive_mode is
//	             on, archive_command is empty and nothing was ever archived, we are the archiver: the .ready queue keeps
//	             them, a slot hikae_q_… that keeps nothing is the durable mark of it, and Shipped makes .done of .ready,
//	             after another look at who archives.
//	MariaDB      binary logs but the current one, which each listing closes (FLUSH BINARY LOGS). The server removes
//	             them by its own rules.
//
// A slot without max_slot_wal_keep_size would let pg_wal grow for as long as nobody ships, and between two rounds nothing
// of ours is in the guest to drop it: Begin refuses to make one, unless it is told that nothing need bound it
// (wire.LogsArgs.Unbounded). A slot that is there already when the bound is taken away goes on, and Find says so. The
// queue of archive_mode has no bound of its own; it grew before we came. What another archiver did to an archive between
// two listings, with the server's counter lost in a crash, cannot be seen.
//
// A VM that is put back to an image goes on under the same names: whoever stores logs has to compare content (package
// logs does).
package apps
