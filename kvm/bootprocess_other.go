//go:build !linux

package kvm

import (
	"context"
	"errors"
	"fmt"
)

// bootProcess is a QEMU that ends with this process, which only Linux' kernel sees to.
type bootProcess struct{ ended chan struct{} }

func bootQEMU([]string, string) (*bootProcess, error) {
	return nil, fmt.Errorf("booting a point to be thrown away works on Linux: %w", errors.ErrUnsupported)
}

func (p *bootProcess) pid() int               { return 0 }
func (p *bootProcess) kill()                  {}
func allocated(string) int64                  { return 0 }
func endBooted(context.Context, string) error { return nil }
