package winsvc

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// folderRule is what components' folders are called.
var folderRule = regexp.MustCompile(`^hikae-[a-z0-9]{16,40}$`)

// sweepAge is how old a folder must be. A younger one may be that of a controller which is just bringing a component in.
const sweepAge = time.Hour

// maxSwept bounds one sweep.
const maxSwept = 64

// Sweep takes away what components that died have left beside dir, the folder of this one. A component that lives is
// recognised by its program, which cannot be deleted while it runs and is therefore tried first. The names of those that
// are gone are returned; the error says which are still there.
func Sweep(dir, program string) ([]string, error) { return sweep(dir, program, time.Now()) }

func sweep(dir, program string, now time.Time) ([]string, error) {
	parent, own := filepath.Dir(filepath.Clean(dir)), filepath.Base(dir)
	root, err := os.OpenRoot(parent)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, err
	}
	var gone []string
	var problems []error
	for _, e := range entries {
		if !e.IsDir() || e.Name() == own || !folderRule.MatchString(e.Name()) || len(gone)+len(problems) >= maxSwept {
			continue
		}
		if info, err := e.Info(); err != nil || now.Sub(info.ModTime()) < sweepAge {
			continue
		}
		if !dead(root, e.Name(), program) {
			continue
		}
		if err := root.RemoveAll(e.Name()); err != nil {
			problems = append(problems, err)
			continue
		}
		gone = append(gone, filepath.Join(parent, e.Name()))
	}
	return gone, errors.Join(problems...)
}

// dead reports whether a folder is that of a component which does not run, and takes its program away. A folder without
// the program is taken for one of ours only where nothing else is in it either.
func dead(root *os.Root, folder, program string) bool {
	switch err := root.Remove(folder + "/" + program); {
	case err == nil:
		return true
	case errors.Is(err, fs.ErrNotExist):
		rest, err := fs.ReadDir(root.FS(), folder)
		return err == nil && len(rest) == 0
	}
	return false // it runs
}

// Leave empties the component's folder but for its own program. It returns what is gone and what goes with the end of
// the process, by whose hand the package comment says.
func Leave(dir, program string) (gone, last []string, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, nil, err
	}
	var problems []error
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if e.Name() == program {
			last = append(last, name)
			continue
		}
		if err := root.RemoveAll(e.Name()); err != nil {
			problems = append(problems, err)
			continue
		}
		gone = append(gone, name)
	}
	return gone, append(last, dir), errors.Join(problems...)
}
