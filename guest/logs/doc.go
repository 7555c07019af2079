// Package logs keeps the transaction logs of databases in guests, between one image backup and the next, and makes of an
// image and its logs the database as it was at a chosen second.
//
// # The service
//
// A [Service] goes round: every 15 minutes by default it asks the component in each guest for the logs that are complete
// ([Keeper], which a guest.Component is), stores those that it does not have ([Store]), and tells the guest what is safe,
// so that the guest need not keep it. It is a service of its own, beside the image backups, and they tell it what it has
// to know:
//
//	Pause    an image session of this VM begins: no logs are taken while it lasts
//	Image    there is a new image point: logs go into a new container, from now on
//	Resume   the session ended without one: logs go on into the old container
//	Forget   the VM's logs are wanted no more: guests stop keeping them, also those that nobody remembers
//
// [Begin], before the first image of an application, makes its guest keep logs at all.
//
// Until the first Image it does nothing for a VM: logs without an image restore nothing. A stream whose application
// could not be processed in the last image waits for the next one. The first round comes right after Image, since a
// restore to a point in time needs the logs up to the end of that backup.
//
// What could not be stored is still in the guest, and is taken in the next round. What was stored and not told is
// listed again, known by its name and content, and told again. A stream has no other state than what lies in the Store: a
// service that starts anew goes on by that.
//
// # Gaps
//
// A chain of logs with a hole is no chain. Numbers in the names of logs show one whoever made it, and the guest says so
// where it gave logs up. Both are told in the [Report], kept with the first log behind the hole, and end what
// [PlanPostgres] offers.
//
// # Lives
//
// Names are no content: a VM that is put back to an image writes other logs under names that are stored already, and RESET
// MASTER counts from one again. So the newest log that is both stored and in the guest is fetched and compared in each
// round. Where it differs the stream begins a new life ([Log].Life): all that the guest has is stored anew, nothing of the
// old life is told to be safe, and the report has a gap. A chain ([ChainSince]) never crosses from one life to another. It
// begins in the first life in which its first log was complete after the image was begun, by the guest's clock; a clock
// that was set back there makes the chain empty, not wrong. An image that a VM was put back to is restored with the logs
// of the life that it was taken in; later ones need an image of theirs.
//
// # Where logs go
//
// [Points] keeps them in any pipe.Backend: a repository, or a mover in front of one, which is how a log server on another
// machine takes them. Each round of a stream is a small point of a VM called "<vm>/logs": it appears whole or not at all,
// is deduplicated, encrypted, verified and repaired as every point is, and is removed like one. [Retention] says which
// may go.
//
// # Restores
//
// [PlanPostgres] and [PostgresPlan.Write] bring a PostgreSQL cluster from its restored data folder to a moment. For
// MariaDB and MySQL the image recovers by itself to the record binlog.json; from there the server's own tool goes on:
//
//	mariadb-binlog --start-position=<offset> --stop-datetime="<moment>" <file> <the files after it> | mariadb --binary-mode
//
// with the files that [Fill] has written into a folder.
package logs
