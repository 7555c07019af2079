package exclude

import (
	"path"
	"slices"
	"strings"
)

// mount is a line of an /etc/fstab: what is mounted where.
type mount struct{ what, at string }

// maxMounts bounds how many lines are looked at.
const maxMounts = 1000

// parseTable reads an /etc/fstab: the swap files that it names, and what it mounts where.
func parseTable(text []byte) (swapFiles []string, mounts []mount) {
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 3 || strings.HasPrefix(f[0], "#") || len(swapFiles)+len(mounts) >= maxMounts {
			continue
		}
		what, at := unescape(f[0]), unescape(f[1])
		switch {
		case f[2] == "swap" && strings.HasPrefix(what, "/") && !strings.HasPrefix(what, "/dev/"):
			swapFiles = append(swapFiles, path.Clean(what))
		case strings.HasPrefix(at, "/"):
			mounts = append(mounts, mount{what, path.Clean(at)})
		}
	}
	return swapFiles, mounts
}

// unescape puts back the blanks that stand as octal numbers.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// is reports whether a mount's source is this volume.
func (m *mount) is(r *result) bool {
	key, value, ok := strings.Cut(strings.ReplaceAll(m.what, `"`, ""), "=")
	if !ok {
		return strings.TrimPrefix(m.what, "/dev/") == r.volume.Name || // vg/lv
			strings.TrimPrefix(m.what, "/dev/mapper/") == mapperName(r.volume.Name)
	}
	switch key {
	case "UUID":
		return r.info.UUID != "" && strings.EqualFold(value, r.info.UUID)
	case "LABEL":
		return value != "" && value == r.info.Label
	case "PARTLABEL":
		return value != "" && value == r.volume.Label
	}
	return false
}

// mapperName is a logical volume's name as the device mapper has it: the dashes in it are doubled.
func mapperName(name string) string {
	group, lv, ok := strings.Cut(name, "/")
	if !ok {
		return ""
	}
	return strings.ReplaceAll(group, "-", "--") + "-" + strings.ReplaceAll(lv, "-", "--")
}

// elsewhere are the volumes that hold a swap file which the fstab of another volume names, with those files added.
func (a *analysis) elsewhere() (again []*result) {
	if !a.opts.Swap {
		return nil
	}
	for _, root := range a.results {
		for _, file := range root.swapNamed {
			best := mount{}
			for _, m := range root.mounts {
				if m.at != "/" && len(m.at) > len(best.at) && strings.HasPrefix(file, m.at+"/") {
					best = m
				}
			}
			if best.at == "" {
				continue
			}
			for _, r := range a.results {
				if r != root && best.is(r) && r.whole == "" {
					r.extra = append(r.extra, strings.TrimPrefix(file, best.at))
					if !slices.Contains(again, r) {
						again = append(again, r)
					}
				}
			}
		}
	}
	return again
}
