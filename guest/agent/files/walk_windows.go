package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/hikae/hikae/guest/index/list"
)

// volumes are the fixed disks with a letter.
func (s *session) volumes() ([]volume, error) {
	mask, err := windows.GetLogicalDrives()
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	var out []volume
	for i := range 26 {
		if mask>>i&1 == 0 {
			continue
		}
		letter := string(rune('A'+i)) + ":"
		root := windows.StringToUTF16Ptr(letter + `\`)
		if windows.GetDriveType(root) != windows.DRIVE_FIXED {
			continue
		}
		var label, kind [windows.MAX_PATH + 1]uint16
		var serial uint32
		if err := windows.GetVolumeInformation(root, &label[0], uint32(len(label)), &serial, nil, nil, &kind[0], uint32(len(kind))); err != nil {
			out = append(out, volume{Volume: list.Volume{Mount: letter, System: list.Windows}, broken: err})
			continue
		}
		out = append(out, volume{Volume: list.Volume{
			Mount: letter, Kind: windows.UTF16ToString(kind[:]), Label: windows.UTF16ToString(label[:]),
			ID: fmt.Sprintf("%08x", serial), System: list.Windows,
		}})
	}
	return out, nil
}

// walk lists one volume. Each folder is opened below the one above it, as a root that nothing leads out of.
func (s *session) walk(v volume) error {
	root, err := os.OpenRoot(v.Mount + `\`)
	if err != nil {
		return s.closed(v, err)
	}
	defer root.Close()
	info, err := root.Stat(".")
	if err != nil {
		return s.closed(v, err)
	}
	if err := s.out.Volume(v.Volume); err != nil {
		return err
	}
	w := &walker{session: s, mount: v.Mount}
	at, err := root.Open(".")
	if err != nil {
		at = nil // its owner is not known, and what else is wrong is said of the folder
	} else {
		defer at.Close()
	}
	return w.folder(root, entry(at, "", info, ""), 0)
}

// walker walks one volume.
type walker struct {
	*session
	mount string
}

// folder lists a folder that is open, and what is below it.
func (w *walker) folder(dir *os.Root, e list.Entry, depth int) error {
	full := join(w.mount, e.Path)
	c, err := w.names(dir, choose[fs.FileInfo](w.session, "", true))
	if w.ctx.Err() != nil {
		return w.ctx.Err()
	}
	if err != nil {
		e.Note = w.unlisted(full, err)
	}
	if err := w.add(e); err != nil {
		return err
	}
	at, openErr := dir.Open(".")
	if openErr != nil {
		at = nil // owners are not known
	} else {
		defer at.Close()
	}
	for {
		w.held += c.bytes
		for _, n := range c.held {
			if err := w.name(dir, at, n.name, n.with, join(e.Path, n.name), depth+1); err != nil {
				return err
			}
		}
		w.held -= c.bytes
		if !c.full || err != nil {
			return nil
		}
		after := c.held[len(c.held)-1].name
		c.held = nil
		if c, err = w.names(dir, choose[fs.FileInfo](w.session, after, false)); err != nil {
			w.unread(w.mount, full, err)
		}
	}
}

// names reads the next names of a folder in order, with what FindFirstFile says of them.
func (w *walker) names(dir *os.Root, c chosen[fs.FileInfo]) (chosen[fs.FileInfo], error) {
	f, err := dir.Open(".")
	if err != nil {
		return c, err
	}
	defer f.Close()
	for {
		if err := w.ctx.Err(); err != nil {
			return c, err
		}
		entries, err := f.ReadDir(1024)
		for _, e := range entries {
			if info, err := e.Info(); err == nil {
				c.add(e.Name(), info)
			}
		}
		if err != nil {
			c.trim()
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return c, err
		}
	}
}

// name lists one name of a folder, and what is below it.
func (w *walker) name(dir *os.Root, at *os.File, name string, info fs.FileInfo, p string, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	full := join(w.mount, p)
	if !w.rules.list(full) {
		return nil
	}
	e := entry(at, name, info, p)
	switch {
	case e.Type == list.Link:
		e.Target, _ = dir.Readlink(name)
		e.Target = e.Target[:min(len(e.Target), list.MaxTarget)]
	case e.Type == list.Dir && (depth >= maxDepth || len(p) > list.MaxPath-1024):
		e.Note = w.unlisted(full, errDeep)
	case e.Type == list.Dir:
		below, err := enter(dir, name)
		if err == nil {
			defer below.Close()
			return w.folder(below, e, depth)
		}
		e.Note = w.unlisted(full, err)
	}
	return w.add(e)
}

// enter opens a folder below one. OpenRoot follows links that stay below: what is open must be the folder itself.
func enter(dir *os.Root, name string) (*os.Root, error) {
	seen, err := dir.Lstat(name)
	if err != nil {
		return nil, err
	}
	below, err := dir.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	now, err := below.Stat(".")
	if err == nil && (!seen.IsDir() || !os.SameFile(seen, now)) {
		err = errReplaced
	}
	if err != nil {
		below.Close()
		return nil, err
	}
	return below, nil
}

func entry(at *os.File, name string, info fs.FileInfo, p string) list.Entry {
	e := list.Entry{Path: p, ModUnix: info.ModTime().Unix(), Owner: owner(at, name)}
	switch m := info.Mode(); {
	case m.IsDir():
		e.Type = list.Dir
	case m.IsRegular():
		e.Type, e.Size = list.File, info.Size()
	case m&(fs.ModeSymlink|fs.ModeIrregular) != 0:
		e.Type = list.Link
	default:
		e.Type = list.Special
	}
	if d, ok := info.Sys().(*syscall.Win32FileAttributeData); ok {
		e.Mode = d.FileAttributes
		e.CreatedUnix = d.CreationTime.Nanoseconds() / 1e9
	}
	return e
}

// owner is the SID of the owner of a name in a folder that is open, or of that itself where there is no name; empty where it
// cannot be had. Of a link it is the link's own.
func owner(dir *os.File, name string) string {
	if dir == nil {
		return ""
	}
	text, err := windows.NewNTUnicodeString(name)
	if err != nil {
		return ""
	}
	what := windows.OBJECT_ATTRIBUTES{RootDirectory: windows.Handle(dir.Fd()), ObjectName: text}
	what.Length = uint32(unsafe.Sizeof(what))
	const share = windows.FILE_SHARE_READ | windows.FILE_SHARE_WRITE | windows.FILE_SHARE_DELETE
	const how = windows.FILE_OPEN_REPARSE_POINT | windows.FILE_OPEN_FOR_BACKUP_INTENT
	var h windows.Handle
	var status windows.IO_STATUS_BLOCK
	if windows.NtCreateFile(&h, windows.READ_CONTROL, &what, &status, nil, 0, share, windows.FILE_OPEN, how, 0, 0) != nil {
		return ""
	}
	defer func() { _ = windows.CloseHandle(h) }()
	sd, err := windows.GetSecurityInfo(h, windows.SE_FILE_OBJECT, windows.OWNER_SECURITY_INFORMATION)
	if err != nil {
		return ""
	}
	sid, _, err := sd.Owner()
	if err != nil || sid == nil {
		return ""
	}
	return sid.String()
}

// background lowers this thread's priority for processors and disks: THREAD_MODE_BACKGROUND_BEGIN.
func background() {
	set := windows.NewLazySystemDLL("kernel32.dll").NewProc("SetThreadPriority")
	const begin = 0x00010000
	_, _, _ = set.Call(uintptr(windows.CurrentThread()), begin)
}
