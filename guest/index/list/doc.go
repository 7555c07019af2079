// Package list carries a list of a guest's files over a stream: what the component writes while it walks, and what the
// other side makes an index of (package guest/index). It is small and compresses nothing, because a component is to be
// small: the two that have been measured would have added 0.1 MB (DEFLATE) and 0.3 MB (Zstandard) to a program of 2.9 MB,
// and a list of a million files is 23 to 35 MB without.
//
// # The stream, version 1
//
//	stream  = "HKFL" %x01 items end
//	items   = *( volume / entry )            ; an entry belongs to the volume before it
//	volume  = %x01 length mount device kind id label system
//	entry   = %x02 length flags class shared suffix size mod created [target] [note]
//	end     = %x03 length entries            ; the number of entries; nothing follows
//	class   = index [type mode owner group]  ; the four where index is one that did not come before
//
// A length is that of the item's rest in bytes. All numbers are variable-length: unsigned ones as in Protocol Buffers,
// mod and created as the zigzag form of the difference from the entry before (0 before the first of a volume). mount,
// device, kind, id, label, system, owner, group, suffix, target and note are a length and so many bytes; type is one byte.
// flags: 1 target is there, 2 note is there; other bits are zero. A path is the first shared bytes of the path before,
// and suffix. Classes are numbered from 0 as they come, over the whole stream; one that is new has the next number. Number
// 4096 is never used: the class that comes with it makes all others forgotten, and is number 0.
//
// Entries of a volume come in the order of a walk that visits a folder's names in the order of their bytes: see [Compare].
// A reader refuses what is not so, what is beyond a bound, and a stream without its end.
package list
