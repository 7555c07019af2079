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

// unitDir is where an administrator's own units are (systemd.unit(5)).
const unitDir = "/etc/systemd/system"

// Install makes a unit that starts with the system, and starts it. where says how it is looked at.
func Install(d Description) (where string, err error) {
	unit, err := d.Unit()
	if err != nil {
		return "", err
	}
	if !systemd() {
		return "", ErrNoManager
	}
	path := filepath.Join(unitDir, d.Name+".service")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(unit)
	if err = errors.Join(err, f.Close()); err == nil {
		if err = systemctl("daemon-reload"); err == nil {
			err = systemctl("enable", "--now", d.Name+".service")
		}
	}
	if err != nil {
		return "", errors.Join(err, Remove(d.Name))
	}
	return "systemctl status " + d.Name, nil
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
