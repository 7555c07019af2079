package kvm

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/qcow2"
)

// What a QEMU that was killed long ago left in use says nothing about the time since the last backup.
func TestBrokenOff(t *testing.T) {
	stale, base, dead := qcow2.Bitmap{Name: "old", InUse: true}, qcow2.Bitmap{Name: "base"}, qcow2.Bitmap{Name: "base", InUse: true}
	require.False(t, brokenOff([]qcow2.Bitmap{stale, base}, "base"))
	require.True(t, brokenOff([]qcow2.Bitmap{stale, dead}, "base"))
	require.True(t, brokenOff([]qcow2.Bitmap{stale}, "base"), "the base is gone: what is left is asked")
	require.True(t, brokenOff([]qcow2.Bitmap{stale}, ""))
	require.False(t, brokenOff(nil, "base"))
}
