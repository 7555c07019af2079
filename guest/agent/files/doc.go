// Package files lists the files of the guest that it runs in, for an index that is stored with the restore point (R144).
// It is a part of the component: what it writes is the stream of package guest/index/list, which the other side makes the
// index of.
//
// # What is listed
//
// Every file system on the guest's own disks, once: not those of other machines, in memory, of the kernel's own, or laid
// over others, and not a second time where a part of one is mounted at a second place. Within one, every name: folders,
// files, links, devices. A folder whose content is not listed says why: it cannot be read, something else is mounted on
// it, it is too deep. The list is of the moment when each folder was read, not of the snapshot's.
//
// # What others could do
//
// Users of the guest own parts of what is walked. No link is followed, and each folder is opened from the one above it and
// looked at again once open, so whoever swaps a folder for a link or another mount while it is visited gains nothing.
// Names are any bytes. What is held of the names of all folders that are open is bounded together, and a folder with more
// is read more than once; how deep the walk goes, and how long the list is, are bounded. Of a volume that cannot be walked
// the root is listed, with why.
//
// The walk has the lowest priority for processors and disks that still goes on when others are busy, and leaves no access
// times where the system can do without.
//
// On Windows owners are those of each file's security descriptor, links are reparse points that stand for another name,
// and volumes are fixed disks with a letter. Not yet verified on Windows itself.
package files
