//go:build !linux

package kvm

import "os/exec"

// startBound starts a program. ended gets what waiting for it gave.
func startBound(cmd *exec.Cmd, ended chan<- error) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { ended <- cmd.Wait() }()
	return nil
}

func processFolder(int, bool) string { return "" }
