//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tool runs one program that the fixture needs; its output is shown only when it fails.
func tool(ctx context.Context, name string, args ...string) error {
	_, err := toolInput(ctx, nil, name, args...)
	return err
}

func toolInput(ctx context.Context, stdin io.Reader, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr, cmd.WaitDelay = stdin, &stderr, 10*time.Second
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "DEBUGFS_PAGER=cat")
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s: %w\n%s%s", name, err, tail(out), tail(stderr.Bytes()))
	}
	return out, nil
}

func tail(p []byte) []byte { return p[max(0, len(p)-4000):] }

// makeDisk writes an 8 GiB disk: an MBR with one partition, and in it an ext4 file system with the root's files, a
// journal that has been in use for long, and free blocks that hold what was deleted.
func (m *machine) makeDisk(ctx context.Context, disk string) error {
	progress("make %s", filepath.Base(disk))
	if err := emptyDisk(disk); err != nil {
		return err
	}
	blocks := strconv.Itoa((diskSize - partitionStart) / fsBlock)
	err := tool(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-b", strconv.Itoa(fsBlock), "-L", "root", "-d", m.root,
		"-E", "offset="+strconv.Itoa(partitionStart), disk, blocks)
	if err != nil {
		return err
	}
	// A swap file has no holes: what mke2fs left out because it is zero is allocated as fallocate(1) would.
	fs := &ext4{disk: disk}
	fs.do("fallocate /swapfile 0 %d", swapSize/fsBlock-1)
	if err := m.deleteFiles(fs); err != nil {
		return err
	}
	if err := fs.apply(ctx); err != nil {
		return err
	}
	return fs.useJournal(ctx, rand.New(rand.NewPCG(m.seed, 3)), 0, 1)
}

// emptyDisk makes a sparse file with a partition table.
func emptyDisk(disk string) error {
	f, err := os.Create(disk)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(diskSize); err != nil {
		return err
	}
	var mbr [512]byte
	entry := mbr[446:462]
	entry[0], entry[4] = 0x80, 0x83
	binary.LittleEndian.PutUint32(entry[8:], partitionStart/512)
	binary.LittleEndian.PutUint32(entry[12:], (diskSize-partitionStart)/512)
	mbr[510], mbr[511] = 0x55, 0xaa
	if _, err := f.WriteAt(mbr[:], 0); err != nil {
		return err
	}
	return f.Close()
}

// deleteFiles leaves old data in free blocks, as apt clean does on a real machine: package files are written and
// removed again.
func (m *machine) deleteFiles(fs *ext4) error {
	debs, err := filepath.Glob(filepath.Join(m.debs, "*.deb"))
	if err != nil {
		return err
	}
	const most = 120 << 20
	written, names := int64(0), []string{}
	for _, deb := range debs {
		info, err := os.Stat(deb)
		if err != nil {
			return err
		}
		if written+info.Size() > most {
			continue
		}
		written += info.Size()
		name := fmt.Sprintf("/var/cache/apt/archives/%d.deb", len(names))
		fs.write(deb, name)
		names = append(names, name)
	}
	for _, name := range names {
		fs.do("rm %s", name)
	}
	return nil
}

// ext4 changes the file system on a disk without mounting it, by debugfs.
type ext4 struct {
	disk   string
	script bytes.Buffer
}

func (fs *ext4) device() string { return fs.disk + "?offset=" + strconv.Itoa(partitionStart) }

// do adds a command to what apply will run.
func (fs *ext4) do(format string, args ...any) { fmt.Fprintf(&fs.script, format+"\n", args...) }

// write adds a file. debugfs links only into its current folder.
func (fs *ext4) write(from, to string) {
	fs.do("cd %s", path.Dir(to))
	fs.do("write %s %s", from, path.Base(to))
}

// replace writes a new version beside the old and renames it, as dpkg does: the old blocks become free and keep
// their content.
func (fs *ext4) replace(from, to string) {
	fs.write(from, to+".dpkg-new")
	fs.do("rm %s", to)
	fs.do("ln %s.dpkg-new %s", to, to)
	fs.do("unlink %s.dpkg-new", to)
}

