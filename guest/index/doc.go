// Package index keeps a list of a machine's files in a form that is small and can be searched (R144): names, sizes, times,
// owners, by volume. It is stored with a restore point as the blob [BlobName].
//
// [Writer] writes one while a walk goes on; [Build] and [FromList] make one of the list that a component sends (package
// list); [AddFS] lists a file system from the outside, without any component. [Open] reads the directory, [Index.Find]
// only those blocks whose names can fit, [Index.Walk] only those of a folder.
//
// Measured on a Debian machine with 478,870 names, on one core: 10.9 MB as a list, 3.3 MB as an index, that is 6.9 MB for
// a million; 0.5 s to make it. Names that are hashes take their own length more: with a compiler's cache among them it was
// 14.8 MB for a million.
//
// # The file, version 1
//
//	0                                                                          size
//	| head | block | block | … | block | directory (one Zstandard frame) | tail |
//	  8 B    each a Zstandard frame                                        56 B
//
// Head: "HKFI", the version (one byte), three zeros. Tail: the directory's byte (8), its length packed (4) and plain (4),
// its SHA-256 (32), "HKFIend" and %x01. Fixed numbers are little-endian; all others below are unsigned and of variable
// length, as in Protocol Buffers; "signed" ones in their zigzag form. A text is a length and so many bytes. No frame has a
// dictionary or is longer than its bound; the blocks follow each other without gaps from byte 8 to the directory, in the
// order in which the directory has them.
//
// # Directory
//
//	volumes, and for each:
//	  mount device kind id label system cut   texts; cut: why not all files are listed
//	  blocks, and for each:
//	    packed plain entries                  lengths, and how many entries
//	    shared, rest                          the first entry's path: bytes like the one of the block before; a text
//	    summary                               a text: see below
//	    hash                                  16 bytes: the first of the packed block's SHA-256
//
// The summary is a set of 2^n bits, 64 to 65,536 of them, or empty. For each three bytes that follow each other in a name
// (the last part of a path), with A–Z as a–z, t = first·65536 + second·256 + third, it has the bit number
// (t · 0x9e3779b1 mod 2^32) / 2^(32−n); bit i is in byte i/8 with the value 2^(i mod 8). Whoever looks for a text in names
// need not read a block whose summary lacks one of the text's.
//
// # Block
//
//	entries classes
//	for each class: type (one byte) mode owner group            owner, group: texts
//	nine columns, each a length in bytes and:
//	  class      of each entry, the number of its class
//	  shared     of each, how many bytes its path begins with like the one before (0: the block's first)
//	  suffix     of each, the length of the rest
//	  names      the rests, one after the other
//	  size       of each, bytes
//	  modified   of each, signed: seconds since 1970 less those of the entry before (0: the first)
//	  created    likewise; 0 where it is not known
//	  flags      of each, one byte: 1 it has a target, 2 it has a note
//	  texts      the targets and notes
//
// Entries are in the order of list.Compare through all blocks of a volume. A block is full at some 64 KiB, plain.
//
// # Bounds
//
// A reader takes nothing on trust: it holds the directory (at most 32 MiB, and first paths of 32 MiB together) and one
// block (at most 208 KiB with 16,384 entries, whose paths are 4 MiB together). What is wrong is a [*CorruptError] with its
// place.
package index
