package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/guest/install/pack"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// SetupOptions say what is set up. Nil and zero fields are good defaults.
type SetupOptions struct {
	// Program is copied to be the service's. Empty: the program that runs.
	Program string
	// Beside is a folder in which packages may lie; those for this system are installed too. Empty: none.
	Beside string
	// UnitDir takes a unit for systemd. Empty: none is written.
	UnitDir string
}

// DefaultDir is where the service has everything of its own.
func DefaultDir() string {
	if runtime.GOOS == "windows" {
		return filepath.Join(os.Getenv("ProgramData"), "Hikae", "Agent")
	}
	return "/var/lib/hikae-agent"
}

// Setup sets an installer service up in a folder, which is made where it is missing: its program, its keys, whom it lets
// in, and the packages that lie ready. It starts nothing. Doing it again is an upgrade of the service, and lays a new
// temporary key down in the place of an older one; what is installed stays. It returns what it installed.
func Setup(ctx context.Context, dir string, k *Kit, opts *SetupOptions) (versions []string, err error) {
	o := SetupOptions{}
	if opts != nil {
		o = *opts
	}
	if err := k.Check(); err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if err := trust.MakeFolder(dir); err != nil {
		return nil, err
	}
	if err := closeFolder(dir); err != nil {
		return nil, err
	}
	if err := writeSettings(dir, settings{Listen: k.Listen, Signers: k.Signers}); err != nil {
		return nil, err
	}
	if err := layDown(dir, k); err != nil {
		return nil, err
	}
	path, err := copyProgram(dir, o.Program)
	if err != nil {
		return nil, err
	}
	if o.Beside != "" {
		if versions, err = installBeside(ctx, dir, k, o.Beside); err != nil {
			return versions, err
		}
	}
	if o.UnitDir != "" {
		err = writeUnit(o.UnitDir, path, dir)
	}
	return versions, err
}

// Program is the path of the service's own program.
func Program(dir string) string { return filepath.Join(dir, installerDir, program()) }

// copyProgram puts a program in its place at once: one that runs goes on from the old file.
func copyProgram(dir, from string) (string, error) {
	if from == "" {
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		from = self
	}
	to := Program(dir)
	if a, err := os.Stat(from); err == nil {
		if b, err := os.Stat(to); err == nil && os.SameFile(a, b) {
			return to, nil // it sets itself up again
		}
	}
	data, err := readBounded(from, pack.MaxSize)
	if err != nil {
		return "", err
	}
	place := filepath.Dir(to)
	if err := trust.MakeFolder(place); err != nil {
		return "", err
	}
	if err := trust.WriteFile(place, program(), data); err != nil {
		return "", err
	}
	return to, os.Chmod(to, 0o700)
}

// installBeside installs the newest package for this system that lies in a folder.
func installBeside(ctx context.Context, dir string, k *Kit, beside string) (versions []string, err error) {
	signers, err := signerKeys(k.Signers)
	if err != nil {
		return nil, err
	}
	files, err := packagesIn(beside)
	if err != nil || len(files) == 0 {
		return nil, err
	}
	store, err := openStore(dir, signers, func(ctx context.Context, path, version string) error {
		return tryOut(ctx, filepath.Join(dir, sessionsDir), path, version)
	})
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		replaced, err := store.Install(ctx, &f.Package, strings.NewReader(string(f.Program)))
		if errors.Is(err, pack.ErrRollback) && replaced == "" {
			continue // a newer one was installed before
		}
		if err != nil {
			return versions, fmt.Errorf("%s %s: %w", f.Name, f.Version, err)
		}
		versions = append(versions, f.Version)
	}
	return versions, nil
}

// packagesIn are a folder's packages for this system, oldest first.
func packagesIn(dir string) (files []*pack.File, err error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		if !strings.HasSuffix(e.Name(), pack.Ending) {
			continue
		}
		f, err := pack.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		if f.OS == runtime.GOOS && f.Arch == runtime.GOARCH {
			files = append(files, f)
		}
		if len(files) > 16 {
			return nil, fmt.Errorf("%s holds more than 16 packages for this system: %w", dir, fs.ErrInvalid)
		}
	}
	slices.SortFunc(files, func(a, b *pack.File) int { c, _ := pack.Compare(a.Version, b.Version); return c })
	return files, nil
}

// ours are the places of a folder, in the order in which they are removed: keys first, and last what says that it is a
// folder of ours, so that an uninstallation that was killed can be done again.
var ours = []string{trustDir, sessionsDir, incomingDir, componentsDir, installerDir, "lock", "trust.lock", "service.pid", settingsFile}

// Uninstall removes a service that does not run from its folder: keys, components, program, unit. It removes nothing
// that is not ours; a folder that is empty afterwards goes too. What is not there is no error. What could not be removed
// is the error, and is still there.
func Uninstall(dir, unitDir string) (removed []string, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	var errs []error
	take := func(path string) {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err := os.RemoveAll(path); err != nil {
			errs = append(errs, err)
			return
		}
		removed = append(removed, path)
	}
	if unitDir != "" {
		take(filepath.Join(unitDir, UnitName))
	}
	if _, err := os.Stat(filepath.Join(dir, settingsFile)); errors.Is(err, fs.ErrNotExist) {
		return removed, errors.Join(errs...) // nothing, or nothing of ours
	}
	for i, name := range ours {
		if i == len(ours)-1 && len(errs) > 0 {
			break
		}
		take(filepath.Join(dir, name))
	}
	if len(errs) == 0 {
		if err := os.Remove(dir); err == nil {
			removed = append(removed, dir)
		}
	}
	return removed, errors.Join(errs...)
}

// remove is the verb, of the installer service. The process ends when its connections have; the folder goes then.
func (s *Service) remove(_ context.Context, peer trust.Peer) (wire.RemoveAnswer, error) {
	if peer.Role != trust.Full {
		return wire.RemoveAnswer{}, &wire.Failure{Code: wire.CodeRights, Message: peer.Name + " may not remove the installer service"}
	}
	s.log.Info("removing everything", "peer", peer.Name)
	a := wire.RemoveAnswer{}
	disableUnit(s.opts.UnitDir)
	if runtime.GOOS != "windows" { // there a program that runs stays until it has ended
		removed, err := Uninstall(s.dir, s.opts.UnitDir)
		if a.Removed = removed; err != nil {
			return a, &wire.Failure{Code: wire.CodeFailed, Message: "not everything could be removed: " + err.Error()}
		}
		s.removing.Store(true)
		return a, nil
	}
	for _, path := range []string{filepath.Join(s.dir, componentsDir), filepath.Join(s.dir, incomingDir)} {
		if err := os.RemoveAll(path); err == nil {
			a.Removed = append(a.Removed, path)
		}
	}
	a.Last = []string{s.dir}
	s.removing.Store(true)
	return a, nil
}

// lastOfAll removes what was still needed to answer.
func (s *Service) lastOfAll() error {
	_, err := Uninstall(s.dir, s.opts.UnitDir)
	return err
}
