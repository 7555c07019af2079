package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var codeBlock = regexp.MustCompile("(?ms)^```\\w*\n(.*?)^```")

// commandsIn are the command lines in a page's blocks of code.
func commandsIn(page string) (list [][]string) {
	for _, block := range codeBlock.FindAllStringSubmatch(page, -1) {
		for line := range strings.Lines(block[1]) {
			if fields := strings.Fields(strings.ReplaceAll(line, "'", "")); len(fields) > 1 && fields[0] == "hikae" {
				list = append(list, fields[1:])
			}
		}
	}
	return list
}

// What docs/guest.md tells people to type is what the program takes: commands, flags, and how many arguments. That each
// does what the page says is for the tests of the commands.
func TestGuestPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/guest.md")
	require.NoError(t, err)
	list := commandsIn(string(page))
	require.Greater(t, len(list), 15)
	used := map[string]bool{}
	for _, args := range list {
		tl, _ := newMachine(t).tool()
		cmd, rest, err := tl.root().Find(args)
		require.NoError(t, err, args)
		require.NoError(t, cmd.ParseFlags(rest), args)
		require.NotNil(t, cmd.RunE, args)
		require.NoError(t, cmd.ValidateArgs(cmd.Flags().Args()), args)
		require.NoError(t, cmd.ValidateRequiredFlags(), args)
		require.NoError(t, cmd.ValidateFlagGroups(), args)
		used[cmd.CommandPath()] = true
	}
	for _, name := range []string{"guest probe", "guest deploy", "guest freeze-test", "guest remove", "guest install", "guest uninstall",
		"guest list", "guest logs ship", "guest logs list", "guest logs restore", "proxy serve", "proxy token", "proxy choose", "backup"} {
		require.True(t, used["hikae "+name], "docs/guest.md shows hikae %s nowhere", name)
	}
}
