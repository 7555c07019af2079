package diskvm

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// File is one disk of the VM.
type File struct {
	Key    string
	Path   string
	Format string // raw, qcow2 …; empty: the content decides
}

// maxFiles bounds the disks of one VM: above what any hypervisor can attach.
const maxFiles = 1024

var validKey = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// ParseFiles reads sources as a person writes them: FILE or KEY=FILE. A file without a key gets disk0, disk1 … by its
// position. A path whose own name looks like KEY=FILE is written with its folder: ./a=b.img. Errors are *UsageError.
func ParseFiles(args []string) ([]File, error) {
	files := make([]File, 0, len(args))
	for i, arg := range args {
		f := File{Key: fmt.Sprintf("disk%d", i), Path: arg}
		if key, path, ok := strings.Cut(arg, "="); ok && validKey.MatchString(key) {
			f.Key, f.Path = key, path
		}
		files = append(files, f)
	}
	return files, checkFiles(files)
}

func checkFiles(files []File) error {
	if len(files) == 0 || len(files) > maxFiles {
		return usage("source", "%d disk files where 1 to %d are meant", len(files), maxFiles)
	}
	keys := map[string]bool{}
	for _, f := range files {
		switch {
		case f.Path == "":
			return usage("disk "+f.Key, "no file was named")
		case !validKey.MatchString(f.Key):
			return usage(fmt.Sprintf("disk %q", f.Key), "a key is 1 to 64 letters, digits, dots, dashes or underscores")
		case keys[f.Key]:
			return usage("disk "+f.Key, "the key was given twice")
		}
		keys[f.Key] = true
	}
	return nil
}

// checkDistinct refuses one file under two keys, by whatever names: the second would be backed up as another disk.
func checkDistinct(files []File) error {
	var infos []os.FileInfo
	for i, f := range files {
		fi, err := os.Stat(f.Path)
		if err != nil {
			return fmt.Errorf("disk %s: %w", f.Key, err)
		}
		for j, other := range infos {
			if os.SameFile(fi, other) {
				return usage("disk "+f.Key, "%s is the file of disk %s too", files[i].Path, files[j].Key)
			}
		}
		infos = append(infos, fi)
	}
	return nil
}
