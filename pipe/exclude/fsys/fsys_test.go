package fsys_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// What a reader says of a damaged volume names the structure and, where it has one, its place.
func TestCorruptErrorNamesThePlace(t *testing.T) {
	err := fmt.Errorf("open: %w", &fsys.CorruptError{What: "inode 12", Off: 4096, Why: "its checksum is wrong"})
	require.EqualError(t, err, "open: inode 12 at byte 4096: its checksum is wrong")
	var damage *fsys.CorruptError
	require.True(t, errors.As(err, &damage))
	require.Equal(t, int64(4096), damage.Off)
	require.EqualError(t, &fsys.CorruptError{What: "log", Off: -1, Why: "it ends early"}, "log: it ends early")
}

func TestRangeEnd(t *testing.T) {
	require.Equal(t, int64(12), fsys.Range{Off: 4, Len: 8}.End())
}
