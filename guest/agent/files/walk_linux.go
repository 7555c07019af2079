package files

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/guest/index/list"
)

// walk lists one volume.
func (s *session) walk(v volume) error {
	fd, err := openFolder(unix.AT_FDCWD, v.Mount)
	if err != nil {
		return s.closed(v, err)
	}
	defer unix.Close(fd)
	w := &walker{session: s, mount: v.Mount, owners: map[uint32]string{}, buf: make([]byte, 64<<10)}
	root, err := w.stat(fd, "")
	if err != nil {
		return s.closed(v, err)
	}
	if v.device != 0 && v.device != root.device {
		return s.closed(v, errMount)
	}
	if err := s.out.Volume(v.Volume); err != nil {
		return err
	}
	w.device = root.device
	return w.folder(fd, root, "", 0)
}

// walker walks one volume. It is of one goroutine.
type walker struct {
	*session
	mount  string
	device uint64
	owners map[uint32]string
	buf    []byte
}

// status is what the kernel says of a name.
type status struct {
	list.Entry
	device, inode uint64
}

// folder lists a folder that is open, and what is below it.
func (w *walker) folder(fd int, st status, p string, depth int) error {
	c, err := w.names(fd, choose[struct{}](w.session, "", true))
	if w.ctx.Err() != nil {
		return w.ctx.Err()
	}
	st.Path = p
	if err != nil {
		st.Note = w.unlisted(join(w.mount, p), err)
	}
	if err := w.add(st.Entry); err != nil {
		return err
	}
	for {
		w.held += c.bytes
		for _, n := range c.held {
			if err := w.name(fd, n.name, join(p, n.name), depth+1); err != nil {
				return err
			}
		}
		w.held -= c.bytes
		if !c.full || err != nil {
			return nil
		}
		after := c.held[len(c.held)-1].name
		c.held = nil
		if c, err = w.names(fd, choose[struct{}](w.session, after, false)); err != nil {
			w.unread(w.mount, join(w.mount, p), err)
		}
	}
}

// names reads the next names of a folder in order.
func (w *walker) names(fd int, c chosen[struct{}]) (chosen[struct{}], error) {
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		return c, err
	}
	var names []string
	for {
		if err := w.ctx.Err(); err != nil {
			return c, err
		}
		n, err := unix.ReadDirent(fd, w.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			c.trim()
			return c, err
		}
		_, _, names = unix.ParseDirent(w.buf[:n], -1, names[:0])
		for _, name := range names {
			c.add(name, struct{}{})
		}
	}
}

// name lists one name of a folder, and what is below it.
func (w *walker) name(at int, name, p string, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	full := join(w.mount, p)
	if !w.rules.list(full) {
		return nil
	}
	st, err := w.stat(at, name)
	if errors.Is(err, unix.ENOENT) {
		return nil // it went in the meantime
	}
	st.Path = p
	if err != nil {
		st.Type, st.Note = list.Special, w.unlisted(full, err)
		return w.add(st.Entry)
	}
	switch {
	case st.Type == list.Link:
		st.Target = w.readlink(at, name)
	case st.Type == list.Dir && st.device != w.device:
		st.Note = errMount.Error()
	case st.Type == list.Dir && (depth >= maxDepth || len(p) > list.MaxPath-512):
		st.Note = w.unlisted(full, errDeep)
	case st.Type == list.Dir:
		return w.enter(at, name, st, full, depth)
	}
	return w.add(st.Entry)
}

// enter opens a folder, and looks whether it is still the same: between the two looks it may have become another.
func (w *walker) enter(at int, name string, st status, full string, depth int) error {
	fd, err := openFolder(at, name)
	if err == nil {
		defer unix.Close(fd)
		var now status
		if now, err = w.stat(fd, ""); err == nil && (now.device != st.device || now.inode != st.inode) {
			err = errReplaced
		}
	}
	if err != nil {
		st.Note = w.unlisted(full, err)
		return w.add(st.Entry)
	}
	return w.folder(fd, st, st.Path, depth)
}

// openFolder opens a folder and never anything else. Access times are left as they are where we may ask for that.
func openFolder(at int, name string) (int, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	fd, err := unix.Openat(at, name, flags|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) {
		fd, err = unix.Openat(at, name, flags, 0)
	}
	return fd, err
}

// stat looks at a name, or with an empty one at what is open. Kernels before 4.11 know no time of creation.
func (w *walker) stat(at int, name string) (status, error) {
	var x unix.Statx_t
	const how = unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT | unix.AT_EMPTY_PATH | unix.AT_STATX_DONT_SYNC
	err := unix.Statx(at, name, how, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &x)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return w.oldStat(at, name)
	}
	if err != nil {
		return status{}, err
	}
	s := w.status(uint32(x.Mode), x.Uid, x.Gid, int64(x.Size), x.Mtime.Sec)
	if x.Mask&unix.STATX_BTIME != 0 {
		s.CreatedUnix = x.Btime.Sec
	}
	s.device, s.inode = unix.Mkdev(x.Dev_major, x.Dev_minor), x.Ino
	return s, nil
}

func (w *walker) oldStat(at int, name string) (status, error) {
	var x unix.Stat_t
	if err := unix.Fstatat(at, name, &x, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH); err != nil {
		return status{}, err
	}
	s := w.status(x.Mode, x.Uid, x.Gid, x.Size, int64(x.Mtim.Sec))
	s.device, s.inode = uint64(x.Dev), x.Ino
	return s, nil
}

func (w *walker) status(mode, uid, gid uint32, size, mod int64) status {
	s := status{Entry: list.Entry{Type: list.Special, Mode: mode & 0o7777, Owner: w.number(uid), Group: w.number(gid), ModUnix: mod}}
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		s.Type, s.Size = list.File, max(size, 0)
	case unix.S_IFDIR:
		s.Type = list.Dir
	case unix.S_IFLNK:
		s.Type = list.Link
	}
	return s
}

// number is an owner's, of which there are few.
func (w *walker) number(id uint32) string {
	if s, ok := w.owners[id]; ok {
		return s
	}
	if len(w.owners) > 1<<12 {
		clear(w.owners)
	}
	s := strconv.FormatUint(uint64(id), 10)
	w.owners[id] = s
	return s
}

func (w *walker) readlink(at int, name string) string {
	n, err := unix.Readlinkat(at, name, w.buf[:8<<10])
	if err != nil {
		return ""
	}
	return string(w.buf[:n])
}

// background lowers this thread's priority. Where that is not allowed, the walk goes on as it is.
func background() {
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 19)
	// The last level of "best effort": "idle" would stand still on a guest that is always busy. ioprio_set(2).
	const whoProcess, bestEffort, last = 1, 2, 7
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, 0, bestEffort<<13|last)
}
