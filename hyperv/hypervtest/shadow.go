package hypervtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hikae/hikae/hyperv/helper/requester"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// ShadowPrefix is what a shadow copy's device begins with. A number follows.
const ShadowPrefix = `\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy`

// Shadow is a shadow copy: the files of a volume as they were at one moment.
type Shadow struct {
	ID     string // a GUID in braces
	Set    string // of the set that it is one of
	Device string // ShadowPrefix and a number, without a backslash at the end
	Volume string // it is a copy of: C:\
	Number int    // how many the set has
}

// shadow is one that is kept.
type shadow struct {
	Shadow
	dir           string // of the copy
	root          string // of all copies of its set, as drives of a host: root/C
	owner         string // session or vendor that made it
	created       time.Time
	writable      atomic.Bool // the writer is at work in it: nobody else sees it yet
	recovered     atomic.Bool // it was
	transportable bool        // it is on no machine until the storage brings it there
	gone          atomic.Bool
	shares        ShareSet // it is of a share, and a file server's
}

// ErrShadowGone is what reading says after a shadow copy was deleted: the device is no longer there.
var ErrShadowGone = fmt.Errorf("the shadow copy was deleted: %w", fs.ErrNotExist)

// shadows are those of a host.
type shadows struct {
	dir  string // where copies lie; empty: none was made yet
	list []*shadow

	made, sets, devices int // so far
}

// Shadows are the shadow copies that are there now, of whoever made them.
func (h *Host) Shadows() (list []Shadow) {
	for _, s := range h.hostVSS().find(func(*shadow) bool { return true }) {
		list = append(list, s.Shadow)
	}
	return list
}

// nextShadow gives the id of a shadow copy that is going to be made.
func (v *hostVSS) nextShadow() requester.ID {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.shadows.made++
	return requester.ID("{" + guid("5AD", v.shadows.made) + "}")
}

