// Command hikae-agent is the component that Hikae brings into a guest: it freezes and thaws right around a snapshot, asks
// applications to be consistent, and takes itself away. Nobody needs to start it by hand.
//
//	hikae-agent serve   --dir DIR                          frames on stdin and stdout, until they end
//	hikae-agent daemon  --dir DIR                          goes into the background; says "ready" on stdout
//	hikae-agent relay   --dir DIR --call N …               brings bytes of one call to the daemon, and bytes back
//	hikae-agent sweep   --dir DIR                          removes what a component that died has left
//	hikae-agent version
//
// DIR is the component's private folder, called hikae-…; it goes when the component ends. There are no secrets on a command
// line or in the environment, and none are needed: whoever could start the component has proven who they are.
//
// Exit status: 0 done, 1 failed with the reason on stderr, 2 usage, 3 there is no daemon.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/hikae/hikae/guest/agent"
)

// version is set when a release is built.
var version = "0.0.0-dev"

// command is one word of the command line, with what follows it.
type command func(ctx context.Context, args []string) error

// commands are those of every system; systemCommands has a system's own.
var commands = map[string]command{
	"serve":   serve,
	"daemon":  daemon,
	"stay":    stay,
	"relay":   relay,
	"version": func(context.Context, []string) error { fmt.Println(product()); return nil },
}

func product() string { return "hikae-agent " + version }

// Exit statuses that are not 0 or 1.
const (
	exitUsage    = 2
	exitNoDaemon = 3
)

// errUsage says that the command line is wrong.
var errUsage = errors.New("usage: hikae-agent serve|daemon|relay|sweep|version --dir DIR")

func main() {
	// SIGHUP comes when a terminal or a session goes; the end of the input says so too, and is not lost.
	// SIGPIPE comes when the client is gone while it is answered: what is frozen has to be thawed all the same.
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	err := errUsage
	if len(args) > 0 {
		do := commands[args[0]]
		if do == nil {
			do = systemCommands[args[0]]
		}
		if do != nil {
			err = do(ctx, args[1:])
		}
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage), errors.Is(err, flag.ErrHelp):
		fmt.Fprintln(os.Stderr, err)
		return exitUsage
	case errors.Is(err, agent.ErrNoDaemon):
		fmt.Fprintln(os.Stderr, "hikae-agent:", err)
		return exitNoDaemon
	}
	fmt.Fprintln(os.Stderr, "hikae-agent:", err)
	return 1
}

// flags parses what follows a command; nothing may be left over.
func flags(args []string, define func(*flag.FlagSet)) error {
	set := flag.NewFlagSet("hikae-agent", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	define(set)
	if err := set.Parse(args); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if set.NArg() > 0 {
		return errUsage
	}
	return nil
}
