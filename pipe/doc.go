// Package pipe copies disks: it has the nouns Image and Target, and Copy, which makes one hold what the other holds.
// Backup, restore, replication and verification are this one function with different nouns.
//
// # Images and targets
//
// An [Image] is the content of one disk at one moment; a [Target] takes one. Both are small interfaces, and what an
// implementation can do beyond them is a second interface: an [ExtentImage] knows which parts hold data, an
// [ExtentTarget] is told why parts carry none, a [BlockTarget] deduplicates. [As] finds an ability behind wrappers. A
// [Backend] keeps whole restore points, with several disks and named blobs.
//
// What changes a read is an image around an image: [Limit], [Retry], [Check], [Meter], [Cache], [Changed], [Section].
//
//	img = pipe.Retry(pipe.Limit(img, limiter), nil)
//	stats, err := pipe.Copy(ctx, target, img, nil)
//	if err == nil {
//		err = target.Commit(ctx)
//	}
//
// # How a copy flows
//
// The stages run at the same time, each in goroutines of its own, joined by channels. Content moves by reference in
// buffers of 1 MiB; their number is bounded by BufferBytes, and so is memory, whatever the size of the disk.
//
//	            extents ──► plan ─────────────── marks: zero, free, swap, … ───────────────┐
//	          (exclude)      │ ranges to read                                              │
//	                         ▼                                                             ▼
//	image ───────────────► read ──► zero? ──► fingerprint ──► deduplicate ──┬─ known ────► write ──► target
//	                         ▲      (exclude)                               │              ▲  │
//	                         │                                        new   └► compress ───┘  │
//	                         └───────────────────────── buffers ──────────────────────────────┘
//
//	side       source       │  pipe: as many workers as processors  │  target
//	goroutines 4 readers    │  fingerprint and compress             │  2 ask for missing blocks, 4 or more write
//
// For a target without blocks the way is read, zero?, write.
//
// A copy costs what the extents and the data cost. Long ranges that need no reading are never cut into blocks, so an
// empty disk of 8 TiB takes milliseconds. Zeros found by reading are marked as zeros, never left out: in an increment
// a range that became zero would otherwise keep what the base has there.
//
// # What a copy promises
//
//	the image ends early, or answers less than asked     error; nothing is padded
//	the image's extents have a gap, an overlap, …        [ErrExtents]
//	the image cannot read a range                        error that names it; or, by OnReadError, those sectors are Bad
//	the content changes between fingerprint and write    [ErrBlockMismatch] from the target, which recomputes
//	the context ends, or any stage fails                 every stage ends; no goroutine is left when Copy returns
package pipe
