package kvm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// IncompleteError says that a restore in place was begun on a disk and did not come to its end: what the disk holds is
// of no one moment. Restoring a point in place again makes it whole.
type IncompleteError struct {
	Path   string // of the disk's image
	VM     string
	Marker string // the file that says so; it goes when a restore in place comes to its end
}

func (e *IncompleteError) Error() string {
	return fmt.Sprintf("VM %s: a restore in place of %s was begun and did not end; restore a point in place again to make it whole (%s says so)", e.VM, e.Path, e.Marker)
}

// marker is what the file beside a disk that is being written over holds.
type marker struct {
	Mark string `json:"mark"` // of the session
	VM   string `json:"vm"`
	Path string `json:"path"`
}

const (
	markerEnding = ".hikae-restoring"
	maxMarker    = 64 << 10
)

// markerPath is where that file is: beside an image, by whatever link it is reached. What is in /dev is gone after a
// restart, so a device's is in /var/tmp, under its name as it was given: what a name such as /dev/vg0/web1 leads to has
// another number then.
func markerPath(path string) string {
	path = filepath.Clean(path)
	if fi, err := os.Stat(path); err == nil && !fi.Mode().IsRegular() {
		return filepath.Join("/var/tmp", "hikae"+flat(path)+markerEnding)
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	return path + markerEnding
}

// flat is a path as one name.
func flat(path string) string {
	out := []byte(path)
	for i, c := range out {
		if c == filepath.Separator {
			out[i] = '-'
		}
	}
	return string(out)
}

// setMarker is durable on return. One that is there already, of a session that did not end, is replaced.
func setMarker(m marker) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return writeWhole(markerPath(m.Path), text, 0o600)
}

// writeWhole puts a file in its place at once, and durably.
func writeWhole(path string, content []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".hikae-*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	return syncDir(filepath.Dir(path))
}

// readMarker is the marker of a disk; ok is false where there is none.
func readMarker(path string) (m marker, ok bool, err error) {
	f, err := os.Open(markerPath(path))
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err != nil {
		return m, false, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxMarker))
	if err != nil {
		return m, false, err
	}
	if json.Unmarshal(text, &m) != nil {
		m = marker{Path: path} // it is there, whatever it says
	}
	return m, true, nil
}

func removeMarker(path string) error {
	path = markerPath(path)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// unbroken refuses a disk that is half restored.
func unbroken(path string) error {
	m, ok, err := readMarker(path)
	if err != nil || !ok {
		return err
	}
	return &IncompleteError{Path: path, VM: m.VM, Marker: markerPath(path)}
}
