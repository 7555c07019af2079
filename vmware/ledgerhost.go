package vmware

import (
	"fmt"
	"strconv"
	"strings"
)

// release is which ESXi a host runs.
type release struct {
	major, minor int
	rest         string // of the version: "3"
	build        int
}

// parseRelease takes "8.0.3-24022510".
func parseRelease(text string) (r release, err error) {
	version, build, ok := strings.Cut(text, "-")
	parts := strings.SplitN(version, ".", 3)
	if !ok || len(parts) < 2 || len(text) > 64 {
		return r, fmt.Errorf("release %.64q is not VERSION-BUILD", text)
	}
	for i, to := range []*int{&r.major, &r.minor} {
		if *to, err = strconv.Atoi(parts[i]); err != nil || *to < 0 {
			return r, fmt.Errorf("release %q is not VERSION-BUILD", text)
		}
	}
	if r.build, err = strconv.Atoi(build); err != nil || r.build <= 0 {
		return r, fmt.Errorf("release %q has no build number", text)
	}
	if len(parts) == 3 {
		r.rest = parts[2]
	}
	if r.String() != text {
		return r, fmt.Errorf("release %q is not VERSION-BUILD", text)
	}
	return r, nil
}

func (r release) String() string {
	version := fmt.Sprintf("%d.%d", r.major, r.minor)
	if r.rest != "" {
		version += "." + r.rest
	}
	return version + "-" + strconv.Itoa(r.build)
}

// badTracking are releases whose tracking has lost changes without a word. The build numbers are those that VMware gave
// with the patches; no such host was met by this package.
var badTracking = []struct {
	kb    string
	what  string
	hosts func(release) bool
	when  func(past, now moment) bool
}{
	{
		kb: "2090639", what: "before ESXi 6.0 the changes of a disk that was extended past 128 GiB are told wrong, and nobody knows whether this one was",
		hosts: func(r release) bool { return r.major < 6 },
		when:  func(past, now moment) bool { return max(past.size, now.size) > 128<<30 },
	},
	{
		kb: "2136854", what: "ESXi 6.0 before patch ESXi600-201511001 loses changes when snapshots are consolidated",
		hosts: func(r release) bool { return r.major == 6 && r.minor == 0 && r.build < 3247720 },
		when:  func(past, now moment) bool { return true },
	},
	{
		kb: "95965", what: "ESXi 8.0 Update 2 before Update 2b loses changes of a disk that was extended while it ran",
		hosts: func(r release) bool { return r.major == 8 && r.minor == 0 && r.build >= 22380479 && r.build < 23305546 },
		when:  func(past, now moment) bool { return past.first != now.size || past.size != now.size },
	},
}

// knownBad says why what was tracked between two moments is not believed for the releases that tracked it; empty where
// nothing is known against them.
func knownBad(past, now moment) string {
	for _, b := range badTracking {
		if (b.hosts(past.host) || b.hosts(now.host)) && b.when(past, now) {
			return fmt.Sprintf("%s (VMware KB %s); the host runs %v", b.what, b.kb, now.host)
		}
	}
	return ""
}
