package hyperv

import "strings"

// store names where a disk's file lies, alike for all VMs that share the place: a cluster's shared volume, a share, or a host's own drive.
// Empty where it is not known.
func (d *Disk) store(host HostInfo) string {
	const shared = `:\clusterstorage\`
	path := strings.ToLower(strings.ReplaceAll(d.Path, "/", `\`))
	switch {
	case d.Physical || len(path) < 3:
		return ""
	case strings.HasPrefix(path, `\\`):
		if parts := strings.SplitN(path[2:], `\`, 3); len(parts) == 3 {
			return `\\` + parts[0] + `\` + parts[1]
		}
	case strings.HasPrefix(path[1:], shared):
		if volume, _, ok := strings.Cut(path[1+len(shared):], `\`); ok {
			return volume
		}
	case path[1:3] == `:\`:
		return strings.ToUpper(path[:2]) + " of " + host.Name
	}
	return ""
}
