//go:build linux

package kvmtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Server is what a guest of the larger kind is made from: Debian's programs on a disk with a swap area, an ext4 root
// and a range of its own; and a second disk with XFS, on which a PostgreSQL cluster lies. It is shared by all tests of a
// machine and never changes.
type Server struct {
	fixture      *Fixture
	system, data string
}

// Places on the system disk, in bytes. The last is for tests to write, zero and discard.
const (
	SwapOff, SwapLen   = 1 << 20, 64 << 20
	RootOff, RootLen   = SwapOff + SwapLen, 192 << 20
	RangeOff, RangeLen = RootOff + RootLen, 4 << 20

	systemSize = RangeOff + RangeLen
	dataSize   = 320 << 20 // the least that mkfs.xfs takes, with a little more
)

// RangeDevice is the range of its own as the guest sees it.
const RangeDevice = "/dev/vda3"

// serverPackages are unpacked with all that they depend on.
var serverPackages = []string{"postgresql-15", "sqlite3", "qemu-guest-agent", "dash", "coreutils"}

// unwanted packages and paths are large and not needed to run.
var (
	unwantedPackages = []string{"perl", "libperl", "libllvm", "libz3", "locales", "libc-l10n"}
	unwantedPaths    = []string{"./usr/share/doc", "./usr/share/man", "./usr/share/locale", "./usr/share/i18n",
		"./usr/lib/postgresql/15/lib/bitcode", "./usr/lib/x86_64-linux-gnu/gconv"}
)

// serverRevision is counted up when something else than the lists above changes what is on the disks.
const serverRevision = 1

// provisionTime bounds the first boot, with a machine that has much else to do.
const provisionTime = 10 * time.Minute

var serverPrograms = []string{"mkfs.xfs", "mkswap", "qemu-img", "tar"}

