//go:build !windows

package vss

func open() (requester, error) { return nil, ErrNotWindows }