// apply runs the commands and checks that the file system is still sound.
func (fs *ext4) apply(ctx context.Context) error {
	if _, err := toolInput(ctx, &fs.script, "debugfs", "-w", "-f", "-", fs.device()); err != nil {
		return err
	}
	return tool(ctx, "e2fsck", "-f", "-n", fs.device())
}

// span is a run of blocks on the disk, in bytes from its start.
type span struct{ off, n int64 }

// spans says where on the disk the written parts of a file lie, in the order of the file.
func (fs *ext4) spans(ctx context.Context, file string) ([]span, error) {
	out, err := toolInput(ctx, nil, "debugfs", "-R", "dump_extents -l "+file, fs.device())
	if err != nil {
		return nil, err
	}
	var list []span
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		if s, ok := parseExtent(lines.Text()); ok {
			list = append(list, s)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: no extents in %q", file, tail(out))
	}
	return list, nil
}

// parseExtent reads a line such as " 1/ 1   1/ 40     0 - 2047   34816 - 36863   2048". Unwritten extents are left out.
func parseExtent(line string) (span, bool) {
	if strings.Contains(line, "Uninit") {
		return span{}, false
	}
	fields := strings.Fields(strings.NewReplacer("/", " ", "-", " ").Replace(line))
	var n []int64
	for _, f := range fields {
		v, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return span{}, false
		}
		n = append(n, v)
	}
	if len(n) != 9 {
		return span{}, false
	}
	return span{off: partitionStart + n[6]*fsBlock, n: n[8] * fsBlock}, true
}

