package smbtest

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Config is the file that the server and Samba's programs read.
func (s *Samba) Config() string { return s.conf() }

// killHelpers ends Samba's servers of remote procedures, which leave the server's group: they are known by the configuration that
// they were started with, which nobody else has.
func killHelpers(conf string) {
	list, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range list {
		line, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(line, []byte("\x00--configfile="+conf+"\x00")) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
