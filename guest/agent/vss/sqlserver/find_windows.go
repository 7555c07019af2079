package sqlserver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"

	"github.com/hikae/hikae/guest/agent/wire"
)

// instanceRule holds names of instances to those that the server's setup allows.
var instanceRule = regexp.MustCompile(`^[A-Za-z_#&][A-Za-z0-9_#$]{0,15}$`)

// instances are those that the registry names.
func instances() ([]string, error) {
	k, err := registry.OpenKey(registry.LOCAL_MACHINE, `SOFTWARE\Microsoft\Microsoft SQL Server\Instance Names\SQL`, registry.QUERY_VALUE|registry.WOW64_64KEY)
	if errors.Is(err, registry.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("instances of SQL Server: %w", err)
	}
	defer k.Close()
	names, err := k.ReadValueNames(-1)
	if err != nil {
		return nil, fmt.Errorf("instances of SQL Server: %w", err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !instanceRule.MatchString(n) })
	slices.Sort(names)
	return names, nil
}

// openClient finds the newest sqlcmd in the folder of programs, where only administrators can put one.
func openClient(instance string) (*client, error) {
	programs, err := windows.KnownFolderPath(windows.FOLDERID_ProgramFiles, 0)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, pattern := range []string{`Microsoft SQL Server\Client SDK\ODBC\*\Tools\Binn\SQLCMD.EXE`, `Microsoft SQL Server\*\Tools\Binn\SQLCMD.EXE`} {
		some, _ := filepath.Glob(filepath.Join(programs, pattern)) // the patterns are well formed
		slices.Sort(some)
		slices.Reverse(some)
		found = append(found, some...)
	}
	if len(found) == 0 {
		return nil, &wire.Failure{Code: wire.CodeMissing, Message: "sqlcmd is not installed", Hint: "install the Microsoft Command Line Utilities for SQL Server"}
	}
	server := `lpc:.\` + instance
	if instance == "MSSQLSERVER" {
		server = "lpc:."
	}
	return &client{program: found[0], server: server, env: os.Environ()}, nil
}
