//go:build !linux

package fsystest

import (
	"errors"
	"testing"
)

// Mounted is an image that the real driver has mounted; on Linux only.
type Mounted struct{ Dir string }

const notHere = "file systems are mounted on Linux only"

// Mount skips the test.
func Mount(t testing.TB, _, _ string, _ ...string) *Mounted {
	t.Helper()
	t.Skip(notHere)
	return nil
}

// TryMount skips the test.
func TryMount(t testing.TB, _, _ string, _ ...string) (*Mounted, error) {
	t.Helper()
	t.Skip(notHere)
	return nil, errors.ErrUnsupported
}

// Sync is never reached.
func (m *Mounted) Sync() error { return errors.ErrUnsupported }

// Freeze is never reached.
func (m *Mounted) Freeze() error { return errors.ErrUnsupported }

// Thaw is never reached.
func (m *Mounted) Thaw() error { return errors.ErrUnsupported }

// Unmount is never reached.
func (m *Mounted) Unmount() error { return errors.ErrUnsupported }

// Clone skips the test.
func Clone(t testing.TB, _, _ string) {
	t.Helper()
	t.Skip(notHere)
}

// Tool skips the test.
func Tool(t testing.TB, _ []int, name string, _ ...string) string {
	t.Helper()
	t.Skipf("%s is run on Linux only", name)
	return ""
}
