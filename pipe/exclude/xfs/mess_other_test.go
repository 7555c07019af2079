//go:build !linux

package xfs_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func scratch(t testing.TB) string { return filepath.Join(t.TempDir(), "xfs.img") }

func mess(string, uint64, int) ([]*os.File, error) { return nil, nil }

func share(string, string) error { return errors.ErrUnsupported }

func grow(string, uint64) error { return errors.ErrUnsupported }

func setAttribute(string, string, []byte) error { return errors.ErrUnsupported }

func fileNumber(os.FileInfo) uint64 { return 0 }
