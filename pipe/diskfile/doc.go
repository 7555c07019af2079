// Package diskfile reads and writes disk images that are files: raw ones here, other formats by a table.
//
// Reach for it wherever a user names a file. [Formats] finds out what is in it and opens it; [Open] and [Create] are
// for raw files by name; [OpenTarget] writes into a file or device that exists already.
//
// # Raw files
//
// A raw file's bytes are the disk's bytes. Holes are found with SEEK_HOLE and SEEK_DATA where the system has them, and
// are made by leaving zeros out. Block devices are read like files.
//
// # A file appears whole or not at all
//
// What [Create] and [Begin] write has a temporary name beside its place. Commit syncs the file, gives it its name
// without replacing anything (unless told to), and syncs the folder. Close alone removes it. What a killed process left
// goes when somebody begins the same file again.
//
// # What is in the file
//
// A format is recognised by content, never by name. That has a limit which nothing can lift: a raw disk's first bytes
// belong to the guest, and a guest can write there what looks like another format. Where it matters, say which format
// it is. Formats that are recognised and cannot be read give a [FormatError]; they are never taken for raw.
//
// # A file that changes
//
// An image is one moment of a disk. [Locked] finds out beforehand whether QEMU writes to a file; [Changed], and Close
// of an image, find out afterwards whether anybody did.
package diskfile