// rewrite calls fill for count random pages of a file and writes what it leaves in them, in place on the disk.
// Three of four hit the same tenth of the file, as a busy database or a busy swap file has it.
func (fs *ext4) rewrite(ctx context.Context, file string, pageSize, count int, rnd *rand.Rand, fill func([]byte)) error {
	list, err := fs.spans(ctx, file)
	if err != nil {
		return err
	}
	var pages []int64
	for _, s := range list {
		for off := int64(0); off+int64(pageSize) <= s.n; off += int64(pageSize) {
			pages = append(pages, s.off+off)
		}
	}
	f, err := os.OpenFile(fs.disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	p := make([]byte, pageSize)
	for range count {
		at := rnd.IntN(len(pages))
		if rnd.IntN(4) > 0 {
			at = len(pages)/3 + rnd.IntN(len(pages)/10)
		}
		if _, err := f.ReadAt(p, pages[at]); err != nil {
			return err
		}
		fill(p)
		if _, err := f.WriteAt(p, pages[at]); err != nil {
			return err
		}
	}
	return f.Close()
}

// useJournal fills a part of the journal (from and to are shares of its length) with copies of metadata blocks, as
// use leaves it. Its first block stays: the journal is clean, and nothing of it is replayed.
func (fs *ext4) useJournal(ctx context.Context, rnd *rand.Rand, from, to float64) error {
	list, err := fs.spans(ctx, "<8>")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(fs.disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var blocks []int64
	for _, s := range list {
		for off := int64(0); off < s.n; off += fsBlock {
			blocks = append(blocks, s.off+off)
		}
	}
	blocks = blocks[1:]
	blocks = blocks[int(from*float64(len(blocks))):int(to*float64(len(blocks)))]
	p := make([]byte, fsBlock)
	for _, block := range blocks {
		// The first groups hold the inode tables of a flexible block group behind the superblock and the bitmaps.
		source := partitionStart + (64+rnd.Int64N(7000))*fsBlock
		if _, err := f.ReadAt(p, source); err != nil {
			return err
		}
		binary.BigEndian.PutUint32(p[rnd.IntN(fsBlock-4):], rnd.Uint32())
		if _, err := f.WriteAt(p, block); err != nil {
			return err
		}
	}
	return f.Close()
}

// upgraded are the packages of which day2 has a newer version.
var upgraded = []string{"git", "vim-runtime", "openssh-client", "openssh-server", "libc-bin", "perl-base", "postgresql-15"}

// nextDay makes day2 from day1: packages are upgraded, logs grow, a database and the swap file are written in place,
// files go.
func (m *machine) nextDay(ctx context.Context, day1, day2 string) error {
	progress("make %s", filepath.Base(day2))
	if err := tool(ctx, "cp", "--sparse=always", day1, day2); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(day2), "new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	rnd := rand.New(rand.NewPCG(m.seed, 4))
	fs := &ext4{disk: day2}
	if err := m.upgrade(fs, tmp, rnd); err != nil {
		return err
	}
	if err := m.dailyFiles(fs, tmp, rnd); err != nil {
		return err
	}
	if err := fs.apply(ctx); err != nil {
		return err
	}
	if err := fs.rewrite(ctx, databaseFile, databasePage, 900, rnd, func(p []byte) { databaseRow(p, rnd) }); err != nil {
		return err
	}
	pages := m.memoryPages()
	err = fs.rewrite(ctx, "/swapfile", fsBlock, 6000, rnd, func(p []byte) { pages.fill(p, rnd) })
	if err != nil {
		return err
	}
	return fs.useJournal(ctx, rnd, 0.2, 0.6)
}

// upgrade replaces the files of some packages. Most files of an upgrade have the same content as before in new
// blocks; programs differ in scattered bytes; texts in a few lines.
func (m *machine) upgrade(fs *ext4, tmp string, rnd *rand.Rand) error {
	count := 0
	for _, pkg := range upgraded {
		files, err := m.filesOf(pkg)
		if err != nil {
			return err
		}
		for _, file := range files {
			data, err := os.ReadFile(filepath.Join(m.root, file))
			if err != nil {
				return err
			}
			count++
			from := filepath.Join(tmp, "pkg"+strconv.Itoa(count))
			if err := os.WriteFile(from, newVersion(data, rnd), 0o755); err != nil {
				return err
			}
			fs.replace(from, file)
		}
	}
	if count < 100 {
		return fmt.Errorf("only %d files to upgrade: the packages %v have changed", count, upgraded)
	}
	return nil
}

// filesOf lists the regular files of a package by the names they have on disk.
func (m *machine) filesOf(pkg string) ([]string, error) {
	list, err := os.ReadFile(filepath.Join(m.root, "var/lib/dpkg/info", pkg+".list"))
	if err != nil {
		return nil, err
	}
	var files []string
	for name := range strings.Lines(string(list)) {
		name = strings.TrimSpace(name)
		for _, top := range []string{"/bin/", "/sbin/", "/lib/", "/lib64/"} {
			if strings.HasPrefix(name, top) {
				name = "/usr" + name
			}
		}
		info, err := os.Lstat(filepath.Join(m.root, name))
		if err != nil || !info.Mode().IsRegular() || info.Size() == 0 || strings.ContainsAny(name, " \"'\\") {
			continue
		}
		files = append(files, name)
	}
	slices.Sort(files)
	return slices.Compact(files), nil
}

func newVersion(data []byte, rnd *rand.Rand) []byte {
	switch {
	case rnd.IntN(10) < 6:
	case len(data) > 32<<10:
		for at := rnd.IntN(600); at < len(data); at += 1 + rnd.IntN(1200) {
			data[at] ^= byte(1 + rnd.IntN(255))
		}
	default:
		at := rnd.IntN(len(data))
		data = slices.Insert(data, at, []byte(logLine(rnd, 1))...)
	}
	return data
}

// dailyFiles adds the logs of the day and some documents, and removes others.
func (m *machine) dailyFiles(fs *ext4, tmp string, rnd *rand.Rand) error {
	add := func(to string, data []byte) error {
		from := filepath.Join(tmp, "day"+strconv.Itoa(fs.script.Len()))
		fs.write(from, to)
		return os.WriteFile(from, data, 0o644)
	}
	if err := add("/var/log/syslog.today", logText(rnd, 12<<20, 40_000)); err != nil {
		return err
	}
	if err := add("/var/log/daemon.today", logText(rnd, 5<<20, 40_000)); err != nil {
		return err
	}
	for i := range 6 {
		if err := add(fmt.Sprintf("/home/user/pictures/new%d.jpg", i), noise(rnd, 2<<20)); err != nil {
			return err
		}
	}
	fs.do("rm /var/log/syslog.3.gz")
	for i := range 5 {
		fs.do("rm /home/user/pictures/%03d.jpg", i*3)
	}
	return nil
}
