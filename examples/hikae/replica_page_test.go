package main

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What docs/replication.md tells people to type is what the program takes, and no command of it is left untold.
func TestReplicationPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/replication.md")
	require.NoError(t, err)
	list := commandsIn(strings.ReplaceAll(string(page), "\\\n", " "))
	require.Greater(t, len(list), 5)
	for _, args := range list {
		tl, _ := newMachine(t).tool()
		cmd, rest, err := tl.root().Find(args)
		require.NoError(t, err, args)
		require.NoError(t, cmd.ParseFlags(rest), args)
		require.NotNil(t, cmd.RunE, args)
		require.NoError(t, cmd.ValidateArgs(cmd.Flags().Args()), args)
	}
	tl, _ := newMachine(t).tool()
	replica, _, err := tl.root().Find([]string{"replica"})
	require.NoError(t, err)
	for _, cmd := range replica.Commands() {
		require.NotEmpty(t, cmd.Short)
		require.NotEmpty(t, cmd.Example, cmd.Name())
	}
}
