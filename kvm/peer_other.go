//go:build !linux

package kvm

func commandLine(int, bool) []byte { return nil }
