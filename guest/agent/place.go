package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hikae/hikae/guest/agent/wire"
)

// Prefix begins the name of every folder of a component of the runtime kind. What is called otherwise is never removed,
// whatever a command line says.
const Prefix = "hikae-"

// Place is the private folder of a runtime component. Everything that it writes is in there.
type Place struct {
	dir  string
	same fs.FileInfo // so that another folder of that name is not taken for it
}

// OpenPlace opens a folder. It must be absolute, a folder and no link, called [Prefix]…, and closed to everybody but its
// owner: whoever could write into it could have us remove, or run, something else.
func OpenPlace(dir string) (*Place, error) {
	clean := filepath.Clean(dir)
	if !filepath.IsAbs(clean) || !strings.HasPrefix(filepath.Base(clean), Prefix) {
		return nil, fmt.Errorf("folder %q: it must be absolute and called %s…", dir, Prefix)
	}
	info, err := os.Lstat(clean)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s: not a folder", clean)
	}
	if err := private(info); err != nil {
		return nil, fmt.Errorf("%s: %w", clean, err)
	}
	return &Place{clean, info}, nil
}

// Dir is the folder.
func (p *Place) Dir() string { return p.dir }

// Path is a file in it.
func (p *Place) Path(name string) string { return filepath.Join(p.dir, name) }

// Remove removes the folder and all in it, following no link. That it is gone is no error; that another has its name is.
func (p *Place) Remove() error {
	info, err := os.Lstat(p.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !os.SameFile(info, p.same) {
		return fmt.Errorf("%s: another folder has its name", p.dir)
	}
	return os.RemoveAll(p.dir)
}

// Linger is how long the folder of a component that was spoken to by runs of its program stays behind it, empty. Whoever
// runs that program does so by its name, as root: while they may still do it the name must not become free, for somebody
// else to put a folder and a program of his own there. A client gives up within a third of the lease and a minute after the
// component did, so this is enough for leases of up to 12 min; and whoever takes the component away does not wait for it.
const Linger = 5 * time.Minute

// Empty removes all that is in the folder, following no link, and keeps it.
func (p *Place) Empty() error {
	root, err := os.OpenRoot(p.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	if info, err := root.Stat("."); err != nil || !os.SameFile(info, p.same) {
		return errors.Join(err, fmt.Errorf("%s: another folder has its name", p.dir))
	}
	f, err := root.Open(".")
	if err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	err = errors.Join(err, f.Close())
	for _, name := range names {
		err = errors.Join(err, root.RemoveAll(name))
	}
	return err
}

// Emptied is what [Options].Remove is of a component that is spoken to by runs of its program: the folder goes with the
// process.
func (p *Place) Emptied(context.Context) (wire.RemoveAnswer, error) {
	return wire.RemoveAnswer{Last: []string{p.dir}}, p.Empty()
}

// RemoveLater keeps the folder, empty, until the context ends or [Linger] is over, and then removes it.
func (p *Place) RemoveLater(ctx context.Context) error {
	err := p.Empty()
	t := time.NewTimer(Linger)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return errors.Join(err, p.Remove())
}

// Removed is what [Options].Remove is on systems where a program that runs can be removed.
func (p *Place) Removed(context.Context) (wire.RemoveAnswer, error) {
	return wire.RemoveAnswer{Removed: []string{p.dir}}, p.Remove()
}
