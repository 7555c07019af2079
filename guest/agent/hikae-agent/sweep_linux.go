package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/guest/agent"
)

// sweepTerm is how long a component has to thaw and to take itself away before it is killed; sweepKill how long its watchdog
// then has to thaw, which is killed by nobody: the guest would stay frozen.
const (
	sweepTerm = 10 * time.Second
	sweepKill = 75 * time.Second
)

// sweep ends the components that were started from a folder, and removes it. That there is none is no error. It is run from
// another folder, or over a channel that brought it anew.
func sweep(ctx context.Context, args []string) error {
	var dir string
	if err := flags(args, func(s *flag.FlagSet) { s.StringVar(&dir, "dir", "", "") }); err != nil {
		return err
	}
	p, err := agent.OpenPlace(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, sweepTerm)
	defer cancel()
	if !endAll(ctx, p.Dir(), unix.SIGTERM) {
		last, cancel := context.WithTimeout(context.Background(), sweepKill)
		defer cancel()
		if !endAll(last, p.Dir(), unix.SIGKILL) {
			return fmt.Errorf("processes of %s do not end", p.Dir())
		}
	}
	return p.Remove()
}

// isWatchdog reports whether a process is a component's watchdog: that is the first word behind its name.
func isWatchdog(id int) bool {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", id))
	words := bytes.Split(line, []byte{0})
	return len(words) > 1 && string(words[1]) == "watchdog"
}

// endAll signals all that run from a folder, but for watchdogs, until there are none.
func endAll(ctx context.Context, dir string, sign unix.Signal) bool {
	for {
		ids := runFrom(dir)
		if len(ids) == 0 {
			return true
		}
		for _, id := range ids {
			if !isWatchdog(id) {
				unix.Kill(id, sign)
			}
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// runFrom are the processes whose program lies, or lay, in a folder; not we.
func runFrom(dir string) (ids []int) {
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		exe, err := os.Readlink(link)
		id, _ := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if err == nil && id != os.Getpid() && filepath.Dir(strings.TrimSuffix(exe, " (deleted)")) == dir {
			ids = append(ids, id)
		}
	}
	return ids
}
