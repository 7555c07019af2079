//go:build linux

package main

import (
	"os/user"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestIDs(t *testing.T) {
	me, err := user.Current()
	require.NoError(t, err)
	for _, name := range []string{me.Username, me.Uid} {
		uid, gid, err := ids(name)
		require.NoError(t, err)
		require.Equal(t, me.Uid+":"+me.Gid, strconv.Itoa(uid)+":"+strconv.Itoa(gid))
	}
	_, _, err = ids("nobody-has-this-name")
	require.Error(t, err)
}
