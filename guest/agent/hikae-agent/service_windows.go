package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/hikae/hikae/guest/agent/winsvc"
	"github.com/hikae/hikae/guest/install/service"
)

// What the installer service is called on Windows. The MSI uses the same names.
const (
	serviceName  = "hikae-agent"
	serviceTitle = "Hikae installer service"
	serviceWords = "Works for image-level backup inside this machine. It lets in only those that its kit named."
)

// serviceFlags are those of all its words.
type serviceFlags struct{ dir, kit string }

// windowsService is the installer service (package guest/install/service) in the hands of the service control manager:
//
//	service install --kit FILE [--dir DIR]   sets it up, lets its port through the firewall, makes the service, starts it.
//	                                         It may be run again: then it is an upgrade, and what is installed stays
//	service remove [--dir DIR]               stops it and takes everything of it away
//	service run    [--dir DIR]               what the manager starts
//	service setup  --kit FILE [--dir DIR]    for the MSI, which makes the service itself: keys and firewall. Where it was
//	                                         set up before and there is no kit, everything stays as it is
//	service clean  [--dir DIR]               for the MSI: takes keys, components and the firewall's rule away
func windowsService(ctx context.Context, args []string) error {
	words := map[string]func(context.Context, serviceFlags) error{
		"install": installService, "remove": removeService, "run": runService, "setup": setupService, "clean": cleanService}
	if len(args) == 0 || words[args[0]] == nil {
		return errUsage
	}
	f := serviceFlags{dir: service.DefaultDir()}
	err := flags(args[1:], func(s *flag.FlagSet) {
		s.StringVar(&f.dir, "dir", f.dir, "")
		s.StringVar(&f.kit, "kit", "", "")
	})
	if err != nil {
		return err
	}
	if err := winsvc.Harden(); err != nil {
		return err
	}
	return words[args[0]](ctx, f)
}

func runService(_ context.Context, f serviceFlags) error {
	return winsvc.RunService(serviceName, func(ctx context.Context, ready func()) error {
		err := service.Run(ctx, []string{"run", "--dir", f.dir}, version, firstWrite(ready))
		if _, keys := os.Stat(filepath.Join(f.dir, "trust")); ctx.Err() == nil && errors.Is(keys, fs.ErrNotExist) {
			return forget(f.dir) // a controller took it away; what err says of our own program's file is known
		}
		return err
	})
}

// firstWrite calls itself when something is said: the service says where it listens as soon as it does.
type firstWrite func()

func (f firstWrite) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

// forget takes away what a service cannot take away while it runs in it: its entry, its rule, and its own program, which
// Windows deletes when it starts next.
func forget(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), forgetLimit)
	defer cancel()
	_ = winsvc.ForbidPort(ctx) // a firewall may be in other hands; a rule for a program that is gone lets nothing in
	return errors.Join(winsvc.UnregisterService(serviceName), winsvc.LeaveTreeAtRestart(dir))
}

const forgetLimit = 15 * time.Second

func installService(ctx context.Context, f serviceFlags) error {
	program := service.Program(f.dir)
	if err := winsvc.RemoveService(ctx, serviceName); err != nil {
		return err // its program cannot be replaced while it runs
	}
	if err := setUp(ctx, f, program); err != nil {
		return err
	}
	note, err := winsvc.InstallService(ctx, winsvc.Service{Name: serviceName, Title: serviceTitle, Description: serviceWords,
		Program: program, Args: []string{"service", "run", "--dir", f.dir}})
	if note != "" {
		fmt.Fprintln(os.Stderr, "hikae-agent:", note)
	}
	return err
}

func removeService(ctx context.Context, f serviceFlags) error {
	if err := winsvc.RemoveService(ctx, serviceName); err != nil {
		return err // what it needs stays as long as it may run
	}
	return cleanService(ctx, f)
}

// setupService: the MSI's service runs the program that the MSI has put down.
func setupService(ctx context.Context, f serviceFlags) error {
	_, noKit := os.Stat(f.kit)
	_, before := os.Stat(filepath.Join(f.dir, "settings.json"))
	if errors.Is(noKit, fs.ErrNotExist) && before == nil {
		return nil
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	return setUp(ctx, f, program)
}

// setUp lays the kit down and opens its port for a program.
func setUp(ctx context.Context, f serviceFlags, program string) error {
	kit, err := service.ReadKit(f.kit)
	if err != nil {
		return err
	}
	listen := kit.Listen
	if listen == "" {
		listen = service.DefaultListen
	}
	_, word, err := net.SplitHostPort(listen)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(word)
	if err != nil {
		return fmt.Errorf("port %q: %w", word, err)
	}
	if _, err := service.Setup(ctx, f.dir, kit, &service.SetupOptions{Beside: filepath.Dir(f.kit)}); err != nil {
		return err
	}
	if err := winsvc.AllowPort(ctx, program, port); err != nil {
		fmt.Fprintln(os.Stderr, "hikae-agent: open TCP port", port, "by hand:", err) // a firewall may be in other hands
	}
	return nil
}

func cleanService(ctx context.Context, f serviceFlags) error {
	if err := winsvc.ForbidPort(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "hikae-agent:", err)
	}
	_, err := service.Uninstall(f.dir, "")
	return err
}
