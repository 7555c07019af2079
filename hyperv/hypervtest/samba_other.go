//go:build !linux

package hypervtest

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/hikae/hikae/guest/smbchannel/scm/scmtest"
)

// smbService is there on Linux alone.
type smbService struct{}

// StartSMB needs Linux.
func (h *Host) StartSMB(context.Context, *SMBOptions) error {
	return fmt.Errorf("no Samba on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// Machine needs Linux.
func (h *Host) Machine() *scmtest.Machine { return nil }

// KillSMB needs Linux.
func (h *Host) KillSMB() {}

func (s *smbService) addr() string                              { return "" }
func (s *smbService) services() []string                        { return nil }
func (s *smbService) left() []string                            { return nil }
func (s *smbService) close()                                    {}
func (s *smbService) open(context.Context) ([]string, error)    { return nil, nil }
func (s *smbService) openNow(context.Context) ([]string, error) { return nil, nil }
