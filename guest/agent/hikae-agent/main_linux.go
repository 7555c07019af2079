package main

import (
	"context"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/guest/agent"
	"github.com/hikae/hikae/guest/agent/apps"
	"github.com/hikae/hikae/guest/agent/files"
	"github.com/hikae/hikae/guest/agent/freeze"
	"github.com/hikae/hikae/guest/agent/script"
)

// systemCommands are those that only this system has.
var systemCommands = map[string]command{
	"sweep":    sweep,
	"watchdog": func(_ context.Context, args []string) error { return freeze.Watchdog(args, os.Stdin, os.Stdout) },
}

// parts are what a component on Linux can do. A runtime component has a folder, which a watchdog takes along.
// Where the folder's name has to stay, nobody but whoever takes the component away removes it.
func parts(p *agent.Place, stays bool) *agent.Options {
	leave := p
	if stays {
		leave = nil
	}
	servers := apps.New(nil)
	return &agent.Options{
		Admin:        mayFreeze(),
		Boot:         boot(),
		Freezer:      freeze.New(&freeze.Options{Leave: leave}),
		Applications: servers,
		Logs:         servers,
		Scripts:      script.New(nil),
		Indexer:      files.New(),
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
