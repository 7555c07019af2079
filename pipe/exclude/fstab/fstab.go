// Package fstab reads a guest's /etc/fstab (fstab(5)): what its system mounts where, and where it swaps. The text comes
// from a guest and may hold anything.
package fstab

import (
	"strconv"
	"strings"
)

// maxLines bounds how many lines are kept.
const maxLines = 1000

// MaxBytes bounds how much of the file is of interest.
const MaxBytes = 1 << 20

// Line is one line of the table, its escapes undone.
type Line struct {
	What string // a device, a file, or UUID=, LABEL=, PARTLABEL= and what they name
	At   string // the mount point; "none" for swap
	Kind string // "ext4", "swap"
}

// Parse reads the table. Lines that are not understood are left out, and so is what follows the thousandth.
func Parse(text []byte) (out []Line) {
	for line := range strings.Lines(string(text[:min(len(text), MaxBytes)])) {
		f := strings.Fields(line)
		if len(f) < 3 || strings.HasPrefix(f[0], "#") {
			continue
		}
		if len(out) == maxLines {
			break
		}
		out = append(out, Line{escapes.Replace(strings.ReplaceAll(f[0], `"`, "")), escapes.Replace(f[1]), f[2]})
	}
	return out
}

// escapes are the octal numbers that stand for blanks.
var escapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// Names are those that a table may call a volume by.
type Names struct {
	Volume    string // "vg0/root" of a logical volume
	UUID      string // of its file system
	Label     string // of its file system
	PartLabel string // of its partition
	// Partition is its number, where the machine has one disk only: a name that depends on the order in which a kernel
	// finds its disks (/dev/sdb1) says nothing otherwise. Zero: not known.
	Partition int
}

// Means reports whether the line's device is that volume.
func (l Line) Means(n Names) bool {
	for prefix, tag := range map[string]string{"/dev/disk/by-uuid/": "UUID", "/dev/disk/by-label/": "LABEL", "/dev/disk/by-partlabel/": "PARTLABEL"} {
		if value, ok := strings.CutPrefix(l.What, prefix); ok {
			return n.tagged(tag, value)
		}
	}
	if tag, value, ok := strings.Cut(l.What, "="); ok {
		return n.tagged(tag, value)
	}
	if group, lv, ok := strings.Cut(n.Volume, "/"); ok {
		return l.What == "/dev/"+n.Volume || l.What == "/dev/mapper/"+mapped(group)+"-"+mapped(lv)
	}
	return n.Partition > 0 && partitionOf(l.What) == n.Partition
}

func (n Names) tagged(tag, value string) bool {
	switch tag {
	case "UUID":
		return n.UUID != "" && strings.EqualFold(value, n.UUID)
	case "LABEL":
		return n.Label != "" && value == n.Label
	case "PARTLABEL":
		return n.PartLabel != "" && value == n.PartLabel
	}
	return false
}

// mapped is how the device mapper writes a part of a logical volume's name.
func mapped(name string) string { return strings.ReplaceAll(name, "-", "--") }

// partitionOf is the number in a name like /dev/sda2, /dev/vda2 or /dev/nvme0n1p2; 0: it is none.
func partitionOf(device string) int {
	name, ok := strings.CutPrefix(device, "/dev/")
	if !ok {
		return 0
	}
	base := strings.TrimRight(name, "0123456789")
	n, err := strconv.Atoi(name[len(base):])
	if err != nil || n <= 0 {
		return 0
	}
	for _, prefix := range [...]string{"sd", "vd", "xvd", "hd"} {
		if strings.HasPrefix(base, prefix) {
			return n
		}
	}
	if strings.HasPrefix(base, "nvme") && strings.HasSuffix(base, "p") {
		return n
	}
	return 0
}
