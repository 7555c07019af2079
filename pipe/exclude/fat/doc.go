// Package fat reads FAT12, FAT16 and FAT32 from outside: what of a volume is free, and its files with their long names.
// [Open] is the door; the contract is that of [fsys.FileSystem].
//
//	boot sector │ FSInfo … │ FAT │ FAT again │ root folder (not FAT32) │ clusters 2, 3, 4 … │
//
// Written from Microsoft's specification of FAT, version 1.03. There is no log: a volume that was not unmounted cleanly,
// or whose two tables differ, is doubtful, and then nothing of it is called free.
//
// A [fsys.Node] is the place of a file's short entry on the volume in units of 32 bytes; the root folder, which has none,
// is node 0. Numbers of links are always one.
package fat
