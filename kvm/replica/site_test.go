package replica

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
)

func newSite(t testing.TB) *Site {
	t.Helper()
	s, err := Open(t.TempDir(), &Options{Warn: func(text string) { t.Error(text) }})
	require.NoError(t, err)
	return s
}

func TestBackend(t *testing.T) {
	pipetest.TestBackend(t, func(t testing.TB) pipe.Backend { return newSite(t) })
}
