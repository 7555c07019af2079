package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm"
	"github.com/hikae/hikae/kvm/qmp"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// Stage is where a replica stands.
type Stage string

const (
	// Ready: it takes points, and can be failed over to.
	Ready Stage = "ready"
	// FailingOver: a failover has begun, and nothing has seen its disks yet.
	FailingOver Stage = "failing over"
	// FailedOver: a VM runs from a point, or may run.
	FailedOver Stage = "failed over"
	// FailingBack: a seal has begun and has not ended: what the VM wrote is on its way to being a point.
	FailingBack Stage = "failing back"
)

// State is where the replica of a VM stands.
type State struct {
	VM    string    `json:"vm"`
	Stage Stage     `json:"stage"`
	Since time.Time `json:"since,omitzero"` // when the failover began
	Point string    `json:"point,omitempty"`
	// Disks are the files that the VM writes to: each stands on a disk of the point.
	Disks []kvm.StartedDisk `json:"disks,omitempty"`
	// Command is what the VM was started with, with its paths filled in. Nil: somebody else starts it.
	Command []string `json:"command,omitempty"`
	// Monitor is the path of the VM's monitor.
	Monitor string `json:"monitor,omitempty"`
}

// stateText is a state as it stands on disk, beside the folder run in which the VM's files are.
type stateText struct {
	State
	Seal  string          `json:"seal,omitempty"` // the point that is made of what the VM wrote
	Under *pipe.PointInfo `json:"under"`          // the point that it runs from
}

const (
	stateName    = "state.json"
	stateVersion = 1
	runName      = "run"
	logName      = "vm.log"
)

// loadState reads the state of a VM's folder. Where there is none it is Ready.
func loadState(dir, vm string) (*stateText, error) {
	path := filepath.Join(dir, stateName)
	text, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &stateText{State: State{VM: vm, Stage: Ready}}, nil
	}
	if err != nil {
		return nil, err
	}
	st, err := decodeState(text)
	if err == nil && nameFor(st.VM) != filepath.Base(dir) {
		err = fmt.Errorf("it is that of %q", st.VM)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: path, Err: err}
	}
	for i := range st.Disks { // the site may have been moved while nothing ran
		st.Disks[i].Path = filepath.Join(dir, runName, nameFor(st.Disks[i].Key)+diskSuffix)
	}
	return st, nil
}

func decodeState(text []byte) (*stateText, error) {
	st := &stateText{}
	if err := decodeText(text, stateVersion, st); err != nil {
		return nil, err
	}
	return st, st.check()
}

// check refuses what a failover never writes.
func (st *stateText) check() error {
	stages := st.Stage == FailingOver || st.Stage == FailedOver || st.Stage == FailingBack
	switch {
	case !stages || st.VM == "" || len(st.VM) > maxName || !pointID.MatchString(st.Point):
		return errors.New("it is not that of a failover")
	case st.Under == nil || st.Under.ID != st.Point || st.Under.VM != st.VM || len(st.Disks) != len(st.Under.Disks) || len(st.Disks) > maxDisks:
		return errors.New("it does not say what it stands on")
	case (st.Stage == FailingBack) != (st.Seal != "") || st.Seal != "" && !pointID.MatchString(st.Seal):
		return errors.New("it does not say which point is made")
	}
	for i, d := range st.Disks {
		if told := st.Under.Disks[i]; d.Key != told.Key || d.Size != told.Size || d.Key == "" || d.Size < 0 || d.Size > maxDisk {
			return fmt.Errorf("its disk %q is none of the point's", d.Key)
		}
	}
	return nil
}

func (st *stateText) save(dir string) error {
	text, err := encodeText(stateVersion, st)
	if err == nil {
		err = st.check()
	}
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, stateName), text)
}

// forget makes the replica Ready: what stays in the folder run is nobody's.
func (st *stateText) forget(dir string) error {
	return errors.Join(removeIfThere(filepath.Join(dir, stateName)), syncDir(dir))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// mustBeReady refuses what cannot be done while the replica is failed over.
func mustBeReady(dir, vm, op string) error {
	st, err := loadState(dir, vm)
	if err == nil && st.Stage != Ready {
		err = &StateError{Op: op, State: st.State}
	}
	return err
}

// State tells where the replica of a VM stands. A VM that has none is Ready, with no points.
func (s *Site) State(ctx context.Context, vm string) (State, error) {
	if err := errors.Join(ctx.Err(), checkVM(vm)); err != nil {
		return State{}, err
	}
	st, err := loadState(s.folder(vm), vm)
	if err != nil {
		return State{}, err
	}
	return st.State, nil
}

// monitorWithin bounds the question whether somebody is at a monitor.
const monitorWithin = 10 * time.Second

// Running tells whether the VM runs, as far as its monitor and the locks of its disks' files tell, and by what. Words: who
// it is; empty: it does not run.
func (s State) Running(ctx context.Context) (by string, err error) {
	for _, d := range s.Disks {
		owner, locked, err := diskfile.Locked(d.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // it is sealed already
		case err != nil:
			return "", err
		case locked:
			return owner, nil
		}
	}
	if s.Monitor == "" {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, monitorWithin)
	defer cancel()
	mon, err := qmp.Dial(ctx, s.Monitor)
	if err == nil {
		return "the VM at monitor " + s.Monitor, mon.Close()
	}
	if nobodyThere(err) {
		return "", nil
	}
	return fmt.Sprintf("somebody at monitor %s (%v)", s.Monitor, err), nil
}

// mustBeOff refuses to touch the disks of a VM that runs.
func (s State) mustBeOff(ctx context.Context) error {
	by, err := s.Running(ctx)
	if err == nil && by != "" {
		err = &hikae.BusyError{What: "the replica of " + s.VM, Owner: by}
	}
	return err
}