// copyVolumes makes one set of shadow copies while nobody writes: the caller has paused the guests. Those that are asked for by
// id get it.
func (v *hostVSS) copyVolumes(ctx context.Context, set, owner string, volumes []string, ids map[string]requester.ID) (made []*shadow, err error) {
	root, err := v.newRoot()
	if err != nil {
		return nil, err
	}
	var shares []*shadow
	for _, volume := range volumes {
		s := &shadow{root: root, owner: owner, created: time.Now(), dir: filepath.Join(root, strings.ReplaceAll(strings.ReplaceAll(volume, ":", ""), `\`, "/"))}
		s.ID, s.Set, s.Volume, s.Number = string(ids[volume]), set, volume, len(volumes)
		made = append(made, s)
		if isShare(volume) {
			shares = append(shares, s)
			continue
		}
		var from string
		if from, err = v.h.volumePath(volume); err == nil {
			err = copyTree(ctx, from, s.dir)
		}
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(root))
		}
	}
	if err := v.copyShares(ctx, shares); err != nil {
		return nil, errors.Join(err, os.RemoveAll(root))
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range made {
		if s.shares == nil {
			v.shadows.devices++
			s.Device = fmt.Sprintf("%s%d", ShadowPrefix, v.shadows.devices)
		}
		v.shadows.list = append(v.shadows.list, s)
	}
	return made, nil
}

// newRoot is a folder for the copies of one set.
func (v *hostVSS) newRoot() (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.shadows.dir == "" {
		dir, err := os.MkdirTemp("", "hypervtest-shadows")
		if err != nil {
			return "", err
		}
		v.shadows.dir = dir
	}
	return os.MkdirTemp(v.shadows.dir, "set")
}

// close deletes all that is left.
func (v *hostVSS) close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range v.shadows.list {
		s.gone.Store(true)
	}
	v.shadows.list = nil
	if v.shadows.dir == "" {
		return nil
	}
	return os.RemoveAll(v.shadows.dir)
}

// copyTree copies regular files and folders. Nothing else lies on the fake's volumes.
func copyTree(ctx context.Context, from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != from {
			return nil // a file that was closed and removed meanwhile
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch target := filepath.Join(to, rel); {
		case d.IsDir():
			return os.MkdirAll(target, 0o755)
		case d.Type().IsRegular():
			return copySparse(ctx, path, target)
		}
		return nil
	})
}

// copySparse copies what a file holds and leaves its holes.
func copySparse(ctx context.Context, from, to string) (err error) {
	in, err := diskfile.Open(from, &diskfile.OpenOptions{Live: true})
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was removed meanwhile
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := out.Truncate(in.Size()); err != nil {
		return err
	}
	b := make([]byte, 256<<10)
	for e, err := range in.Extents(ctx, 0, in.Size()) {
		if err != nil {
			return err
		}
		if e.Kind != pipe.Data {
			continue
		}
		for off := e.Off; off < e.End(); off += int64(len(b)) {
			p := b[:min(int64(len(b)), e.End()-off)]
			if _, err := in.ReadAt(ctx, p, off); err != nil {
				return err
			}
			if isZeros(p) {
				continue
			}
			if _, err := out.WriteAt(p, off); err != nil {
				return err
			}
		}
	}
	return nil
}

func isZeros(p []byte) bool {
	for _, c := range p {
		if c != 0 {
			return false
		}
	}
	return true
}

// drop deletes shadow copies for good. Whoever has a file of them open reads no more.
func (v *hostVSS) drop(list []*shadow) error {
	v.mu.Lock()
	v.shadows.list = slices.DeleteFunc(v.shadows.list, func(s *shadow) bool { return slices.Contains(list, s) })
	v.mu.Unlock()
	errs := []error{dropShares(list)}
	for _, s := range list {
		if !s.gone.Swap(true) && s.shares == nil {
			errs = append(errs, os.RemoveAll(s.dir))
		}
		if v.find(func(o *shadow) bool { return o.root == s.root }) == nil {
			errs = append(errs, os.RemoveAll(s.root))
		}
	}
	return errors.Join(errs...)
}

// LoseShadows deletes all shadow copies that the host's VSS keeps, without a word to who made them: as Windows does when it has no
// room for them.
func (h *Host) LoseShadows() error {
	v := h.hostVSS()
	h.event(Event{Actor: "host", Name: "shadow copies lost", Detail: "no room for what changes on the volume"})
	return v.drop(v.find(func(s *shadow) bool { return s.owner != storageOwner }))
}

// find is the shadow copies for which a condition holds.
func (v *hostVSS) find(f func(*shadow) bool) (found []*shadow) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range v.shadows.list {
		if f(s) {
			found = append(found, s)
		}
	}
	return found
}

// OpenShadow opens a file by its path below a shadow copy's device.
func (h *Host) OpenShadow(ctx context.Context, name string) (pipe.Image, error) {
	s, rest, err := h.inShadow(name)
	if err != nil {
		return nil, err
	}
	return s.openFile(ctx, rest)
}

// openFile opens a file by its path from the root of the volume.
func (s *shadow) openFile(ctx context.Context, name string) (pipe.Image, error) {
	if s.shares != nil {
		return s.openShared(ctx, name)
	}
	path, err := below(s.dir, name)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	f, err := diskfile.Open(path, &diskfile.OpenOptions{Live: true})
	if err != nil {
		return nil, err
	}
	return &shadowFile{f, s}, nil
}

// inShadow finds the shadow copy of a path below a device, and the rest of the path.
func (h *Host) inShadow(name string) (s *shadow, rest string, err error) {
	v := h.hostVSS()
	for _, s := range v.find(func(*shadow) bool { return true }) {
		if s.transportable || s.writable.Load() || len(name) < len(s.Device) || !strings.EqualFold(name[:len(s.Device)], s.Device) {
			continue
		}
		rest := name[len(s.Device):]
		if rest != "" && rest[0] != '\\' {
			continue // …Copy1 and …Copy12
		}
		return s, rest, nil
	}
	return nil, "", &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// below follows a Windows path into a folder, in any case of letters, and never out of it.
func below(dir, path string) (string, error) {
	for _, part := range strings.Split(path, `\`) {
		if part == "" || part == "." {
			continue
		}
		if part == ".." || strings.ContainsAny(part, "/\x00:") {
			return "", &fs.PathError{Op: "open", Path: path, Err: fs.ErrInvalid}
		}
		found := filepath.Join(dir, part)
		if _, err := os.Lstat(found); err != nil {
			list, err := os.ReadDir(dir)
			if err != nil {
				return "", &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
			}
			i := slices.IndexFunc(list, func(e fs.DirEntry) bool { return strings.EqualFold(e.Name(), part) })
			if i < 0 {
				return "", &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
			}
			found = filepath.Join(dir, list[i].Name())
		}
		dir = found
	}
	return dir, nil
}

// shadowFile is a file that ends with its shadow copy.
type shadowFile struct {
	pipe.Image
	of *shadow
}

func (f *shadowFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if f.of.gone.Load() {
		return 0, fmt.Errorf("%s: read at %d: %w", f.of.Device, off, ErrShadowGone)
	}
	return f.Image.ReadAt(ctx, p, off)
}
