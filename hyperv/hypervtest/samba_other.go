//go:build !linux

package hypervtest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

// smbService is there on Linux alone.
type smbService struct{}

// StartSMB needs Linux.
func (h *Host) StartSMB(context.Context, *SMBOptions) error {
	return fmt.Errorf("no Samba on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func (s *smbService) addr() string                           { return "" }
func (s *smbService) services() []string                     { return nil }
func (s *smbService) left() []string                         { return nil }
func (s *smbService) close()                                 {}
func (s *smbService) open(context.Context) ([]string, error) { return nil, nil }
