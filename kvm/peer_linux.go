package kvm

import (
	"fmt"
	"io"
	"os"

	"github.com/hikae/hikae/kvm/qmp"
)

// commandLine is what the process at the other end of a monitor was started with, where it can be read.
func commandLine(mon *qmp.Conn) []byte {
	pid, ok := mon.PeerPID()
	if !ok {
		return nil
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil
	}
	defer f.Close()
	line, err := io.ReadAll(io.LimitReader(f, maxCommandLine+1))
	if err != nil {
		return nil
	}
	return line
}
