package service

import (
	"os"
	"testing"

	"golang.org/x/sys/windows"
)

func dieNow() {
	p, _ := os.FindProcess(os.Getpid())
	p.Kill()
}

func killed(err error) bool { return err != nil }

const errFull = windows.ERROR_DISK_FULL

func smallDisk(t *testing.T, _ string) { t.Skip("small file systems are mounted on Linux only") }
