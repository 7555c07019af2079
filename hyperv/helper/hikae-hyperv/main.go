// Command hikae-hyperv is the program that Hikae brings to a Hyper-V host for the time of a backup: it asks the host's Volume Shadow
// Copy Service for VMs, and hands out what is in the shadow copies. Nobody needs to start it by hand.
//
//	hikae-hyperv pipe --name NAME --dir DIR [--service]   one session on a named pipe; --service: started as a service of
//	                                                      that name, and reached from other machines
//	hikae-hyperv version
//
// DIR is the private folder that the program lies in, called hikae-…; what is in it goes when the session ends, and the service with
// it. There are no secrets on a command line, and none are needed: only an administrator of the host can open the pipe.
//
// It is not yet verified on Windows: it was run under wine only.
//
// Exit status: 0 done, 1 failed with the reason on stderr, 2 usage.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

// version is set when a release is built.
var version = "0.0.0-dev"

func product() string { return "hikae-hyperv " + version }

var errUsage = errors.New("usage: hikae-hyperv pipe --name NAME --dir DIR [--service] | version")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	err := do(ctx, args)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	fmt.Fprintln(os.Stderr, "hikae-hyperv:", err)
	return 1
}

func do(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	switch args[0] {
	case "version":
		fmt.Println(product())
		return nil
	case "pipe":
		p, err := parsePipe(args[1:])
		if err != nil {
			return err
		}
		return p.serve(ctx)
	}
	return errUsage
}

// piped is what the pipe command is told.
type piped struct {
	name, dir string
	service   bool
}

var nameRule = regexp.MustCompile(`^hikae-[a-z0-9]{16,40}$`)

func parsePipe(args []string) (*piped, error) {
	p := &piped{}
	set := flag.NewFlagSet("hikae-hyperv", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.StringVar(&p.name, "name", "", "")
	set.StringVar(&p.dir, "dir", "", "")
	set.BoolVar(&p.service, "service", false, "")
	if err := set.Parse(args); err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	if set.NArg() > 0 {
		return nil, errUsage
	}
	// What is in the folder is taken away: it has to be ours by its name.
	folder := p.dir[strings.LastIndexAny(p.dir, `\/`)+1:]
	if !nameRule.MatchString(p.name) || !nameRule.MatchString(folder) || !filepath.IsAbs(p.dir) {
		return nil, fmt.Errorf("%w: name %.80q, folder %.200q", errUsage, p.name, p.dir)
	}
	return p, nil
}
