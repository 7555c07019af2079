package hikae

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"
)

// The words stand in points and in JSON: they never change.
func TestConsistencyWords(t *testing.T) {
	for c, word := range map[Consistency]string{
		Unknown: "unknown", Crash: "crash", Filesystem: "filesystem", Application: "application", Offline: "offline", -1: "unknown", 99: "unknown",
	} {
		require.Equal(t, word, c.String())
	}
	require.Less(t, Unknown, Crash)
	require.Less(t, Crash, Filesystem)
	require.Less(t, Filesystem, Application)
	require.Less(t, Application, Offline)
}

func TestErrorsSayWhat(t *testing.T) {
	err := error(&QuiesceError{Stage: "freeze", Err: fs.ErrPermission})
	require.ErrorIs(t, err, fs.ErrPermission)
	require.EqualError(t, err, "quiesce: freeze: permission denied")
	var busy *BusyError
	require.True(t, errors.As(error(&BusyError{What: "web1", Owner: "session 42"}), &busy))
	require.EqualError(t, busy, "web1 is in use by session 42")
}
