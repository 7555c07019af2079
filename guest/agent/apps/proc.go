//go:build linux

package apps

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Bounds of looking about.
const (
	maxProcesses = 1 << 16
	maxServers   = 64
	maxSockets   = 1 << 16 // lines of /proc/net/unix
)

// process is a running server.
type process struct {
	pid    int
	parent int
	name   string // of its program: postgres, mariadbd …
	exe    string
	folder string // that it stands in: its data
	uid    int
	gid    int
	// aside says why it is left alone; empty where it is not.
	aside string
}

// Why a server is left alone.
const (
	contained = "runs in a container: it is frozen with its file system and recovers from that as after a crash"
	hidden    = "runs, and only root can look into it"
)

// processes finds running programs of the given names.
func processes(names ...string) (found []process, err error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.Readdirnames(maxProcesses)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e)
		if err != nil {
			continue
		}
		comm, err := readFile("/proc/"+e+"/comm", 64)
		if err != nil || !slices.Contains(names, strings.TrimSpace(string(comm))) {
			continue
		}
		p, err := look(pid)
		if errors.Is(err, fs.ErrPermission) {
			p.name, p.aside, err = strings.TrimSpace(string(comm)), hidden, nil
		}
		if err == nil && slices.Contains(names, p.name) {
			found = append(found, p)
		}
	}
	return found, nil
}

// leaders are those processes that no other one of them has started.
func leaders(all []process) (some []process) {
	for _, p := range all {
		if !slices.ContainsFunc(all, func(o process) bool { return o.pid == p.parent }) {
			some = append(some, p)
		}
	}
	return some
}

// parentOf is who has started a process; 0 where that cannot be told.
func parentOf(pid int) int {
	b, err := readFile(fmt.Sprintf("/proc/%d/stat", pid), 4<<10)
	if err != nil {
		return 0
	}
	after := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:])) // a name may hold anything
	if len(after) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(after[1])
	return parent
}

// look looks into one process.
func look(pid int) (process, error) {
	at := fmt.Sprintf("/proc/%d", pid)
	p := process{pid: pid, parent: parentOf(pid)}
	info, err := os.Stat(at)
	if err != nil {
		return p, err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		p.uid, p.gid = int(st.Uid), int(st.Gid)
	}
	if p.exe, err = os.Readlink(at + "/exe"); err != nil {
		return p, err
	}
	p.exe = strings.TrimSuffix(p.exe, " (deleted)") // an update has replaced it
	p.name = filepath.Base(p.exe)
	if p.folder, err = os.Readlink(at + "/cwd"); err != nil {
		return p, err
	}
	its, err := os.Readlink(at + "/ns/pid")
	if err != nil {
		return p, err
	}
	ours, err := os.Readlink("/proc/self/ns/pid")
	if err == nil && its != ours {
		p.aside = contained
	}
	return p, nil
}

// listening is the first socket that a process listens on and that suits.
func (p process) listening(suits func(path string) bool) (string, error) {
	inodes, err := p.sockets()
	if err != nil {
		return "", err
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/net/unix", p.pid))
	if err != nil {
		return "", err
	}
	defer f.Close()
	// Num RefCount Protocol Flags Type St Inode Path
	lines := bufio.NewScanner(f)
	for n := 0; lines.Scan() && n < maxSockets; n++ {
		at := strings.Fields(lines.Text())
		if len(at) < 8 || at[3] != "00010000" || !inodes[at[6]] {
			continue
		}
		if path := strings.Join(at[7:], " "); filepath.IsAbs(path) && suits(path) {
			return path, nil
		}
	}
	return "", lines.Err()
}

// sockets are the inode numbers of a process's sockets.
func (p process) sockets() (map[string]bool, error) {
	dir, err := os.Open(fmt.Sprintf("/proc/%d/fd", p.pid))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxSockets)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	found := map[string]bool{}
	for _, n := range names {
		to, err := os.Readlink(filepath.Join(dir.Name(), n))
		if inode, ok := strings.CutPrefix(to, "socket:["); err == nil && ok {
			found[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return found, nil
}

// readFile reads a small regular file, following no link and waiting for no pipe.
func readFile(path string, max int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readOpen(f, max)
}

// readOpen reads all of a small regular file.
func readOpen(f *os.File, max int64) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: f.Name(), Err: fs.ErrInvalid}
	}
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(b)) > max {
		err = fmt.Errorf("%s: more than %d bytes: %w", f.Name(), max, fs.ErrInvalid)
	}
	return b, err
}

// trusted reports whether nobody but root and the account owner can have written a program.
func trusted(path string, owner int) bool {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false
	}
	for {
		info, err := os.Stat(path)
		if err != nil {
			return false
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || st.Uid != 0 && int(st.Uid) != owner || info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
			return false
		}
		if path == "/" {
			return true
		}
		path = filepath.Dir(path)
	}
}

// program finds a client: beside the server's own program first, since that one is of its version.
func (p process) program(owner int, names ...string) (string, bool) {
	bin := filepath.Dir(p.exe)
	for _, dir := range []string{bin, filepath.Join(bin, "../bin"), "/usr/bin", "/usr/local/bin", "/usr/local/pgsql/bin", "/usr/local/mysql/bin"} {
		for _, n := range names {
			path := filepath.Join(dir, n)
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 && trusted(path, owner) {
				return path, true
			}
		}
	}
	return "", false
}
