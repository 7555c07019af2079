//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// fixtureVersion changes when the input changes: figures of two versions do not compare.
const fixtureVersion = 2

const (
	diskSize       = 8 << 30
	partitionStart = 1 << 20
	fsBlock        = 4096
	suite          = "bookworm"
	mirror         = "http://deb.debian.org/debian"
)

// The packages of both machines come to about 1.7 GiB: a kernel with its modules, compilers, interpreters, documents.
var (
	commonPackages = []string{
		"linux-image-amd64", "build-essential", "ca-certificates", "openssh-server", "systemd-sysv", "locales", "git",
		"vim", "man-db", "manpages-dev", "less", "curl", "rsync", "sudo", "perl-doc", "python3", "python3-numpy",
		"default-jre-headless",
	}
	firstPackages  = []string{"postgresql", "gdb"}
	secondPackages = []string{"postgresql", "nginx", "php-cli"}
)

// fixture is the input of a run: three disks, and what changed between the first two.
type fixture struct {
	dir string

	Version  int              `json:"version"`
	Packages map[string]int   `json:"packages"` // number of Debian packages, by disk
	Used     map[string]int64 `json:"used"`     // bytes that are not holes, by disk
	Changed  int64            `json:"changed"`  // bytes that differ between day1 and day2, in blocks of 4 KiB
	Blocks   int64            `json:"blocks"`   // the same, aligned outward to 256 KiB
}

// day1 is the disk, day2 the same disk a day later, other a second machine made from mostly the same packages.
func (f *fixture) disk(name string) string { return filepath.Join(f.dir, name+".raw") }

// changes is the list of ranges that differ between day1 and day2, for hikae backup --changed.
func (f *fixture) changes() string { return filepath.Join(f.dir, "day2.changed.json") }

// openFixture opens the input in dir, and makes it where it is not there or not whole.
func openFixture(ctx context.Context, dir string) (*fixture, error) {
	f := &fixture{dir: dir}
	done := filepath.Join(dir, "fixture.json")
	if data, err := os.ReadFile(done); err == nil {
		if err := json.Unmarshal(data, f); err == nil && f.Version == fixtureVersion {
			return f, nil
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "debs"), 0o755); err != nil {
		return nil, err
	}
	f.Version, f.Packages, f.Used = fixtureVersion, map[string]int{}, map[string]int64{}
	if err := f.build(ctx); err != nil {
		return nil, err
	}
	return f, writeJSON(done, f)
}

func (f *fixture) build(ctx context.Context) error {
	first := &machine{name: "web1", seed: 1, packages: slices.Concat(commonPackages, firstPackages)}
	if err := first.install(ctx, f.dir); err != nil {
		return err
	}
	defer os.RemoveAll(first.root)
	if err := first.makeDisk(ctx, f.disk("day1")); err != nil {
		return err
	}
	if err := first.nextDay(ctx, f.disk("day1"), f.disk("day2")); err != nil {
		return err
	}
	os.RemoveAll(first.root)

	second := &machine{name: "db7", seed: 2, packages: slices.Concat(commonPackages, secondPackages)}
	if err := second.install(ctx, f.dir); err != nil {
		return err
	}
	defer os.RemoveAll(second.root)
	if err := second.makeDisk(ctx, f.disk("other")); err != nil {
		return err
	}
	f.Packages["day1"], f.Packages["other"] = first.installed, second.installed
	return f.measure()
}

// measure fills in what the report says about the input, and writes the list of changes.
func (f *fixture) measure() error {
	for _, name := range []string{"day1", "day2", "other"} {
		used, err := dataBytes(f.disk(name))
		if err != nil {
			return err
		}
		f.Used[name] = used
	}
	ranges, err := differences(f.disk("day1"), f.disk("day2"), fsBlock)
	if err != nil {
		return err
	}
	f.Changed, f.Blocks = total(ranges), total(alignOut(ranges, 256<<10))
	return writeJSON(f.changes(), ranges)
}

// machine is one Debian machine that a disk is made of.
type machine struct {
	name      string
	seed      uint64
	packages  []string
	root      string // its root file system, as a folder
	debs      string // downloaded packages, shared by both machines
	installed int
}

// install makes the root file system in dir/root, from the packages kept in dir/debs where they are there.
func (m *machine) install(ctx context.Context, dir string) error {
	m.root, m.debs = filepath.Join(dir, "root-"+m.name), filepath.Join(dir, "debs")
	if err := os.RemoveAll(m.root); err != nil {
		return err
	}
	progress("install %s: %d packages and what they need", m.name, len(m.packages))
	// A mount namespace of its own: what mmdebstrap mounts is gone when it ends, however it ends.
	err := tool(ctx, "unshare", "--mount", "nice", "-n", "10", "mmdebstrap", "--quiet", "--mode=root", "--variant=important",
		`--aptopt=Apt::Install-Recommends "false"`,
		"--skip=download/empty,essential/unlink,cleanup/apt",
		`--setup-hook=mkdir -p "$1"/var/cache/apt/archives`,
		"--setup-hook=sync-in "+m.debs+" /var/cache/apt/archives",
		"--customize-hook=sync-out /var/cache/apt/archives "+m.debs,
		`--customize-hook=rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/cache/apt/archives/partial/*`,
		"--include="+strings.Join(m.packages, ","),
		suite, m.root, mirror)
	if err != nil {
		return err
	}
	lists, err := filepath.Glob(filepath.Join(m.root, "var/lib/dpkg/info/*.list"))
	m.installed = len(lists)
	if err != nil || m.installed < 100 {
		return fmt.Errorf("install %s: only %d packages are there (%v)", m.name, m.installed, err)
	}
	return m.live()
}
