package remote

import (
	"bufio"
	"io"
	"os"
	"runtime"
	"strings"
)

// ThisSystem is what this machine is, as far as it can be found out.
func ThisSystem() *System { return &System{OS: runtime.GOOS, Version: release("/etc/os-release")} }

// release is the version that a distribution gives itself.
func release(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, 64<<10))
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), "VERSION_ID="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return ""
}
