package main

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/vmware"
)

// What a sweep leaves on purpose is no failure: a VM that runs from a point, a restore in place that can be repeated.
func TestLeftStanding(t *testing.T) {
	stands, err := leftStanding(nil)
	require.NoError(t, err)
	require.Equal(t, []string{}, stands)
	started := &vmware.StartedError{VM: "vm-7", Name: "web1", Datastore: "hikae-x", State: "poweredOn"}
	half := &vmware.IncompleteError{VM: "vm-8", Mark: "m"}
	lost := errors.New("the server went away")
	stands, err = leftStanding(errors.Join(fmt.Errorf("effect 1: %w", started), fmt.Errorf("effect 2: %w", half), errElsewhere, lost))
	require.Len(t, stands, 2)
	require.Contains(t, stands[0], "web1")
	require.Contains(t, stands[0], "Serve its folder again")
	require.Contains(t, stands[1], "restore a point in place again")
	require.EqualError(t, err, lost.Error())
	stands, err = leftStanding(&vmware.StartedError{Name: "web1", Err: lost})
	require.Empty(t, stands)
	require.ErrorIs(t, err, lost, "that it could not be looked at is a failure")
}
