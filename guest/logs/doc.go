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
//	Forget   the VM's logs are wanted no more: guests stop keeping them
//
// [Begin], before the first image of an application, makes its guest keep logs at all.
//
// Until the first Image it does nothing for a VM: logs without an image restore nothing. A stream whose application
// could not be processed in the last image waits for the next one. The first round comes right after Image, since a
// restore to a point in time needs the logs up to the end of that backup.
//
// What could not be stored is still in the guest, and is taken in the next round. What was stored and not told is
// listed again, known by its name, and told again. A stream has no other state than what lies in the Store: a service
// that starts anew goes on by names.
//
// # Gaps
//
// A chain of logs with a hole is no chain. Numbers in the names of logs show one whoever made it, and the guest says so
// where it gave logs up. Both are told in the [Report], kept with the first log behind the hole, and end what
// [PlanPostgres] offers.
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
