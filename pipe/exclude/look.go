package exclude

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/swap"
)

// Bounds of a walk over a file system. What lies beyond is stored.
const (
	maxFolders = 1 << 20
	maxDepth   = 512
	maxLinked  = 1 << 20 // files with several names that are remembered
)

var nothing = fsys.Attr{Mode: fs.ModeNamedPipe}

// looker looks for files of one volume that need not be stored.
type looker struct {
	a     *analysis
	r     *result
	f     fsys.FileSystem
	info  fsys.Info
	found finds
	taken map[fsys.Node]bool // swap files
}

func (l *looker) look(ctx context.Context) error {
	if l.foldsCase() {
		if err := l.windowsSwap(ctx); err != nil {
			return err
		}
	} else if err := l.linuxSwap(ctx); err != nil {
		return err
	}
	rules := globsFor(l.a.rules, l.foldsCase(), l.r.names()...)
	if l.r.whole != "" || !rules.excludes() {
		return nil
	}
	w := walker{looker: l, rules: rules, seen: map[fsys.Node]bool{}, linked: map[fsys.Node]uint32{}}
	err := w.inTime(ctx)
	for i, rule := range rules.rules {
		l.a.used[rule.text] = l.a.used[rule.text] || rules.used[i]
	}
	return err
}

func (l *looker) foldsCase() bool {
	return l.info.Kind == "ntfs" || l.info.Kind == "vfat" || l.info.Kind == "exfat"
}

// windowsSwap takes what Windows swaps to, and what it sleeps into where that is wanted.
func (l *looker) windowsSwap(ctx context.Context) error {
	if l.info.Kind != "ntfs" {
		return nil
	}
	for e, err := range l.f.ReadDir(ctx, l.f.Root()) {
		if err != nil {
			return err
		}
		name := fold(e.Name)
		switch {
		case !e.Type.IsRegular():
			continue
		case name == "pagefile.sys" || name == "swapfile.sys":
		case name == "hiberfil.sys" && l.a.opts.Hiberfil:
		default:
			continue
		}
		if !l.a.opts.Swap {
			continue
		}
		switch attr, err := l.f.Stat(ctx, e.Node); {
		case err != nil:
			return err
		case attr.Links != 1: // a link of this name to another file
			continue
		}
		dump, err := l.holdsDump(ctx, e.Node)
		if err != nil {
			return err
		}
		if dump {
			l.a.notes = append(l.a.notes, fmt.Sprintf("%s: %s holds the dump of a crash and is stored", l.r.volume.Name, name))
			continue
		}
		if err := l.take(ctx, e.Node, swap.MinPage, -1, pipe.Swap); err != nil {
			return err
		}
	}
	return nil
}

