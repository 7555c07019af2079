package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hikae/hikae/pipe/mover/trust"
)

// UnitName is the name of the service for systemd.
const UnitName = "hikae-agent.service"

// DefaultUnitDir is where units of an administrator are.
const DefaultUnitDir = "/etc/systemd/system"

// Unit is the text of a unit for systemd. The component freezes file systems, asks databases as their own users and reads
// everybody's files, so little can be taken from it; what it never needs is.
func Unit(program, dir string) string {
	return `[Unit]
Description=Hikae installer service: works for image-level backup inside this machine
After=network.target

[Service]
ExecStart=` + unitWord(program) + ` installer run --dir ` + unitWord(dir) + ` --unit-dir ` + unitWord(DefaultUnitDir) + `
Restart=on-failure
RestartSec=5
UMask=0077
# What is frozen must be thawed by the components themselves: they get their time.
KillMode=process
TimeoutStopSec=100
OOMScoreAdjust=-500
LockPersonality=yes
MemoryDenyWriteExecute=yes
ProtectClock=yes
ProtectKernelModules=yes
RestrictRealtime=yes

[Install]
WantedBy=multi-user.target
`
}

// unitWord is a word as systemd reads it: specifiers and quotes mean themselves.
func unitWord(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`, `$`, `$$`).Replace(s) + `"`
}

func writeUnit(unitDir, program, dir string) error {
	if strings.ContainsAny(program+dir, "\n\r") {
		return fmt.Errorf("a path with a line break cannot stand in a unit: %q", dir)
	}
	if err := trust.WriteFile(unitDir, UnitName, []byte(Unit(program, dir))); err != nil {
		return err
	}
	return os.Chmod(filepath.Join(unitDir, UnitName), 0o644)
}

const systemdLimit = 30 * time.Second

// underSystemd reports whether systemd runs this machine.
func underSystemd() bool {
	fi, err := os.Stat("/run/systemd/system")
	return err == nil && fi.IsDir()
}

// systemds reports whether units in a folder are those of the systemd that runs this machine.
func systemds(unitDir string) bool { return unitDir == DefaultUnitDir && underSystemd() }

// systemctl runs systemctl; what it says is part of the error.
func systemctl(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, systemdLimit)
	defer cancel()
	said := &tail{}
	cmd := exec.CommandContext(ctx, "systemctl", args...)
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, said)
	}
	return nil
}

// enableUnit starts the service, now and with the machine.
func enableUnit(ctx context.Context) error {
	return errors.Join(systemctl(ctx, "daemon-reload"), systemctl(ctx, "enable", UnitName), systemctl(ctx, "restart", UnitName))
}

// disableUnit keeps the service from starting again. It goes on running: it has an answer to send.
func disableUnit(unitDir string) {
	if !systemds(unitDir) {
		return
	}
	if _, err := os.Stat(filepath.Join(unitDir, UnitName)); err == nil {
		_ = systemctl(context.Background(), "disable", UnitName) // what stays is a link to a unit that goes: Uninstall says so
	}
}
