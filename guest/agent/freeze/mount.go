package freeze

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
)

// Bounds of the kernel's table of mounts.
const (
	maxMountLine = 64 << 10 // bytes
	maxMountRows = 1 << 16
)

// Device is a block device's number, or the one that the kernel made up for a file system.
type Device struct{ Major, Minor uint32 }

func (d Device) String() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

// Mount is a row of /proc/self/mountinfo.
type Mount struct {
	ID       int
	Device   Device
	Root     string // what of the file system is mounted here
	Point    string
	Type     string
	Source   string
	ReadOnly bool // the file system is, not only this mount
}

// Mounts reads a table of mounts.
func Mounts(r io.Reader) ([]Mount, error) {
	var out []Mount
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4<<10), maxMountLine)
	for lines.Scan() {
		if len(out) == maxMountRows {
			return nil, fmt.Errorf("mountinfo: more than %d mounts", maxMountRows)
		}
		m, err := parseMount(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("mountinfo: row %d: %w", len(out)+1, err)
		}
		out = append(out, m)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("mountinfo: %w", err)
	}
	return out, nil
}

var errRow = errors.New("not a row of mountinfo")

// parseMount reads "36 35 98:0 /root /point rw,noatime shared:1 - ext4 /dev/sda1 rw".
func parseMount(line string) (m Mount, err error) {
	before, after, ok := strings.Cut(line, " - ")
	head, tail := strings.Split(before, " "), strings.Split(after, " ")
	if !ok || len(head) < 6 || len(tail) < 3 {
		return m, errRow
	}
	if m.ID, err = strconv.Atoi(head[0]); err != nil {
		return m, errRow
	}
	if m.Device, err = parseDevice(head[2]); err != nil {
		return m, err
	}
	m.Root, m.Point = unescape(head[3]), path.Clean(unescape(head[4]))
	if !path.IsAbs(m.Point) {
		return m, errRow
	}
	m.Type, m.Source = unescape(tail[0]), unescape(tail[1])
	for _, option := range strings.Split(tail[2], ",") {
		m.ReadOnly = m.ReadOnly || option == "ro"
	}
	return m, nil
}

// parseDevice reads "98:0".
func parseDevice(s string) (Device, error) {
	major, minor, _ := strings.Cut(s, ":")
	a, err := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	if err != nil || err2 != nil {
		return Device{}, errRow
	}
	return Device{uint32(a), uint32(b)}, nil
}

// unescape undoes what the kernel does to spaces, tabs, newlines and backslashes: \040.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
