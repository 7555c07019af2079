//go:build !linux

package kvm

func processStart(int) string { return "" }