// BuildServer makes the server, or finds the one that was made before, as [Build] does. The first time it downloads
// about 100 MB and boots it once.
func BuildServer(ctx context.Context) (*Server, error) {
	for _, name := range serverPrograms {
		if _, err := exec.LookPath(name); err != nil {
			return nil, &UnavailableError{What: name + " is not installed"}
		}
	}
	f, err := Build(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := cacheDir()
	if err != nil {
		return nil, err
	}
	unlock, err := lock(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	recipe := sha256.Sum256(fmt.Append(nil, serverRevision, serverPackages, unwantedPackages, unwantedPaths, systemSize, dataSize))
	images := filepath.Join(dir, fmt.Sprintf("server-%x", recipe[:8]))
	s := &Server{f, filepath.Join(images, "system.qcow2"), filepath.Join(images, "data.qcow2")}
	if err := once(images, func(to string) error { return s.build(ctx, to) }); err != nil {
		return nil, err
	}
	now := time.Now()
	return s, os.Chtimes(images, now, now) // see forget
}

func (s *Server) build(ctx context.Context, to string) error {
	work, err := os.MkdirTemp("", "hikae") // short, for sockets
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	tree := filepath.Join(work, "tree")
	if err := makeTree(ctx, work, tree); err != nil {
		return err
	}
	system, data := filepath.Join(work, "system"), filepath.Join(work, "data")
	if err := makeSystem(ctx, system, tree); err != nil {
		return err
	}
	if err := makeSparse(data, dataSize); err != nil {
		return err
	}
	if err := run(ctx, "mkfs.xfs", "-q", data); err != nil {
		return err
	}
	if err := s.provision(ctx, work, system, data); err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for from, name := range map[string]string{system: s.system, data: s.data} {
		if err := run(ctx, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", from, filepath.Join(to, filepath.Base(name))); err != nil {
			return err
		}
	}
	return nil
}

// makeTree unpacks packages and adds the few files that their scripts would have made.
func makeTree(ctx context.Context, work, tree string) error {
	debs, err := fetchClosure(ctx, filepath.Join(work, "debs"), serverPackages)
	if err != nil {
		return err
	}
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	for _, deb := range debs {
		if unwanted(filepath.Base(deb)) {
			continue
		}
		if err := unpackAll(ctx, deb, tree, unwantedPaths); err != nil {
			return err
		}
	}
	for _, dir := range []string{"proc", "sys", "dev", "run", "tmp", "data", "root", "etc/qemu", "var/lib/fx", "sbin"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Symlink("dash", filepath.Join(tree, "bin/sh")); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/sh\npostgres:x:105:105::/data/postgres:/bin/sh\n",
		"etc/group":  "root:x:0:\npostgres:x:105:\n",
		"bin/fx":     "", "sbin/shutdown": "", "etc/qemu/fsfreeze-hook": "", // the init puts its program over them
	} {
		path := filepath.Join(tree, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func unwanted(deb string) bool {
	return hasPrefix(deb, unwantedPackages)
}

func makeSparse(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// makeSystem makes the system disk, without a mount or a loop device.
func makeSystem(ctx context.Context, path, tree string) error {
	if err := makeSparse(path, systemSize); err != nil {
		return err
	}
	err := run(ctx, "mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,offset="+strconv.Itoa(RootOff),
		"-d", tree, path, strconv.Itoa(RootLen>>10)+"k")
	if err != nil {
		return err
	}
	area := path + ".swap"
	if err := makeSparse(area, SwapLen); err != nil {
		return err
	}
	if err := run(ctx, "mkswap", "-q", area); err != nil {
		return err
	}
	header, err := os.ReadFile(area)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(header[:4096], SwapOff)
	if err == nil {
		_, err = f.WriteAt(partitionTable(), 0)
	}
	return errors.Join(err, f.Close())
}

// partitionTable is a master boot record with the three places.
func partitionTable() []byte {
	p := make([]byte, 512)
	for i, part := range []struct {
		kind     byte
		off, len uint32
	}{{0x82, SwapOff, SwapLen}, {0x83, RootOff, RootLen}, {0xda, RangeOff, RangeLen}} {
		entry := p[446+16*i:]
		entry[4] = part.kind
		binary.LittleEndian.PutUint32(entry[8:], part.off/512)
		binary.LittleEndian.PutUint32(entry[12:], part.len/512)
	}
	binary.LittleEndian.PutUint32(p[440:], 0x68696b61) // the disk's signature
	p[510], p[511] = 0x55, 0xaa
	return p
}

// provision boots the server for the first time: it makes its database, and ends.
func (s *Server) provision(ctx context.Context, work, system, data string) error {
	g, err := s.fixture.launch(filepath.Join(work), serverMemory, "fx.root=/dev/vda2 fx.first=1", []GuestDisk{
		{Path: system, Format: "raw", ID: "vd0"}, {Path: data, Format: "raw", ID: "vd1"}})
	if err != nil {
		return err
	}
	defer g.Kill()
	ctx, cancel := context.WithTimeout(ctx, provisionTime)
	defer cancel()
	if err := g.Wait(ctx); err != nil || !strings.Contains(g.Console(), "FX-PROVISIONED") {
		return fmt.Errorf("the server's first boot: %w: its console: %s", cmpErr(err, errors.New("it ended early")), g.Console())
	}
	return nil
}

func cmpErr(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

// Disks makes the two disks of a server of one's own in a folder, as overlays on the shared ones.
func (s *Server) Disks(ctx context.Context, dir string) ([]GuestDisk, error) {
	disks := []GuestDisk{
		{Path: filepath.Join(dir, "system.qcow2"), Format: "qcow2", ID: "vd0", Serial: "root-0001"},
		{Path: filepath.Join(dir, "data.qcow2"), Format: "qcow2", ID: "vd1"},
	}
	for i, base := range []string{s.system, s.data} {
		if err := run(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, disks[i].Path); err != nil {
			return nil, err
		}
	}
	return disks, nil
}

// Names of the ledgers that a server writes: records, each chained to the one before it and durable when it is
// acknowledged. The first two are on the root, the others on XFS.
const (
	Journal, SQLite      = "journal", "sqlite"
	XFSJournal, Postgres = "xfsjournal", "postgres"
)

// ServerOptions say what a server runs. Nil is nothing but the agent.
type ServerOptions struct {
	Ledgers []string
	Quiet   bool // nothing is written: for [Guest] to check what a disk held
}

// line is what they add to the kernel's command line.
func (o *ServerOptions) line() string {
	if o == nil {
		return ""
	}
	line := " fx.write=" + strings.Join(o.Ledgers, ",")
	if o.Quiet {
		line += " fx.quiet=1"
	}
	return line
}

// Start boots a server on two disks and waits until it runs, at most 2 minutes; where it has PostgreSQL, that accepts
// connections then. The path of dir must be short. The caller kills the guest.
func (s *Server) Start(ctx context.Context, dir string, disks []GuestDisk, opts *ServerOptions) (*Guest, error) {
	g, err := s.fixture.launch(dir, serverMemory, "fx.root=/dev/vda2"+opts.line(), disks)
	if err != nil {
		return nil, err
	}
	return g, g.awaitReady(ctx)
}

// unpackAll unpacks a package into a folder.
func unpackAll(ctx context.Context, deb, dir string, without []string) error {
	args := []string{"-x", "-C", dir, "--no-same-owner"}
	for _, path := range without {
		args = append(args, "--exclude="+path)
	}
	from := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	to := exec.CommandContext(ctx, "tar", args...)
	var sent, said bytes.Buffer
	from.Stderr, to.Stderr = &sent, &said
	out, err := from.StdoutPipe()
	if err != nil {
		return err
	}
	to.Stdin = io.Reader(out)
	if err := from.Start(); err != nil {
		return err
	}
	unpacked := to.Run()
	if err := errors.Join(unpacked, from.Wait()); err != nil {
		return fmt.Errorf("unpack %s: %w: %s%s", filepath.Base(deb), err, sent.String(), said.String())
	}
	return nil
}
