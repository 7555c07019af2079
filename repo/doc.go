// Package repo is a repository: a place for restore points that never loses a byte.
//
// Reach for it to keep restore points of virtual disks, deduplicated, compressed, encrypted and with parity, in any
// [store.Store], and to have them back. It implements [pipe.Backend], so [pipe.Copy] writes to it and reads from it
// like any other disk:
//
//	st, err := dirstore.Open("/backup")
//	r, err := repo.Open(ctx, st, repo.Passphrase("…"), nil)
//	w, err := r.Begin(ctx, "web1", nil)
//	disk, err := w.Disk(ctx, "disk0", img.Size())
//	_, err = pipe.Copy(ctx, disk, img, nil)
//	err = disk.Commit(ctx)
//	id, err := w.Commit(ctx, nil)
//
// # What to know first
//
// Every restore point is complete. A disk is a tree of references to blocks; a point that changes little shares most
// of its tree with the one before it; there is no chain to walk and nothing to merge.
//
//	point ── manifest ─┬─ disk ── page ─┬─ page ── block
//	                   │                └─ page ── block     blocks and pages lie in packs of about 16 MiB,
//	                   └─ blob ── chunk                      each with parity of its own
//
// A block is known by a keyed 256-bit hash of its content. Whatever is read is held against it; whatever is stored is
// opened again, decoded and held against it before anyone relies on it.
//
// Everything that is stored is written once, under a new name, and never changed. One log of small signed records
// says what counts. Creating its next record is the only atomic step: a point appears all at once or not at all, and
// a writer that was believed dead and wakes up commits nothing. FORMAT.md has the exact bytes.
//
// The index, from block to pack, is a cache: it is made from the packs' own tables whenever it is missing. In memory
// it takes 11 to 23 bytes a block; one process serves about 100 TB of blocks of 256 KiB.
//
// # Clients that only write
//
// A machine that may be taken over gets no secret that opens anything: [Repository.EnrolWriter] makes a [WriterKey] for
// some VMs, and [OpenWriter] a repository that adds points of those and does nothing else. What it writes has ids of its
// own scope, and is sealed for those who open a slot. Where it reaches the store through a blind target, package guard
// holds it to that; [Public] is what such a target, which has no key at all, knows of the repository.
//
// # Damage
//
// What is read is mended from its pack's parity on the way, or had from another place, and a warning says so.
// [Repository.Verify] looks at everything before somebody needs it: all at once, by a sample, in a [Rotation] over days,
// at a bounded rate, and goes on where it was cut off. With Declare it tells the log what is bad, so that every client
// stores it again when it next appears. [Repository.Repair] writes again, into new packs, what is damaged and can be had
// from parity, from another repository or from the live disk, and says exactly what cannot; the damaged packs stay until
// a prune finds that nobody needs them. [Public.Scrub] does what can be done without any key. [Repository.Salvage] opens a
// disk of which parts are lost, as zeros, and lists them.
//
//	structure   every place of vital objects, every table, every page; that every block is in a pack   Verify
//	cells       and the tags of all bytes                                                              Scrub
//	all data    and every frame opened, decoded, and held against its id                               Verify, Repair
//
// # Safety
//
// A [Repository] is safe for concurrent use, and several processes on several machines may write to one store, where
// the store can be shared ([store.Abilities]). Secrets never appear in errors or logs. [Repository.Verify] says what
// is damaged, and exactly which ranges of which points are affected.
package repo
