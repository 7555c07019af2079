package replica

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/hikae/hikae"
)

// Book keeps what is under way with each VM, one file each, in a folder that belongs to the site: whoever can reach the
// replica finds out there what became of it. Several processes may use it at once.
type Book struct {
	dir    string
	claims hikae.Claimer
}

// OpenBook opens the book in a folder, which is made where it is missing.
func OpenBook(dir string) (*Book, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	claims, err := hikae.OpenFileClaims(filepath.Join(dir, "claims"))
	if err != nil {
		return nil, err
	}
	return &Book{dir: dir, claims: claims}, nil
}

// What is under way.
const (
	planned   = "planned failover"
	unplanned = "failover"
	failback  = "failback"
)

// Steps of what is under way. Each stands in the book before it is done.
const (
	stepStopping  = "stopping"  // the source, of a planned failover; the replica, of a failback
	stepLastSync  = "last sync" // nothing runs
	stepStarting  = "starting"  // the replica, of a failover; the original, of a failback
	stepRunning   = "running"   // the replica runs: the end of a failover
	stepSealing   = "sealing"
	stepRestoring = "restoring"
	stepUndoing   = "undoing"
)

// UnderWay is what the book says of a VM.
type UnderWay struct {
	VM      string    `json:"vm"`
	What    string    `json:"what"`
	Step    string    `json:"step"`
	Begun   time.Time `json:"begun"`
	Stopped time.Time `json:"stopped,omitzero"` // from when on nothing ran
	Point   string    `json:"point,omitempty"`  // that the replica runs from, or that is restored
	Before  string    `json:"before,omitempty"` // the newest point before what ran was sealed
	Forced  bool      `json:"forced,omitempty"` // a person said that the source does not run
}

const (
	bookVersion = 1
	maxEntry    = 64 << 10
	maxVM       = 1024
)

type entryText struct {
	Version int `json:"version"`
	UnderWay
}

func (b *Book) path(vm string) string {
	sum := sha256.Sum256([]byte(vm))
	return filepath.Join(b.dir, hex.EncodeToString(sum[:16])+".json")
}

// Load tells what is under way with a VM; nil: nothing is.
func (b *Book) Load(vm string) (*UnderWay, error) {
	f, err := os.Open(b.path(vm))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxEntry+1))
	if err != nil {
		return nil, err
	}
	u, err := decodeEntry(text)
	if err == nil && u.VM != vm {
		err = fmt.Errorf("it is that of %q", u.VM)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: f.Name(), Err: err}
	}
	return u, nil
}

func decodeEntry(text []byte) (*UnderWay, error) {
	var e entryText
	if len(text) > maxEntry {
		return nil, fmt.Errorf("more than %d bytes: %w", maxEntry, fs.ErrInvalid)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return nil, fmt.Errorf("%w: %w", fs.ErrInvalid, err)
	}
	switch _, err := d.Token(); {
	case err != io.EOF:
		return nil, fmt.Errorf("something behind its end: %w", fs.ErrInvalid)
	case e.Version != bookVersion:
		return nil, fmt.Errorf("version %d is not known: %w", e.Version, errors.ErrUnsupported)
	case e.VM == "" || len(e.VM) > maxVM || !stepOf(e.What, e.Step):
		return nil, fmt.Errorf("a step %q of a %q: %w", e.Step, e.What, fs.ErrInvalid)
	}
	return &e.UnderWay, nil
}

// stepOf reports whether there is such a step.
func stepOf(what, step string) bool {
	switch step {
	case stepStarting, stepUndoing:
		return what == planned || what == unplanned || what == failback
	case stepStopping:
		return what == planned || what == failback
	case stepLastSync:
		return what == planned
	case stepRunning:
		return what == planned || what == unplanned
	case stepSealing, stepRestoring:
		return what == failback
	}
	return false
}

// save is durable on return, whole or not at all.
func (b *Book) save(u *UnderWay) error {
	text, err := json.Marshal(entryText{bookVersion, *u})
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(b.dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), b.path(u.VM))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return b.sync()
}

// forget ends what was under way.
func (b *Book) forget(vm string) error {
	if err := os.Remove(b.path(vm)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return b.sync()
}

// sync makes names durable, where a folder can be synced.
func (b *Book) sync() error {
	if runtime.GOOS == "windows" {
		return nil
	}
	dir, err := os.Open(b.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// claim takes the VM for one call.
func (b *Book) claim(ctx context.Context, vm, what string) (hikae.Claim, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "an unnamed machine"
	}
	return b.claims.Claim(ctx, "replica/"+vm, fmt.Sprintf("%s, process %d on %s", what, os.Getpid(), host))
}
