// Package fsystest puts readers of guest file systems to the test, with file systems that the real tools made and the
// real drivers wrote.
//
// # The round
//
// A test makes an image with mkfs, mounts it with [Mount], lets [Age] work on it from a seed, and takes down with [Scan]
// what is there. It then opens a copy of the image with the reader under test. [Compare] holds what the reader shows
// against the scan, in both directions, and [CheckFree] what it calls free against where its files lie. [Blank] writes
// garbage and then zeros over the free ranges of a copy: the real fsck must find nothing there, and another scan the same
// files.
//
//	m := fsystest.Mount(t, "ext4", img)
//	err := fsystest.Age(m.Dir, seed, 500, nil)
//	err = m.Sync()                            // a copy of img is now a busy file system with a full log
//	tree, err := fsystest.Scan(m.Dir)
//	fs, err := ext.Open(ctx, volume)
//	err = fsystest.Compare(ctx, fs, tree, nil)
//	err = fsystest.CheckFree(ctx, fs, volume.Size())
//
// The checks return errors instead of failing a test, so that they can also check a volume from elsewhere.
//
// # What stays behind
//
// Nothing: the mounts are not in the system's tree of mounts, they hang on open files of the process alone, so the kernel
// ends them and their loop devices with the process, however it dies.
package fsystest
