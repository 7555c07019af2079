//go:build !windows

package winsvc

func emulated() bool { return false }
