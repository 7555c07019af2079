//go:build linux

package apps

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hikae/hikae/guest/agent/wire"
)

// places are where packages of the distributions keep clusters.
var places = []string{"/var/lib/postgresql/*/*", "/var/lib/pgsql/*/data", "/var/lib/pgsql/data", "/var/lib/postgres/data"}

// idle are clusters that lie there and do not run: people who look for them should find them told. Nothing is to be
// done for them.
func (a *Apps) idle(running []server) (found []wire.Application) {
	busy := map[string]bool{}
	for _, s := range running {
		if pg, ok := s.(*postgres); ok {
			busy[pg.p.folder] = true
		}
	}
	for _, folder := range clusters() {
		version, err := readFile(filepath.Join(folder, "PG_VERSION"), 64)
		if err != nil || busy[folder] || !a.wanted(kindPostgres, folder) {
			continue
		}
		found = append(found, wire.Application{
			Kind: kindPostgres, Name: nameOf(folder), Version: clean(string(version), 64),
			State: "not running: its files are as it left them", Folders: []string{folder}, Logs: "no: it is not running",
		})
	}
	return found
}

// aside are servers that run and are left alone.
func (a *Apps) aside() (found []wire.Application) {
	all, err := processes("postgres", "postmaster", "mariadbd", "mysqld")
	if err != nil {
		return nil
	}
	all = slices.DeleteFunc(all, func(p process) bool { return p.aside == "" })
	for _, p := range leaders(all) {
		kind := map[string]string{"mariadbd": kindMariaDB, "mysqld": kindMySQL}[p.name]
		if kind = cmp.Or(kind, kindPostgres); a.wanted(kind, p.folder) {
			found = append(found, wire.Application{Kind: kind, Name: fmt.Sprintf("process-%d", p.pid), State: p.aside,
				Folders: []string{}, Logs: "no: it " + p.aside})
		}
	}
	return found[:min(len(found), maxServers)]
}

// clusters are data folders by the places of packages and by Debian's configuration.
func clusters() (folders []string) {
	for _, p := range places {
		some, _ := filepath.Glob(p) // the patterns are right
		folders = append(folders, some...)
	}
	confs, _ := filepath.Glob("/etc/postgresql/*/*/postgresql.conf")
	for _, c := range confs[:min(len(confs), maxServers)] {
		b, err := readFile(c, 1<<20)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			name, value, ok := strings.Cut(line, "=")
			if ok && strings.TrimSpace(name) == "data_directory" {
				value, _, _ = strings.Cut(value, "#")
				folders = append(folders, filepath.Clean(strings.Trim(strings.TrimSpace(value), "'")))
			}
		}
	}
	slices.Sort(folders)
	folders = slices.Compact(folders)
	return folders[:min(len(folders), maxServers)]
}
