//go:build linux

package kvmtest

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Boot says that the fixture works at all, so that a failure elsewhere is not searched for here.
func TestBoot(t *testing.T) {
	f, err := Build(t.Context())
	var missing *UnavailableError
	if errors.As(err, &missing) {
		t.Skip(err)
	}
	require.NoError(t, err)
	dir := t.TempDir()
	disk := filepath.Join(dir, "a.raw")
	require.NoError(t, MakeExt4(t.Context(), disk, 64<<20))
	begun := time.Now()
	g, err := f.Start(t.Context(), dir, []GuestDisk{{Path: disk, Format: "raw", ID: "vd0"}})
	require.NoError(t, err)
	t.Logf("ready after %v", time.Since(begun))
	defer g.Kill()
	require.Contains(t, g.Console(), "FX-READY")
	require.NotContains(t, g.Console(), "FX mount", g.Console())
	require.NotContains(t, g.Console(), "FX module", g.Console())
	require.NotContains(t, g.Console(), "FX start", g.Console())
}
