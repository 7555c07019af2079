//go:build !linux && !windows

package remote

import "runtime"

// ThisSystem is what this machine is, as far as it can be found out.
func ThisSystem() *System { return &System{OS: runtime.GOOS} }
