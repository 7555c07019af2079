package service

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
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
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae/guest/install/pack"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// Component is the name of the one component that there is.
const Component = "hikae-agent"

// Places in the folder.
const (
	componentsDir = "components"
	incomingDir   = "incoming"
	sessionsDir   = "sessions"
	trustDir      = "trust"
	installerDir  = "installer"
	stateFile     = "state.json"
	settingsFile  = "settings.json"
)

// lockLimit bounds the wait for another process that installs.
const lockLimit = 30 * time.Second

// Store keeps the versions of components. Several processes may have the same folder open: each operation takes its lock.
type Store struct {
	dir     string
	signers []ed25519.PublicKey
	// answers starts a program and sees that it is the component of that version.
	answers func(ctx context.Context, path, version string) error
	// at is called before each step that a kill must not hurt at; tests set it.
	at func(step string)
}

// state is what state.json says.
type state struct {
	// Current is the component that counts; Folder empty: none is installed.
	Current installed `json:"current"`
	// Floor is the highest version that ever counted.
	Floor string `json:"floor"`
	// Back are the packages that were allowed to go below the floor, each once, by the hashes of their programs.
	Back []string `json:"back,omitempty"`
}

// maxBack bounds how often one may go back.
const maxBack = 64

// installed is one version of the component.
type installed struct {
	Version string `json:"version"`
	Folder  string `json:"folder"` // in components
	SHA256  string `json:"sha256"`
}

// program is the name of the component's file.
func program() string {
	if runtime.GOOS == "windows" {
		return Component + ".exe"
	}
	return Component
}

func openStore(dir string, signers []ed25519.PublicKey, answers func(context.Context, string, string) error) (*Store, error) {
	s := &Store{dir: dir, signers: signers, answers: answers, at: func(string) {}}
	for _, sub := range []string{componentsDir, incomingDir, sessionsDir} {
		if err := trust.MakeFolder(filepath.Join(dir, sub)); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), lockLimit)
	defer cancel()
	return s, s.locked(ctx, s.sweep)
}

func (s *Store) locked(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, lockLimit)
	defer cancel()
	return trust.LockFolder(ctx, filepath.Join(s.dir, componentsDir), f)
}

// read is what counts. A folder that never had a component has no state.
func (s *Store) read() (st state, err error) {
	data, err := readBounded(filepath.Join(s.dir, componentsDir, stateFile), 4<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return state{Floor: "0.0.0"}, nil
	}
	if err == nil {
		err = strict(data, 4<<10, &st)
	}
	if err == nil && (st.Current.Folder != "" && !goodFolder(st.Current.Folder) || len(st.Current.SHA256) != 0 && len(st.Current.SHA256) != 64) {
		err = errors.New("it names what cannot be")
	}
	if err == nil {
		_, err = pack.Compare(st.Floor, "0.0.0")
	}
	if err != nil {
		// Without it nobody knows which versions were installed, and an older one could come back.
		return st, fmt.Errorf("%s: %w: uninstall, and set up anew", filepath.Join(componentsDir, stateFile), err)
	}
	return st, nil
}

func (s *Store) write(st state) error {
	data, err := json.Marshal(st)
	if err != nil {
		return err
	}
	return trust.WriteFile(filepath.Join(s.dir, componentsDir), stateFile, append(data, '\n'))
}

func goodFolder(name string) bool {
	return strings.HasPrefix(name, Component+"-") && filepath.IsLocal(name) && !strings.ContainsAny(name, `/\:`)
}

// sweep removes what an installation left that was killed, and old versions that could not be removed while they ran.
func (s *Store) sweep() error {
	st, err := s.read()
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range []string{incomingDir, componentsDir} {
		list, err := os.ReadDir(filepath.Join(s.dir, dir))
		errs = append(errs, err)
		for _, e := range list {
			if dir == componentsDir && (e.Name() == st.Current.Folder || !goodFolder(e.Name())) {
				continue
			}
			if err := os.RemoveAll(filepath.Join(s.dir, dir, e.Name())); err != nil && runtime.GOOS != "windows" {
				errs = append(errs, err) // on Windows a program that runs stays until the next sweep
			}
		}
	}
	return errors.Join(errs...)
}

// Installed is the version that counts, empty where there is none, and the path of its program.
func (s *Store) Installed() (version, path string, err error) {
	st, err := s.read()
	if err != nil || st.Current.Folder == "" {
		return "", "", err
	}
	return st.Current.Version, s.path(st.Current.Folder), nil
}

func (s *Store) path(folder string) string {
	return filepath.Join(s.dir, componentsDir, folder, program())
}

// verified is the path of the component that counts, after its hash was taken again.
func (s *Store) verified() (path string, err error) {
	st, err := s.read()
	if err != nil {
		return "", err
	}
	if st.Current.Folder == "" {
		return "", fmt.Errorf("no component is installed: %w", fs.ErrNotExist)
	}
	path = s.path(st.Current.Folder)
	sum, err := sumOf(path)
	if err != nil {
		return "", err
	}
	if hex.EncodeToString(sum[:]) != st.Current.SHA256 {
		return "", fmt.Errorf("%w: the installed component %s was changed on the disk: install it anew", pack.ErrContent, st.Current.Version)
	}
	return path, nil
}

func sumOf(path string) (sum [32]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, pack.MaxSize+1)); err != nil {
		return sum, err
	}
	return [32]byte(h.Sum(nil)), nil
}

