package exclude

import (
	"path"
	"slices"
	"strings"

	"github.com/hikae/hikae/pipe/exclude/fstab"
)

// tableOf sorts an /etc/fstab: the swap files that it names, and what it mounts where.
func tableOf(text []byte) (swapFiles []string, mounts []fstab.Line) {
	for _, l := range fstab.Parse(text) {
		switch {
		case l.Kind == "swap" && strings.HasPrefix(l.What, "/") && !strings.HasPrefix(l.What, "/dev/"):
			swapFiles = append(swapFiles, path.Clean(l.What))
		case strings.HasPrefix(l.At, "/"):
			l.At = path.Clean(l.At)
			mounts = append(mounts, l)
		}
	}
	return swapFiles, mounts
}

// inTable are those names that a table may call the volume by.
func (r *result) inTable() fstab.Names {
	return fstab.Names{Volume: r.volume.Name, UUID: r.info.UUID, Label: r.info.Label, PartLabel: r.volume.Label}
}

// elsewhere are the volumes that hold a swap file which the fstab of another volume names, with those files added.
func (a *analysis) elsewhere() (again []*result) {
	if !a.opts.Swap {
		return nil
	}
	for _, root := range a.results {
		for _, file := range root.swapNamed {
			best := fstab.Line{}
			for _, m := range root.mounts {
				if m.At != "/" && len(m.At) > len(best.At) && strings.HasPrefix(file, m.At+"/") {
					best = m
				}
			}
			if best.At == "" {
				continue
			}
			for _, r := range a.results {
				if r != root && best.Means(r.inTable()) && r.whole == "" {
					r.extra = append(r.extra, strings.TrimPrefix(file, best.At))
					if !slices.Contains(again, r) {
						again = append(again, r)
					}
				}
			}
		}
	}
	return again
}
