package hypervtest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// mount says where names that begin in one way lie: C:\ in Dir/C.
type mount struct {
	prefix string // in small letters, with a backslash at its end
	dir    string
}

// mountAt makes names below a prefix lie in a folder of this machine. The longest prefix counts.
func (h *Host) mountAt(prefix, dir string) {
	h.places.Lock()
	defer h.places.Unlock()
	prefix = strings.TrimSuffix(strings.ToLower(prefix), `\`) + `\`
	h.mounts = append([]mount{{prefix, dir}}, h.mounts...)
}

// unmount takes such a place away again.
func (h *Host) unmount(prefix string) {
	h.places.Lock()
	defer h.places.Unlock()
	prefix = strings.TrimSuffix(strings.ToLower(prefix), `\`) + `\`
	for i, m := range h.mounts {
		if m.prefix == prefix {
			h.mounts = append(h.mounts[:i:i], h.mounts[i+1:]...)
			return
		}
	}
}

// volumePath is where a file of the host lies on this machine: C:\VMs\a.vhdx is Dir/C/VMs/a.vhdx, \\fs1\vms\a.vhdx is
// Dir/UNC/fs1/vms/a.vhdx. As Windows does, it takes no notice of the case of names that exist.
func (h *Host) volumePath(name string) (string, error) {
	bad := &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	dir, rest := h.under(name)
	if dir == "" {
		return "", bad
	}
	path := dir
	for _, part := range strings.Split(rest, `\`) {
		if part == "" {
			continue
		}
		if part == "." || part == ".." || strings.ContainsAny(part, "/:*?\"<>|\x00") {
			return "", bad
		}
		path = entryIn(path, part)
	}
	return path, nil
}

// under finds the mount, or makes drive letters and shares from the host's own folder.
func (h *Host) under(name string) (dir, rest string) {
	low := strings.ToLower(name)
	h.places.Lock()
	best := mount{}
	for _, m := range h.mounts {
		if len(m.prefix) > len(best.prefix) && strings.HasPrefix(low+`\`, m.prefix) {
			best = m
		}
	}
	h.places.Unlock()
	if best.dir != "" {
		return best.dir, name[min(len(best.prefix), len(name)):]
	}
	if len(name) >= 2 && name[1] == ':' && (low[0] >= 'a' && low[0] <= 'z') && (len(name) == 2 || name[2] == '\\') {
		return filepath.Join(h.dir, strings.ToUpper(name[:1])), name[2:]
	}
	unc, ok := strings.CutPrefix(name, `\\`)
	if !ok {
		return "", ""
	}
	parts := strings.SplitN(unc, `\`, 3)
	if len(parts) < 2 || !isHostName(parts[0]) || !isHostName(parts[1]) {
		return "", ""
	}
	rest = ""
	if len(parts) == 3 {
		rest = parts[2]
	}
	if own := parts[1]; strings.EqualFold(parts[0], h.opts.Name) && len(own) == 2 && own[1] == '$' {
		return filepath.Join(h.dir, strings.ToUpper(own[:1])), rest
	}
	return filepath.Join(h.dir, "UNC", strings.ToLower(parts[0]), strings.ToLower(parts[1])), rest
}

// isHostName: a server may be called by an address or with its domain, and a share may not lead anywhere else.
func isHostName(s string) bool {
	return s != "" && s[0] != '.' && !strings.ContainsAny(s, `/:*?"<>|`+"\x00") && !strings.Contains(s, "..")
}

// entryIn is a name in a folder, in the case in which it is there.
func entryIn(dir, name string) string {
	path := filepath.Join(dir, name)
	if _, err := os.Lstat(path); err == nil {
		return path
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return path
	}
	for _, e := range entries {
		if strings.EqualFold(e.Name(), name) {
			return filepath.Join(dir, e.Name())
		}
	}
	return path
}

// folderOf and baseOf take a name of Windows apart.
func folderOf(name string) string { return name[:max(strings.LastIndexByte(name, '\\'), 0)] }

func baseOf(name string) string { return name[strings.LastIndexByte(name, '\\')+1:] }

// stem is a name without its ending, and the ending.
func stem(name string) (string, string) {
	i := strings.LastIndexByte(name, '.')
	if i <= strings.LastIndexByte(name, '\\') {
		return name, ""
	}
	return name[:i], name[i:]
}

// write puts a small file at a place, with the folders above it.
func (h *Host) write(name string, b []byte) error {
	path, err := h.volumePath(name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}

// read is a small file's content: 16 MiB at most.
func (h *Host) read(name string) ([]byte, error) {
	path, err := h.volumePath(name)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > 16<<20 {
		return nil, fmt.Errorf("%s has %d bytes: %w", name, info.Size(), fs.ErrInvalid)
	}
	return os.ReadFile(path)
}

// remove removes a file; none is no error.
func (h *Host) remove(name string) error {
	path, err := h.volumePath(name)
	if err == nil {
		err = os.Remove(path)
	}
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// exists says whether a file or folder is there.
func (h *Host) exists(name string) bool {
	path, err := h.volumePath(name)
	if err == nil {
		_, err = os.Lstat(path)
	}
	return err == nil
}
