//go:build !linux && !windows

package files

import (
	"errors"
	"fmt"
)

func background() {}

func (s *session) volumes() ([]volume, error) {
	return nil, fmt.Errorf("list volumes: %w on this system", errors.ErrUnsupported)
}

func (s *session) walk(volume) error { return errors.ErrUnsupported }
