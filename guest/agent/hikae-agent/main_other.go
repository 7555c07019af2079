//go:build !linux && !windows

package main

import (
	"os"

	"github.com/hikae/hikae/guest/agent"
)

// parts: on this system a component says who it is, and no more.
func parts(*agent.Place, bool) *agent.Options { return &agent.Options{Admin: os.Geteuid() == 0} }

// systemCommands are those that only this system has.
var systemCommands map[string]command
