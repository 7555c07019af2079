//go:build !windows && !linux

package service

import "testing"

func mountSmall(t *testing.T, _ string) { t.Skip("small file systems are mounted on Linux only") }
