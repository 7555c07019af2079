package replica

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// Options change how a site is opened. Nil and zero fields are good defaults.
type Options struct {
	// Warn is told of what a person should know: what a killed process left and could not be taken up, above all. It may be
	// called by several goroutines at once.
	Warn func(text string)
}

// Site is a folder of replicas. It is safe for concurrent use, by several processes too: one at a time changes something
// about a VM, and the others get a [*hikae.BusyError].
type Site struct {
	dir  string
	id   string
	warn func(string)
	step func(string) // tests end the process there
}

var _ pipe.Backend = (*Site)(nil)

const (
	siteName    = "hikae-replica"
	siteFile    = siteName + ".json"
	siteVersion = 1
)

type siteText struct {
	ID string `json:"id"`
}

// Open opens a site, and makes the folder one where it is missing or empty. What processes that were killed left undone is
// taken up: merges and seals are finished, points and failovers that had not come to anything are removed. What cannot be
// taken up is told to Options.Warn and does not keep the site from being opened: points that are listed are right.
//
// A folder that holds something else is fs.ErrInvalid.
func Open(dir string, opts *Options) (*Site, error) { return openSite(dir, opts, func(string) {}) }

func openSite(dir string, opts *Options, step func(string)) (*Site, error) {
	s := &Site{warn: func(string) {}, step: step}
	if opts != nil && opts.Warn != nil {
		s.warn = opts.Warn
	}
	var err error
	if s.dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	if s.dir, err = filepath.EvalSymlinks(s.dir); err != nil {
		return nil, err
	}
	if err := s.identify(); err != nil {
		return nil, err
	}
	return s, s.tidyAll()
}

// identify reads who the site is, or makes it somebody.
func (s *Site) identify() error {
	path := filepath.Join(s.dir, siteFile)
	text, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		if text, err = s.found(path); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	var st siteText
	err = decodeText(text, siteVersion, &st)
	if err == nil && !pointID.MatchString(st.ID) {
		err = fs.ErrInvalid
	}
	if err != nil {
		return &fs.PathError{Op: "open replica site", Path: path, Err: err}
	}
	s.id = "replica-" + st.ID
	return nil
}

// found makes an empty folder a site. Of several that do so at once, one has its way.
func (s *Site) found(path string) ([]byte, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), siteName) && e.Name() != "lost+found" {
			return nil, &fs.PathError{Op: "make a replica site of", Path: s.dir, Err: fmt.Errorf("it holds %s: %w", e.Name(), fs.ErrInvalid)}
		}
	}
	text, err := encodeText(siteVersion, siteText{newID()})
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(s.dir, siteName+"-*")
	if err != nil {
		return nil, roomError(err)
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		if err = os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	if err = errors.Join(err, os.Remove(f.Name()), syncDir(s.dir)); err != nil {
		return nil, roomError(err)
	}
	return readSmall(path)
}

// ID names the site. It stays the same when the folder is moved.
func (s *Site) ID() string { return s.id }

// Dir is the absolute path of the site's folder.
func (s *Site) Dir() string { return s.dir }

// Close ends the use of a site. Images and writers that are open stay so.
func (s *Site) Close() error { return nil }

// folder is that of a VM.
func (s *Site) folder(vm string) string { return filepath.Join(s.dir, nameFor(vm)) }

func checkVM(vm string) error {
	if vm == "" || len(vm) > maxName {
		return fmt.Errorf("a replica of %q: a VM's name has 1 to %d bytes: %w", vm, maxName, fs.ErrInvalid)
	}
	return nil
}

// folders are those of all VMs.
func (s *Site) folders() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() && vmFolder.MatchString(e.Name()) {
			out = append(out, filepath.Join(s.dir, e.Name()))
		}
	}
	return out, nil
}

// VMs are the names of the VMs that have points here, ascending.
func (s *Site) VMs(ctx context.Context) ([]string, error) {
	names := map[string]bool{}
	dirs, err := s.folders()
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		list, _, err := listFolder(dir)
		if err != nil {
			return nil, err
		}
		for _, r := range list {
			names[r.Info.VM] = true
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// tidyAll takes up what killed processes left, of all VMs that nobody is at work on.
func (s *Site) tidyAll() error {
	dirs, err := s.folders()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		err := s.tidyFolder(dir)
		var busy *hikae.BusyError
		if err != nil && !errors.As(err, &busy) {
			s.warn(fmt.Sprintf("what was begun in %s could not be taken up: %v", dir, err))
		}
	}
	return nil
}

func (s *Site) tidyFolder(dir string) error {
	if untidy, err := looksUntidy(dir); err != nil || !untidy {
		return err
	}
	lock, err := takeLock(dir, filepath.Base(dir), "take up what was left")
	if err != nil {
		return err
	}
	return errors.Join(s.tidy(dir), lock.release())
}
