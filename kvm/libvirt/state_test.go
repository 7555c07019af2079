package libvirt

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The reasons of a domain that is off are numbers of libvirt's: one less would take a machine that crashed for one that
// moved, and one that runs on another host for one that is off, and its disks for ones to write over.
func TestReasonsOfOff(t *testing.T) {
	require.Equal(t, 4, OffMigrated)
	require.Equal(t, 5, OffSaved)
}
