package files

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Bounds of /etc/fstab.
const (
	maxFstab = 1 << 20
	maxLines = 1000
)

// fstabLine is one line of /etc/fstab (fstab(5)).
type fstabLine struct{ device, dir, kind string }

// readFstab reads the table of a tree.
func readFstab(t *Tree) ([]fstabLine, error) {
	f, err := t.Open("etc/fstab")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, cmp.Or(err, fs.ErrInvalid)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFstab))
	if err != nil {
		return nil, err
	}
	return parseFstab(data), nil
}

func parseFstab(data []byte) (out []fstabLine) {
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, maxFstab)
	for lines.Scan() && len(out) < maxLines {
		fields := strings.Fields(lines.Text())
		if len(fields) < 3 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		out = append(out, fstabLine{device: unescape(strings.Trim(fields[0], `"`)), dir: unescape(fields[1]), kind: fields[2]})
	}
	return out
}

// unescape undoes the octal escapes that stand for blanks.
func unescape(s string) string {
	for _, pair := range [...][2]string{{`\040`, " "}, {`\011`, "\t"}, {`\012`, "\n"}, {`\134`, `\`}} {
		s = strings.ReplaceAll(s, pair[0], pair[1])
	}
	return s
}

// follow mounts what the table names, the shortest path first, so that what is mounted below finds its directory.
func (m *Machine) follow(table []fstabLine) {
	table = slices.DeleteFunc(table, func(l fstabLine) bool { return !strings.HasPrefix(l.dir, "/") || path.Clean(l.dir) == "/" })
	slices.SortStableFunc(table, func(a, b fstabLine) int { return cmp.Compare(len(path.Clean(a.dir)), len(path.Clean(b.dir))) })
	for _, l := range table {
		v := m.find(l.device)
		if v == nil || v.FS == nil || v.Mount != "" {
			continue
		}
		name := strings.TrimPrefix(path.Clean(l.dir), "/")
		at, err := m.root.walk("mount", name, true)
		if err != nil {
			m.Notes = append(m.Notes, fmt.Sprintf("%s is to be mounted on %s, which cannot be found: %v", v.Name, l.dir, err))
			continue
		}
		m.root.mount(at, v.FS)
		v.Mount = path.Clean(l.dir)
	}
}

// find is the volume that a device of the table means, where only one fits. Names that depend on the order in which
// a kernel finds its disks (/dev/sdb1) are taken only where there is one disk.
func (m *Machine) find(device string) *Volume {
	var found *Volume
	for i := range m.Volumes {
		v := &m.Volumes[i]
		if !v.means(device, m.disks() == 1) {
			continue
		}
		if found != nil {
			return nil
		}
		found = v
	}
	return found
}

func (m *Machine) disks() int {
	keys := map[string]bool{}
	for _, v := range m.Volumes {
		for _, p := range v.Places() {
			keys[p.Disk] = true
		}
	}
	return len(keys)
}

func (v *Volume) means(device string, oneDisk bool) bool {
	if tag, value, ok := strings.Cut(device, "="); ok {
		value = strings.Trim(value, `"`)
		switch tag {
		case "UUID":
			return strings.EqualFold(value, v.Info.UUID) && value != ""
		case "LABEL":
			return value == v.Info.Label && value != ""
		case "PARTLABEL":
			return value == v.Label && value != ""
		}
		return false
	}
	for prefix, tag := range map[string]string{"/dev/disk/by-uuid/": "UUID=", "/dev/disk/by-label/": "LABEL="} {
		if value, ok := strings.CutPrefix(device, prefix); ok {
			return v.means(tag+value, oneDisk)
		}
	}
	if group, lv, ok := strings.Cut(v.Name, "/"); ok {
		doubled := strings.NewReplacer("-", "--") // how the device mapper writes a dash within a name
		return device == "/dev/"+v.Name || device == "/dev/mapper/"+doubled.Replace(group)+"-"+doubled.Replace(lv)
	}
	_, number, ok := strings.Cut(v.Name, ":")
	n, err := strconv.Atoi(number)
	return ok && err == nil && oneDisk && partitionOf(device) == n
}

// partitionOf is the number in a name like /dev/sda2, /dev/vda2 or /dev/nvme0n1p2; 0: it is none.
func partitionOf(device string) int {
	name, ok := strings.CutPrefix(device, "/dev/")
	if !ok {
		return 0
	}
	base := strings.TrimRight(name, "0123456789")
	n, err := strconv.Atoi(name[len(base):])
	switch {
	case err != nil || n <= 0:
		return 0
	case strings.HasPrefix(base, "sd") || strings.HasPrefix(base, "vd") || strings.HasPrefix(base, "xvd") || strings.HasPrefix(base, "hd"):
		return n
	case strings.HasPrefix(base, "nvme") && strings.HasSuffix(base, "p"):
		return n
	}
	return 0
}
