//go:build !windows

package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Run runs a program as what it is. Nothing but Windows needs more than that.
func Run(ctx context.Context, _ string, run func(context.Context) error) error { return run(ctx) }

// ready tells nobody: systemd has been told.
func ready() {}

// unitDir is where an administrator's own units are (systemd.unit(5)).
const unitDir = "/etc/systemd/system"

// Install makes a unit that starts with the system, and starts it. where says how it is looked at. The error is an
// fs.ErrExist where there is such a unit, be it from an installation that was broken off: [Remove] takes either away.
func Install(d Description) (where string, err error) {
	unit, err := d.Unit()
	if err != nil {
		return "", err
	}
	if !systemd() {
		return "", ErrNoManager
	}
	path := filepath.Join(unitDir, d.Name+".service")
	if err := writeUnit(path, unit); err != nil {
		return "", err
	}
	if err = systemctl("daemon-reload"); err == nil {
		err = systemctl("enable", "--now", d.Name+".service")
	}
	if err != nil {
		return "", errors.Join(err, Remove(d.Name))
	}
	return "systemctl status " + d.Name, nil
}

// writeUnit makes a unit that was not there, whole: systemd may look at the folder at any time.
func writeUnit(path, unit string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".hikae-")
	if err != nil {
		return err
	}
	_, err = f.WriteString(unit)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err == nil {
		err = os.Link(f.Name(), path)
	}
	return errors.Join(err, os.Remove(f.Name()))
}

// Remove stops a service and removes its unit.
func Remove(name string) error {
	if !systemd() {
		return ErrNoManager
	}
	stop := systemctl("disable", "--now", name+".service")
	if err := os.Remove(filepath.Join(unitDir, name+".service")); err != nil {
		return errors.Join(err, stop)
	}
	return systemctl("daemon-reload")
}

// systemd reports whether it is what runs this system (sd_booted(3)).
func systemd() bool {
	_, err := os.Stat("/run/systemd/system")
	return runtime.GOOS == "linux" && err == nil
}

func systemctl(args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*StopSeconds*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
