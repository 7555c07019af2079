package kvm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hikae/hikae/pipe"
)

// startFolder is the folder in which a VM is started:
//
//	KEY.qcow2         a disk: an overlay over the export, until it stands alone
//	hikae-start.json  what is started here; it goes when all disks stand alone
//	hikae-start.lock  held by the process that serves the disks
//	nbd.sock          where they are served
//	qmp.sock          the monitor of the VM, where Hikae chose it
//	vm.log            what the VM's program printed
type startFolder struct {
	dir   string
	lock  *os.File
	state startState
}

// startState is what a folder remembers.
type startState struct {
	Version int           `json:"version"`
	Stage   string        `json:"stage"`
	Point   string        `json:"point"`
	VM      string        `json:"vm"`
	Disks   []StartedDisk `json:"disks"`
	Command []string      `json:"command,omitempty"` // with its slots
	Monitor string        `json:"monitor"`
}

const (
	startVersion = 1
	// stageMade: nobody but us has seen the disks. stageGiven: a VM may have written to them.
	stageMade  = "made"
	stageGiven = "given"

	maxStartState = 1 << 20
	maxStartDisks = 256
)

const (
	startStateName = "hikae-start.json"
	startLockName  = "hikae-start.lock"
)

func (f *startFolder) path(name string) string { return filepath.Join(f.dir, name) }
func (f *startFolder) socket() string          { return f.path("nbd.sock") }

// Started says what a folder holds that a VM was started in.
type StartedError struct {
	Folder string
	Point  string // that the disks in it are of
}

func (e *StartedError) Error() string {
	return fmt.Sprintf("%s: a VM was started here from point %s, and its disks are not whole yet", e.Folder, e.Point)
}

func (e *StartedError) Is(target error) bool { return target == fs.ErrExist }

// makeStartFolder takes a folder that holds no started VM yet. It is made where it is missing.
func makeStartFolder(dir string) (*startFolder, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := takeStartFolder(dir)
	if err != nil {
		return nil, err
	}
	switch err := f.load(); {
	case err == nil:
		return nil, errors.Join(&StartedError{Folder: dir, Point: f.state.Point}, f.unlock())
	case !errors.Is(err, fs.ErrNotExist):
		return nil, errors.Join(err, f.unlock())
	}
	return f, nil
}

// openStartFolder takes the folder of a VM that was started.
func openStartFolder(dir string) (*startFolder, error) {
	if _, err := os.Stat(filepath.Join(dir, startStateName)); err != nil {
		return nil, fmt.Errorf("no VM was started there, or its disks are whole: %w", err)
	}
	f, err := takeStartFolder(dir)
	if err != nil {
		return nil, err
	}
	if err := f.load(); err != nil {
		return nil, errors.Join(err, f.unlock())
	}
	return f, nil
}

func takeStartFolder(dir string) (*startFolder, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(dir, ",\x00\n") {
		return nil, &fs.PathError{Op: "start in", Path: dir, Err: errors.New("QEMU's options divide at commas: choose a folder without one")}
	}
	f := &startFolder{dir: dir}
	f.lock, err = lockStart(f.path(startLockName), dir)
	return f, err
}

func (f *startFolder) unlock() error { return f.lock.Close() }

// load reads the state. What somebody else put there is refused rather than believed.
func (f *startFolder) load() error {
	path := f.path(startStateName)
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxStartState))
	if err != nil {
		return err
	}
	var s startState
	if err := json.Unmarshal(text, &s); err != nil {
		return &fs.PathError{Op: "read", Path: path, Err: err}
	}
	if s.Version != startVersion {
		return &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("version %d: %w", s.Version, errors.ErrUnsupported)}
	}
	bad := s.Point == "" || len(s.Disks) == 0 || len(s.Disks) > maxStartDisks || s.Stage != stageMade && s.Stage != stageGiven
	for _, d := range s.Disks {
		bad = bad || d.Key == "" || d.Size <= 0 || filepath.Dir(d.Path) != f.dir
	}
	if bad {
		return &fs.PathError{Op: "read", Path: path, Err: errors.New("it does not describe a VM that was started in this folder (was the folder moved?)")}
	}
	f.state = s
	return nil
}

// save makes the state durable.
func (f *startFolder) save() error {
	text, err := json.MarshalIndent(f.state, "", "  ")
	if err != nil {
		return err
	}
	path := f.path(startStateName)
	file, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(append(text, '\n'))
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	return errors.Join(err, syncDir(f.dir))
}

// plan chooses the disks of a point and the names of their files.
func (f *startFolder) plan(p pipe.PointInfo, keys []string) error {
	f.state = startState{Version: startVersion, Stage: stageMade, Point: p.ID, VM: p.VM}
	wanted := map[string]bool{}
	for _, key := range keys {
		wanted[key] = true
	}
	for i, d := range p.Disks {
		if len(keys) > 0 && !wanted[d.Key] {
			continue
		}
		delete(wanted, d.Key)
		name := fmt.Sprintf("disk%d.qcow2", i)
		if plainKey.MatchString(d.Key) {
			name = d.Key + ".qcow2"
		}
		path := f.path(name)
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return &fs.PathError{Op: "start in", Path: path, Err: fs.ErrExist}
		}
		f.state.Disks = append(f.state.Disks, StartedDisk{Key: d.Key, Size: d.Size, Path: path})
	}
	for key := range wanted {
		return fmt.Errorf("the point has no disk %q: %w", key, fs.ErrNotExist)
	}
	if n := len(f.state.Disks); n == 0 || n > maxStartDisks {
		return fmt.Errorf("the point has %d disks: %w", n, fs.ErrInvalid)
	}
	return nil
}

// discard removes what was made and not given to anybody.
func (f *startFolder) discard() error {
	var errs []error
	for _, d := range f.state.Disks {
		errs = append(errs, removeIfThere(d.Path))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return f.forget()
}

// forget ends the folder's part in a start: what stays are disks, if any.
func (f *startFolder) forget() error {
	return errors.Join(removeIfThere(f.path(startStateName)), removeIfThere(f.path(startStateName+".new")), removeIfThere(f.path(startLockName)))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
