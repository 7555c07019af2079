package main

import (
	"context"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/guest/agent"
	"github.com/hikae/hikae/guest/agent/apps"
	"github.com/hikae/hikae/guest/agent/freeze"
	"github.com/hikae/hikae/guest/agent/script"
)

// systemCommands are those that only this system has.
var systemCommands = map[string]command{
	"sweep":    sweep,
	"watchdog": func(_ context.Context, args []string) error { return freeze.Watchdog(args, os.Stdin, os.Stdout) },
}

// parts are what a component on Linux can do. A runtime component has a folder, which a watchdog takes along.
func parts(p *agent.Place) *agent.Options {
	servers := apps.New(nil)
	return &agent.Options{
		Admin:        mayFreeze(),
		Boot:         boot(),
		Freezer:      freeze.New(&freeze.Options{Leave: p}),
		Applications: servers,
		Logs:         servers,
		Scripts:      script.New(nil),
	}
}

// mayFreeze asks the kernel whether this process has CAP_SYS_ADMIN.
func mayFreeze() bool {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return os.Geteuid() == 0
	}
	return data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

func boot() string {
	text, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text))
}