// Install makes a package's program the component that counts. Nothing of the program is read before its header is
// verified, and on an error what counted before counts on. replaced is the version that it took the place of.
//
// The errors are those of package pack, or of the disk, or of the component that did not answer.
func (s *Store) Install(ctx context.Context, p *pack.Package, content io.Reader) (replaced string, err error) {
	if err := s.admissible(p); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, installLimit) // the content comes from somebody who may stall, and others wait
	defer cancel()
	err = s.locked(ctx, func() error {
		st, err := s.read()
		if err == nil {
			err = allowed(p, &st)
		}
		if err != nil {
			return err
		}
		replaced = st.Current.Version
		return s.install(ctx, p, content, st)
	})
	return replaced, err
}

// installLimit bounds an installation, in which nobody else can make one.
const installLimit = 10 * time.Minute

// admissible is what can be said of a package by its header alone.
func (s *Store) admissible(p *pack.Package) error {
	if err := p.Verify(p.Signature, s.signers); err != nil {
		return err
	}
	if p.Name != Component {
		return fmt.Errorf("%w: there is no component %q", pack.ErrForm, p.Name)
	}
	if p.OS != runtime.GOOS || p.Arch != runtime.GOARCH {
		return fmt.Errorf("%w: %s/%s, and this is %s/%s", pack.ErrSystem, p.OS, p.Arch, runtime.GOOS, runtime.GOARCH)
	}
	return nil
}

// allowed holds a package against what was installed before. The same version with another content is as good a way
// back to a known hole as a lower one.
func allowed(p *pack.Package, st *state) error {
	order, err := pack.Compare(p.Version, st.Floor)
	if err != nil {
		return err
	}
	sum := hex.EncodeToString(p.SHA256[:])
	if order < 0 && st.Current.Folder != "" && st.Current.SHA256 == sum {
		return nil // what counts already may be put there again
	}
	if p.Downgrade && order < 0 {
		// A package that was once allowed to go back would otherwise undo the protection whenever somebody brings it again.
		if slices.Contains(st.Back, sum) || len(st.Back) >= maxBack {
			return fmt.Errorf("%w: %s was gone back to before: a package for that is good once", pack.ErrRollback, p.Version)
		}
		return nil
	}
	if order < 0 {
		return fmt.Errorf("%w: %s, and %s was", pack.ErrRollback, p.Version, st.Floor)
	}
	if c := st.Current; order == 0 && c.Folder != "" && c.SHA256 != hex.EncodeToString(p.SHA256[:]) {
		return fmt.Errorf("%w: another %s is installed", pack.ErrRollback, p.Version)
	}
	return nil
}

// install does the steps of the package comment. The lock is held.
func (s *Store) install(ctx context.Context, p *pack.Package, content io.Reader, st state) error {
	if err := s.sweep(); err != nil { // also room for the new one
		return err
	}
	staged, err := s.stage(ctx, p, content)
	if err != nil {
		return err
	}
	folder := fmt.Sprintf("%s-%s-%s", Component, p.Version, strings.ToLower(rand.Text()[:12]))
	place := filepath.Join(s.dir, componentsDir, folder)
	next := state{Current: installed{Version: p.Version, Folder: folder, SHA256: hex.EncodeToString(p.SHA256[:])}, Floor: st.Floor, Back: st.Back}
	switch order, _ := pack.Compare(p.Version, st.Floor); {
	case order > 0:
		next.Floor = p.Version
	case order < 0 && !slices.Contains(next.Back, next.Current.SHA256): // the floor stays: to go back is an exception
		next.Back = append(slices.Clone(next.Back), next.Current.SHA256)
	}
	err = s.place(staged, place)
	if err == nil {
		s.at("try")
		err = s.answers(ctx, filepath.Join(place, program()), p.Version)
	}
	if err == nil {
		s.at("name")
		err = s.write(next)
	}
	if err != nil {
		// What was written of the state is at worst the new one, whole, by a rename that could not be synced.
		if now, bad := s.read(); bad == nil && now.Current.Folder == folder {
			return err
		}
		return errors.Join(err, os.RemoveAll(place), ignoreMissing(os.Remove(staged)))
	}
	s.at("clean")
	return s.sweep()
}

// stage writes a program where nothing runs, and sees on the disk that it is the one that was signed.
func (s *Store) stage(ctx context.Context, p *pack.Package, content io.Reader) (path string, err error) {
	path = filepath.Join(s.dir, incomingDir, strings.ToLower(rand.Text()))
	s.at("stage")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(untilDone(ctx, content), p.Size+1))
	s.at("written")
	if err == nil && (n != p.Size || [32]byte(h.Sum(nil)) != p.SHA256) {
		err = fmt.Errorf("%w: %s %s, %d bytes of %d", pack.ErrContent, p.Name, p.Version, n, p.Size)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = reread(f, p)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(path))
	}
	return path, nil
}

// reread takes the hash again through the handle that the program was written by.
func reread(f *os.File, p *pack.Package) error {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, p.Size+1)); err != nil {
		return err
	}
	if [32]byte(h.Sum(nil)) != p.SHA256 {
		return fmt.Errorf("%w: the disk gave back something else", pack.ErrContent)
	}
	return nil
}

// place moves a program to where it can run.
func (s *Store) place(staged, place string) error {
	s.at("folder")
	if err := os.Mkdir(place, 0o700); err != nil {
		return err
	}
	s.at("move")
	path := filepath.Join(place, program())
	if err := os.Rename(staged, path); err != nil {
		return err
	}
	s.at("mode")
	if err := os.Chmod(path, 0o500); err != nil {
		return err
	}
	return errors.Join(trust.SyncFolder(place), trust.SyncFolder(filepath.Dir(place)))
}

// untilDone is a reader that ends with a context.
func untilDone(ctx context.Context, r io.Reader) io.Reader { return &doneReader{ctx: ctx, r: r} }

type doneReader struct {
	ctx context.Context
	r   io.Reader
}

func (d *doneReader) Read(p []byte) (int, error) {
	if err := context.Cause(d.ctx); err != nil {
		return 0, err
	}
	return d.r.Read(p)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
