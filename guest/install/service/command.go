package service

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
)

// ErrUsage says that a command line is wrong.
var ErrUsage = errors.New("usage: installer setup --kit FILE | run | stop | uninstall  [--dir DIR] [--unit-dir DIR]")

// arguments of all commands.
type arguments struct {
	dir, unitDir, kit, listen, start string
}

func parse(args []string) (a arguments, err error) {
	set := flag.NewFlagSet("installer", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.StringVar(&a.dir, "dir", DefaultDir(), "")
	set.StringVar(&a.unitDir, "unit-dir", "", "")
	set.StringVar(&a.kit, "kit", "", "")
	set.StringVar(&a.listen, "listen", "", "")
	set.StringVar(&a.start, "start", "no", "")
	if err := set.Parse(args); err != nil {
		return a, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	if set.NArg() > 0 {
		return a, ErrUsage
	}
	switch {
	case a.unitDir == "none":
		a.unitDir = ""
	case a.unitDir == "" && underSystemd():
		a.unitDir = DefaultUnitDir
	}
	return a, nil
}

// Run is the command line of an installer service, for the program that it is part of:
//
//	installer setup --kit FILE [--start auto]   sets up, or upgrades; packages beside the kit are installed too
//	installer run                               serves, and prints {"listening": …} when it does
//	installer stop                              ends one that setup started without systemd
//	installer uninstall                         stops it and removes everything of it
//
// with --dir DIR for another folder than [DefaultDir]. Where systemd runs the machine, a unit is written and started;
// --unit-dir DIR writes it elsewhere, where nothing is started by it, and --unit-dir none writes none. --start process
// starts a process that systemd knows nothing of. The kit's secret comes from its file, never from the command line. It
// prints one line of JSON.
func Run(ctx context.Context, args []string, version string, out io.Writer) error {
	if len(args) == 0 {
		return ErrUsage
	}
	a, err := parse(args[1:])
	if err != nil {
		return err
	}
	switch args[0] {
	case "setup":
		return a.setup(ctx, out)
	case "run":
		return a.run(ctx, version, out)
	case "stop":
		return stop(ctx, a.dir, a.unitDir)
	case "uninstall":
		if err := stop(ctx, a.dir, a.unitDir); err != nil {
			return err
		}
		removed, err := Uninstall(a.dir, a.unitDir)
		return errors.Join(err, say(out, map[string]any{"removed": removed}))
	}
	return ErrUsage
}

func say(out io.Writer, v any) error { return json.NewEncoder(out).Encode(v) }

func (a *arguments) setup(ctx context.Context, out io.Writer) error {
	k, err := ReadKit(a.kit)
	if err != nil {
		return err
	}
	versions, err := Setup(ctx, a.dir, k, &SetupOptions{Beside: filepath.Dir(a.kit), UnitDir: a.unitDir})
	if err != nil {
		return err
	}
	listening := ""
	switch {
	case a.start == "no":
	case a.start == "auto" && systemds(a.unitDir):
		err = enableUnit(ctx)
	case a.start == "auto", a.start == "process":
		listening, err = startDetached(ctx, a.dir)
	default:
		err = ErrUsage
	}
	return errors.Join(err, say(out, map[string]any{"dir": a.dir, "installed": versions, "listening": listening}))
}

func (a *arguments) run(ctx context.Context, version string, out io.Writer) error {
	s, err := Open(a.dir, &Options{Version: version, UnitDir: a.unitDir, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	l, err := s.Listen(ctx, a.listen)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := writePID(a.dir); err != nil {
		return err
	}
	if err := say(out, map[string]string{"listening": l.Addr().String()}); err != nil {
		return err
	}
	err = s.Serve(ctx, l)
	return errors.Join(err, ignoreMissing(os.Remove(pidPath(a.dir))))
}
