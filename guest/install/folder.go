package install

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/install/service"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// The files of a folder that a service is set up from.
const (
	kitFile       = "kit.json"
	linuxScript   = "install.sh"
	windowsScript = "install.cmd"
)

// shell is the script for Linux. The secret stays in the kit's file: nothing of it is on a command line.
const shell = `#!/bin/sh
# Sets Hikae's installer service up on this machine, from this folder: the program, the kit, and the packages beside it.
# Run it as root, by hand or by whatever runs scripts on many machines. It may be run again.
set -eu
cd "$(dirname "$0")"
[ "$(id -u)" = 0 ] || { echo "install.sh: must be run as root" >&2; exit 1; }
umask 077
run=$(mktemp -d /var/tmp/hikae-setup.XXXXXXXX)
trap 'rm -rf -- "$run"' EXIT
# This folder may be on a share that lets nothing run, and setup looks for packages beside the kit.
cp hikae-agent kit.json "$run"/
for p in *.hikaepkg; do [ ! -f "$p" ] || cp -- "$p" "$run"/; done
chmod 700 "$run"/hikae-agent
"$run"/hikae-agent installer setup --kit "$run"/kit.json --start auto "$@"
`

// cmd is the script for Windows. It was never run there.
const cmd = `@echo off
rem Sets Hikae's installer service up on this machine, from this folder: the program, the kit, and the packages beside it.
rem Run it as an administrator, or as a start-up script of a group policy. It may be run again.
rem Not yet verified on Windows.
setlocal
"%~dp0hikae-agent.exe" installer setup --kit "%~dp0kit.json" --start auto %*
exit /b %errorlevel%
`

// WriteFolder makes a folder from which a service is set up by hand, by script or by policy: the program for one system,
// the kit, the newest package where there are some, and a script. The folder holds the kit's secret as long as that is
// good, and is for its owner alone; what is copied elsewhere is to be kept as close. It must not be there yet, or be
// empty.
func WriteFolder(dir string, k *service.Kit, b *guest.Build, packages Packages) error {
	text, err := k.Encode()
	if err != nil {
		return err
	}
	if err := trust.MakeFolder(dir); err != nil {
		return err
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
		return fmt.Errorf("folder %s: it is not empty: %w", dir, orExist(err))
	}
	list := []parcel{{b.File(), b.Content, 0o700}, {kitFile, text, 0o600}, {linuxScript, []byte(shell), 0o700}}
	if b.OS == "windows" {
		list[2] = parcel{windowsScript, []byte(cmd), 0o700}
	}
	if packages != nil {
		f, err := packages.Package(b.OS, b.Arch)
		if err != nil {
			return err
		}
		list = append(list, parcel{packageFile(&f.Package), append(f.Encode(), f.Program...), 0o600})
	}
	for _, p := range list {
		if err := os.WriteFile(filepath.Join(dir, p.name), p.data, os.FileMode(p.mode)); err != nil {
			return err
		}
	}
	return nil
}

func orExist(err error) error {
	if err == nil {
		err = os.ErrExist
	}
	return err
}
