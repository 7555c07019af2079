package diskvm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// draft is a restore under way. Everything is written into a hidden folder beside its place, and moved there by Commit;
// so a restore that fails, or is killed, leaves nothing that could be taken for a disk.
type draft struct {
	restorer *Restorer
	vm       hikae.VM
	opts     hikae.RestoreOptions
	files    []*draftFile

	root   *os.Root // the folder that the files go to
	made   bool     // by us
	stage  string   // the hidden folder in it
	undone func(context.Context) error
	moved  []string // what has its place already
	done   bool
}

type draftFile struct {
	key, name string
	size      int64
}

const (
	effectKind  = "diskvm.restore"
	stagePrefix = ".hikae-restore-"
	configDir   = "config"
)

var stageName = regexp.MustCompile(`^\.hikae-restore-[a-z2-7]{16}$`)

func (d *draft) open(ctx context.Context) (err error) {
	folder := d.restorer.folderPath()
	if d.made, err = makeFolder(folder, d.restorer.folder); err != nil {
		return err
	}
	if d.root, err = os.OpenRoot(folder); err != nil {
		return err
	}
	d.undone = func(context.Context) error { return nil }
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if err = d.checkPlaces(); err != nil {
		return err
	}
	stage := stagePrefix + lower(rand.Text()[:16])
	if err = d.intend(ctx, folder, stage); err != nil {
		return err
	}
	d.stage = stage
	return d.root.Mkdir(stage, 0o700)
}

func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// makeFolder makes a missing folder, and says whether it did; the folder of a single file must exist.
func makeFolder(path string, mayMake bool) (made bool, err error) {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) || !mayMake {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, err
	}
	err = os.Mkdir(path, 0o755)
	return err == nil, err
}

func (d *draft) intend(ctx context.Context, folder, stage string) error {
	if d.opts.Journal == nil {
		return nil
	}
	abs, err := filepath.Abs(folder)
	if err != nil {
		return err
	}
	done, err := d.opts.Journal.Intend(ctx, hikae.Effect{
		Kind: effectKind, VM: d.vm.Name, Facts: map[string]string{"folder": abs, "stage": stage},
	})
	if err == nil {
		d.undone = done
	}
	return err
}

// checkPlaces is asked at the beginning, so that nobody copies for hours in vain, and again at Commit.
func (d *draft) checkPlaces() error {
	if d.opts.Overwrite {
		return nil
	}
	for _, name := range d.places() {
		if _, err := d.root.Lstat(name); err == nil {
			return &fs.PathError{Op: "restore", Path: filepath.Join(d.restorer.folderPath(), name), Err: fs.ErrExist}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// places are the names that Commit gives.
func (d *draft) places() (names []string) {
	for _, f := range d.files {
		names = append(names, f.name)
	}
	if d.hasConfig() {
		names = append(names, configDir)
	}
	return names
}

func (d *draft) hasConfig() bool {
	return d.restorer.folder && !d.restorer.opts.NoConfig && len(d.vm.Config) > 0
}

func (d *draft) OpenDisk(ctx context.Context, key string) (pipe.Target, error) {
	f, err := d.file(key)
	if err != nil {
		return nil, err
	}
	return d.restorer.format.Create(ctx, d.staged(f), f.size, nil)
}

func (d *draft) file(key string) (*draftFile, error) {
	i := slices.IndexFunc(d.files, func(f *draftFile) bool { return f.key == key })
	if i < 0 {
		return nil, fmt.Errorf("disk %q: %w", key, fs.ErrNotExist)
	}
	return d.files[i], nil
}

func (d *draft) staged(f *draftFile) string {
	return filepath.Join(d.restorer.folderPath(), d.stage, f.name)
}

// Reread opens a disk that was committed, from where it lies now.
func (d *draft) Reread(ctx context.Context, key string) (pipe.Image, error) {
	f, err := d.file(key)
	if err != nil {
		return nil, err
	}
	return d.restorer.format.Open(ctx, d.staged(f), nil)
}

// Commit gives everything its place. After an error Close takes back what had one.
func (d *draft) Commit(ctx context.Context) (string, error) {
	if err := d.writeConfig(); err != nil {
		return "", err
	}
	if err := errors.Join(ctx.Err(), d.checkPlaces()); err != nil {
		return "", err
	}
	for _, name := range d.places() {
		if err := d.move(name); err != nil {
			return "", err
		}
	}
	if err := d.syncFolder(); err != nil {
		return "", err
	}
	d.done = true
	return d.restorer.path, nil
}

// move never replaces anything unless it may: a link fails where the name is taken, a rename would not.
func (d *draft) move(name string) error {
	from := filepath.Join(d.stage, name)
	switch {
	case name == configDir:
		if d.opts.Overwrite {
			if err := d.root.RemoveAll(name); err != nil {
				return err
			}
		}
		if err := d.root.Rename(from, name); err != nil {
			return err
		}
	case d.opts.Overwrite:
		if err := d.root.Rename(from, name); err != nil {
			return err
		}
		return nil // what was there is gone: there is nothing to go back to
	default:
		if err := d.root.Link(from, name); err != nil {
			if errors.Is(err, fs.ErrExist) {
				return err
			}
			if err := d.root.Rename(from, name); err != nil { // a file system without hard links
				return err
			}
		}
	}
	d.moved = append(d.moved, name)
	return nil
}

// writeConfig writes the configuration byte for byte.
func (d *draft) writeConfig() error {
	if !d.hasConfig() {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(d.vm.Config)) {
		path, err := configName(name)
		if err != nil {
			return err
		}
		path = filepath.Join(d.stage, configDir, path)
		if err := d.root.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := d.writeFile(path, d.vm.Config[name]); err != nil {
			return fmt.Errorf("configuration %q: %w", name, err)
		}
	}
	return nil
}

func (d *draft) writeFile(path string, data []byte) error {
	f, err := d.root.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// Close removes what has no place. It may be called again.
func (d *draft) Close() error {
	if d.root == nil {
		return nil
	}
	var errs []error
	if !d.done {
		for _, name := range d.moved {
			errs = append(errs, d.root.RemoveAll(name))
		}
	}
	if d.stage != "" {
		errs = append(errs, d.root.RemoveAll(d.stage))
	}
	errs = append(errs, d.root.Close())
	d.root = nil
	if d.made && !d.done {
		errs = append(errs, os.Remove(d.restorer.folderPath()))
	}
	if err := errors.Join(errs...); err != nil {
		return err // the effect stays in the journal, for the next start
	}
	return d.undone(context.Background())
}

// Sweeper removes what a killed restore into files left. The zero Sweeper is ready.
type Sweeper struct{}

// Undo implements [hikae.Sweeper].
func (Sweeper) Undo(_ context.Context, e hikae.Effect, _ []hikae.ChangeID) error {
	if e.Kind != effectKind {
		return fmt.Errorf("effect %s: %w", e.Kind, errors.ErrUnsupported)
	}
	folder, stage := e.Facts["folder"], e.Facts["stage"]
	if !filepath.IsAbs(folder) || !stageName.MatchString(stage) {
		return fmt.Errorf("effect %s names the folder %q in %q: %w", e.ID, stage, folder, fs.ErrInvalid)
	}
	root, err := os.OpenRoot(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	return root.RemoveAll(stage)
}
