// Command hikae backs up virtual machines' disks into a repository, and brings them back.
//
// It is an example of how the library is used, and good enough to run a shop on: each command is a thin layer over
// the packages job and repo. What scripts may count on (flags, exit statuses, JSON fields) is written down in the
// help texts, and tests hold it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
)

func main() { os.Exit(start()) }

// start runs the command line of this process and returns its exit status.
func start() int {
	keepSmall()
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	defer onInterrupt(cancel)()
	t := &tool{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, env: os.Getenv}
	return int(t.run(ctx, os.Args[1:]))
}

var errInterrupted = errors.New("interrupted")

// onInterrupt lets the first Ctrl-C end the command in good order, and the second one at once.
func onInterrupt(cancel context.CancelCauseFunc) (stop func()) {
	signals := make(chan os.Signal, 2)
	done := make(chan struct{})
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case <-signals:
			cancel(errInterrupted)
			fmt.Fprintln(os.Stderr, "stopping; once more to stop at once")
		case <-done:
			return
		}
		select {
		case <-signals:
			os.Exit(int(outcome.Interrupted))
		case <-done:
		}
	}()
	return func() { signal.Stop(signals); close(done) }
}

// keepSmall lets the heap grow by a quarter before it is collected. Most of it is a few large buffers that
// live as long as the command, and what is collected costs next to nothing.
func keepSmall() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(25)
	}
}