// holdsDump: a system that crashed leaves its memory in the page file, for its next start to save.
func (l *looker) holdsDump(ctx context.Context, n fsys.Node) (bool, error) {
	var p [8]byte
	k, err := l.f.ReadAt(ctx, n, p[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	s := string(p[:k])
	return s == "PAGEDU64" || s == "PAGEDUMP", nil
}

// usualPlaces are where Linux distributions and their manuals put swap files.
var usualPlaces = []string{"/swapfile", "/swap.img", "/swap", "/.swapfile", "/swap/swapfile", "/var/swap", "/var/swapfile", "/var/swap.img"}

// linuxSwap takes the swap files of a Linux system that are regular files with a swap header.
func (l *looker) linuxSwap(ctx context.Context) error {
	table, err := l.readRoots(ctx, "/etc/fstab")
	if err != nil {
		return err
	}
	l.r.swapNamed, l.r.mounts = tableOf(table)
	for _, list := range [][]string{usualPlaces, l.r.swapNamed, l.r.extra} {
		for _, path := range list {
			if err := l.swapFile(ctx, path); err != nil {
				return err
			}
		}
	}
	return nil
}

// isRoots reports whether only root of the guest can have made a file what it is: a regular file of root's, under one
// name, that nobody else may write. Whoever may write a file can write a swap header into it, and whoever owns the root
// of a volume can put an /etc/fstab there; a user of the guest must not be able to hide anything from its backup.
func isRoots(attr fsys.Attr) bool {
	const writableByOthers = 0o022
	return attr.Mode.IsRegular() && attr.UID == 0 && attr.Mode.Perm()&writableByOthers == 0 && attr.Links == 1
}

// swapFile takes one file if it is swap space. Only root swaps to a file, so one that is not root's alone is none. A file with holes, with shared blocks or without blocks of its own is none:
// no kernel swaps to one.
func (l *looker) swapFile(ctx context.Context, path string) error {
	n, attr, err := l.find(ctx, path)
	if err != nil || l.taken[n] {
		return err
	}
	if !isRoots(attr) || attr.Size < 2*swap.MinPage {
		return nil
	}
	head := make([]byte, min(attr.Size, swap.MaxPage))
	if k, err := l.f.ReadAt(ctx, n, head, 0); k < len(head) {
		return err
	}
	area, err := swap.Parse(head, attr.Size)
	switch {
	case errors.Is(err, fsys.ErrOther):
		return nil
	case err != nil:
		return err
	case area.Hibernated:
		l.r.sleeps = true
		l.r.store(true, "%s on it holds the memory of a sleeping system", path)
		return nil
	case !l.a.opts.Swap || area.Doubt != "" || attr.Kept != "":
		return nil
	}
	for run, err := range l.f.Runs(ctx, n) {
		if err != nil {
			return err
		}
		if run.File < area.Used && run.Kind != fsys.Written && run.Kind != fsys.Unwritten {
			return nil
		}
	}
	return l.take(ctx, n, area.Page, area.Used, pipe.Swap)
}

// take adds the blocks of a regular file between two of its bytes; to < 0 is its end and what is allocated behind it.
func (l *looker) take(ctx context.Context, n fsys.Node, from, to int64, kind pipe.Kind) error {
	attr, err := l.f.Stat(ctx, n)
	if err != nil {
		return err
	}
	if !attr.Mode.IsRegular() || attr.Kept != "" || l.taken[n] {
		return nil
	}
	for run, err := range l.f.Runs(ctx, n) {
		if err != nil {
			return err
		}
		if run.Kind != fsys.Written && run.Kind != fsys.Unwritten {
			continue
		}
		off, end := max(run.File, from), run.File+run.Len
		if to >= 0 {
			end = min(end, to)
		}
		if off < end {
			l.found.add(fsys.Range{Off: run.Vol + off - run.File, Len: end - off}, kind)
		}
	}
	if kind == pipe.Swap {
		l.taken[n] = true
	}
	return nil
}

// find follows a path from the root, without symbolic links. Where it does not exist, the Attr is that of a named pipe, which nobody looks for.
func (l *looker) find(ctx context.Context, path string) (fsys.Node, fsys.Attr, error) {
	at := l.f.Root()
	names := strings.Split(strings.Trim(path, "/"), "/")
	if len(names) > maxDepth {
		return 0, nothing, nil
	}
	for i, name := range names {
		next, isDir, err := l.entry(ctx, at, name)
		if err != nil || next == nil || i < len(names)-1 && !isDir {
			return 0, nothing, err
		}
		at = *next
	}
	attr, err := l.f.Stat(ctx, at)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nothing, nil
	}
	return at, attr, err
}

func (l *looker) entry(ctx context.Context, dir fsys.Node, name string) (*fsys.Node, bool, error) {
	for e, err := range l.f.ReadDir(ctx, dir) {
		if err != nil {
			return nil, false, err
		}
		if e.Name == name {
			return &e.Node, e.Type.IsDir(), nil
		}
	}
	return nil, false, nil
}

// maxTable bounds a text file that is read, in bytes.
const maxTable = 1 << 20

// readRoots reads a small file that is root's alone; nil where there is none.
func (l *looker) readRoots(ctx context.Context, path string) ([]byte, error) {
	n, attr, err := l.find(ctx, path)
	if err != nil || !isRoots(attr) || attr.Size == 0 || attr.Size > maxTable {
		return nil, err
	}
	p := make([]byte, attr.Size)
	k, err := l.f.ReadAt(ctx, n, p, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return p[:k], nil
}
