//go:build linux

package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
)

const (
	swapSize     = 384 << 20
	swapUsed     = 160 << 20
	databaseFile = "/var/lib/postgresql/ledger.db"
	databaseSize = 80 << 20
	databasePage = 8 << 10
)

// live adds what months of use add to an installed system: a name, logs, a database, documents, a swap file. What
// differs between machines comes from the seed.
func (m *machine) live() error {
	rnd := rand.New(rand.NewPCG(m.seed, 1))
	files := []struct {
		name string
		data func() []byte
	}{
		{"/etc/hostname", func() []byte { return []byte(m.name + "\n") }},
		{"/etc/machine-id", func() []byte { return fmt.Appendf(nil, "%016x%016x\n", rnd.Uint64(), rnd.Uint64()) }},
		{"/var/log/syslog", func() []byte { return logText(rnd, 18<<20, 1_000) }},
		{"/var/log/syslog.2.gz", func() []byte { return gzipped(logText(rnd, 30<<20, 500)) }},
		{"/var/log/syslog.3.gz", func() []byte { return gzipped(logText(rnd, 30<<20, 100)) }},
		{databaseFile, func() []byte { return database(rnd) }},
		{"/swapfile", func() []byte { return m.swap(rnd) }},
	}
	for i := range 24 {
		name := fmt.Sprintf("/home/user/pictures/%03d.jpg", i)
		files = append(files, struct {
			name string
			data func() []byte
		}{name, func() []byte { return noise(rnd, 1<<20+rnd.IntN(3<<20)) }})
	}
	for _, f := range files {
		to := filepath.Join(m.root, f.name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, f.data(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// noise is what does not compress: pictures, films, archives.
func noise(rnd *rand.Rand, n int) []byte {
	p := make([]byte, n+7)
	for at := 0; at < n; at += 8 {
		binary.LittleEndian.PutUint64(p[at:], rnd.Uint64())
	}
	return p[:n]
}

func gzipped(p []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	w.Write(p) // a bytes.Buffer takes everything
	w.Close()
	return buf.Bytes()
}

var (
	programs = []string{"systemd[1]", "sshd", "cron", "kernel", "postgres", "dhclient", "rsyslogd", "sudo", "named"}
	verbs    = []string{"started", "stopped", "accepted", "refused", "opened", "closed", "reloaded", "expired", "queued"}
	nouns    = []string{"session", "connection", "unit", "timer", "socket", "request", "key", "lease", "mailbox", "zone"}
)

func logLine(rnd *rand.Rand, minute int) string {
	return fmt.Sprintf("Nov %2d %02d:%02d:%02d host %s[%d]: %s %s %d for user%d from 10.%d.%d.%d port %d\n",
		1+minute/1440%28, minute/60%24, minute%60, rnd.IntN(60), programs[rnd.IntN(len(programs))], rnd.IntN(32768),
		verbs[rnd.IntN(len(verbs))], nouns[rnd.IntN(len(nouns))], rnd.IntN(100000), rnd.IntN(300),
		rnd.IntN(4), rnd.IntN(256), rnd.IntN(256), 1024+rnd.IntN(60000))
}

func logText(rnd *rand.Rand, n, minute int) []byte {
	var buf bytes.Buffer
	for line := 0; buf.Len() < n; line++ {
		buf.WriteString(logLine(rnd, minute+line/200))
	}
	return buf.Bytes()[:n]
}

// database is a file of pages with rows in them, a fifth of each page free.
func database(rnd *rand.Rand) []byte {
	p := make([]byte, databaseSize)
	for at := 0; at < len(p); at += databasePage {
		page := p[at : at+databasePage]
		binary.LittleEndian.PutUint64(page, rnd.Uint64())
		binary.LittleEndian.PutUint32(page[8:], uint32(at/databasePage))
		for row := 128; row+96 < databasePage*4/5; row += 96 {
			fillRow(page[row:row+96], rnd)
		}
	}
	return p
}

func fillRow(p []byte, rnd *rand.Rand) {
	binary.LittleEndian.PutUint32(p, rnd.Uint32N(1<<22))
	binary.LittleEndian.PutUint64(p[8:], 1_700_000_000_000+rnd.Uint64N(1<<34))
	copy(p[16:], nouns[rnd.IntN(len(nouns))])
	copy(p[32:], verbs[rnd.IntN(len(verbs))])
	binary.LittleEndian.PutUint64(p[48:], rnd.Uint64())
	binary.LittleEndian.PutUint64(p[56:], rnd.Uint64())
}

// databaseRow is one update: the page's log position, its checksum and a row change.
func databaseRow(page []byte, rnd *rand.Rand) {
	binary.LittleEndian.PutUint64(page, rnd.Uint64())
	row := 128 + 96*rnd.IntN(60)
	fillRow(page[row:row+96], rnd)
}

// memoryPages are the pages that a kernel under pressure swaps out.
type memoryPages struct{ libraries []byte }

func (m *machine) memoryPages() *memoryPages {
	pages := &memoryPages{}
	names, _ := filepath.Glob(filepath.Join(m.root, "usr/lib/x86_64-linux-gnu/*.so.*"))
	for _, name := range names {
		if data, err := os.ReadFile(name); err == nil && len(pages.libraries) < 64<<20 {
			pages.libraries = append(pages.libraries, data...)
		}
	}
	return pages
}

// fill makes one page: a private copy of a program's data, a heap of pointers and short strings, text, or key
// material that does not compress.
func (m *memoryPages) fill(page []byte, rnd *rand.Rand) {
	switch kind := rnd.IntN(20); {
	case kind < 6 && len(m.libraries) > len(page):
		copy(page, m.libraries[rnd.IntN(len(m.libraries)-len(page)):])
	case kind < 14:
		m.heap(page, rnd)
	case kind < 17:
		copy(page, logText(rnd, len(page), 1))
	default:
		copy(page, noise(rnd, len(page)))
	}
}

// heap is chunks with sizes, pointers into one region, short strings and zero rests.
func (m *memoryPages) heap(page []byte, rnd *rand.Rand) {
	clear(page)
	base := uint64(0x7f0000000000) + rnd.Uint64N(1<<30)<<4
	for at := 0; at+64 <= len(page); at += 16 * (2 + rnd.IntN(8)) {
		binary.LittleEndian.PutUint64(page[at:], 0x31)
		binary.LittleEndian.PutUint64(page[at+8:], base+rnd.Uint64N(1<<20)<<4)
		binary.LittleEndian.PutUint64(page[at+16:], base+rnd.Uint64N(1<<20)<<4)
		copy(page[at+24:at+48], nouns[rnd.IntN(len(nouns))])
	}
}

// swap is a swap area with its header and runs of used pages.
func (m *machine) swap(rnd *rand.Rand) []byte {
	area := make([]byte, swapSize)
	binary.LittleEndian.PutUint32(area[1024:], 1)
	binary.LittleEndian.PutUint32(area[1028:], swapSize/fsBlock-1)
	copy(area[fsBlock-10:], "SWAPSPACE2")
	pages := m.memoryPages()
	for used := 0; used < swapUsed; {
		run := 1 + rnd.IntN(256)
		start := 1 + rnd.IntN(swapSize/fsBlock-run-1)
		for i := range run {
			pages.fill(area[(start+i)*fsBlock:(start+i+1)*fsBlock], rnd)
		}
		used += run * fsBlock
	}
	return area
}
