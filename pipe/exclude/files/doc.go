// Package files finds single files in disk images: from a restore point, or from any [pipe.Image], through partitions
// and logical volumes, without mounting anything and without a helper machine.
//
// [FS] shows one file system as an [io/fs.FS]; [Open] finds all volumes of a machine's disks and puts them together as
// the machine itself would mount them. [Image] is a file's content with its holes, for [pipe.Copy].
//
// Names come from a guest and may be hostile. In this package a name is always valid UTF-8 and never "." or "..", so
// that [io/fs.ValidPath] holds for what is shown: see [ShownName]. [Extract] writes below one folder and never outside
// of it, whatever links and names say.
package files
