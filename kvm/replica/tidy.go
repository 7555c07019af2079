package replica

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// looksUntidy reports whether a VM's folder has something that was begun and not ended, by somebody who may be at it still.
func looksUntidy(dir string) (bool, error) {
	st, err := loadState(dir, filepath.Base(dir))
	if err != nil || st.Stage == FailingOver || st.Stage == FailingBack {
		return err == nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		switch {
		case e.Name() == runName && st.Stage == Ready, strings.HasSuffix(e.Name(), newSuffix):
			return true, nil
		case e.IsDir() && pointID.MatchString(e.Name()):
			if _, err := os.Lstat(filepath.Join(dir, e.Name(), recordName)); err != nil {
				return true, nil
			}
		}
	}
	return false, nil
}

const newSuffix = ".new"

// tidy takes up what was begun in a VM's folder and did not end. The folder is locked.
func (s *Site) tidy(dir string) error {
	st, err := loadState(dir, filepath.Base(dir))
	if err != nil {
		return err
	}
	switch st.Stage {
	case FailingOver: // nobody has seen its disks
		err = st.forget(dir)
	case FailingBack:
		if err = st.mustBeOff(context.Background()); err == nil {
			_, err = s.finishSeal(dir, st)
		}
	}
	if err != nil {
		return err
	}
	if st.Stage != FailedOver {
		if err := os.RemoveAll(filepath.Join(dir, runName)); err != nil {
			return err
		}
	}
	s.step("state tidy")
	return s.tidyPoints(dir)
}

// tidyPoints ends merges, and removes folders that are no points.
func (s *Site) tidyPoints(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case strings.HasSuffix(e.Name(), newSuffix):
			err = os.Remove(path)
		case e.IsDir() && pointID.MatchString(e.Name()):
			err = s.tidyPoint(dir, path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Site) tidyPoint(dir, path string) error {
	for _, name := range []string{recordName, mergingName} {
		_, err := os.Lstat(filepath.Join(path, name))
		switch {
		case err == nil && name == mergingName:
			return s.finishMerge(dir, path)
		case err == nil:
			return removeIfThere(filepath.Join(path, recordName+newSuffix)) // of a merge that was killed
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	s.step("garbage found")
	return os.RemoveAll(path)
}
