//go:build !linux

package kvm

import "github.com/hikae/hikae/kvm/qmp"

func commandLine(*qmp.Conn) []byte { return nil }
