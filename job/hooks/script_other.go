//go:build !unix

package hooks

import "os/exec"

// together is for systems with process groups. Elsewhere the program alone is ended.
func together(*exec.Cmd) {}
