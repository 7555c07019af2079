package hyperv

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
)

// What was brought to a host is taken away by those who bring it; where nobody was given, that is said and the effect stays.
func TestUndoHelper(t *testing.T) {
	e := hikae.Effect{ID: "7", Kind: kindHelper, Facts: map[string]string{"host": "HV1"}}
	p := &Provider{}
	err := undoHelper(t.Context(), p, e)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorContains(t, err, "HV1")
	var undone []string
	p.opts.UndoRequester = func(_ context.Context, e hikae.Effect) error { undone = append(undone, e.ID); return nil }
	require.NoError(t, undoHelper(t.Context(), p, e))
	require.Equal(t, []string{"7"}, undone)
}
