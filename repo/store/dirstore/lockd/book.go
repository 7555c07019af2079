package lockd

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/hikae/hikae/repo/store"
)

// book keeps until when each object is locked, and the newest time that was seen. It is a file of lines, each with a sum:
//
//	lock <unix seconds> <name> <crc>
//	free <name> <crc>
//	time <unix seconds> <boot id> <seconds since boot> <crc>
//
// Lines are appended; opening, and growing to twice what is needed, replaces the file.
type book struct {
	dir string

	mu    sync.Mutex
	dates map[string]int64
	last  stamp
	lines int
	wrote uint64 // lines that were appended since it was opened
	f     *os.File
	err   error // a failed write or sync: the book takes nothing more

	syncing sync.Mutex
	synced  uint64
}

// stamp is a time and where in which boot it was.
type stamp struct {
	at    int64 // seconds since 1970; 0: none
	boot  string
	since int64 // seconds
}

const (
	bookName = "dates"
	slack    = 10_000 // lines beyond what is needed before the book is written anew
)

// openBook reads the book of a folder and writes it anew. bad are lines that were damaged, but for a last one that was never
// finished.
func openBook(dir string) (b *book, bad int, err error) {
	b = &book{dir: dir, dates: map[string]int64{}}
	data, err := os.ReadFile(filepath.Join(dir, bookName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, 0, err
	}
	whole := data[:bytes.LastIndexByte(data, '\n')+1]
	for line := range strings.SplitSeq(string(whole), "\n") {
		if line != "" && !b.apply(line) {
			bad++
		}
	}
	if err := b.rewrite(); err != nil {
		return nil, bad, err
	}
	return b, bad, nil
}

var sums = crc32.MakeTable(crc32.Castagnoli)

func summed(line string) string {
	return fmt.Sprintf("%s %08x\n", line, crc32.Checksum([]byte(line), sums))
}

func (b *book) apply(line string) bool {
	at := strings.LastIndexByte(line, ' ')
	if at < 0 || summed(line[:at]) != line+"\n" {
		return false
	}
	words := strings.Split(line[:at], " ")
	switch {
	case words[0] == "lock" && len(words) == 3 && store.ValidName(words[2]):
		n, err := strconv.ParseInt(words[1], 10, 64)
		b.dates[words[2]] = max(n, b.dates[words[2]])
		return err == nil
	case words[0] == "free" && len(words) == 2:
		delete(b.dates, words[1])
		return true
	case words[0] == "time" && len(words) == 4:
		n, err := strconv.ParseInt(words[1], 10, 64)
		since, err2 := strconv.ParseInt(words[3], 10, 64)
		if err == nil && err2 == nil && n >= b.last.at {
			b.last = stamp{n, words[2], since}
		}
		return err == nil && err2 == nil
	}
	return false
}

// until is an object's date; 0: it has none.
func (b *book) until(name string) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dates[name]
}

func (b *book) size() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.dates)
}

// due are the objects whose date has passed; with all, every one.
func (b *book) due(now int64, all bool) (names []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, at := range b.dates {
		if all || at <= now {
			names = append(names, name)
		}
	}
	return names
}

func (b *book) lock(name string, until int64) error {
	return b.write(fmt.Sprintf("lock %d %s", until, name))
}
func (b *book) free(name string) error { return b.write("free " + name) }
func (b *book) seen(s stamp) error {
	return b.write(fmt.Sprintf("time %d %s %d", s.at, s.boot, s.since))
}

// write appends a line durably. Of many writers at once one syncs for all that wrote before it.
func (b *book) write(line string) error {
	text := summed(line)
	b.mu.Lock()
	if b.err == nil && b.lines > 2*len(b.dates)+slack {
		b.err = b.rewrite()
	}
	if b.err == nil {
		_, b.err = b.f.WriteString(text)
	}
	if b.err != nil {
		defer b.mu.Unlock()
		return b.err
	}
	b.apply(strings.TrimSuffix(text, "\n"))
	b.lines++
	b.wrote++
	mine := b.wrote
	b.mu.Unlock()
	return b.sync(mine)
}

func (b *book) sync(mine uint64) error {
	b.syncing.Lock()
	defer b.syncing.Unlock()
	if b.synced >= mine {
		return nil
	}
	b.mu.Lock()
	f, upTo, err := b.f, b.wrote, b.err
	b.mu.Unlock()
	if err == nil {
		err = f.Sync()
	}
	if errors.Is(err, fs.ErrClosed) { // it was written anew meanwhile, whole and synced
		b.mu.Lock()
		err = b.err
		b.mu.Unlock()
	}
	if err != nil {
		b.mu.Lock()
		b.err = err
		b.mu.Unlock()
		return err
	}
	b.synced = upTo
	return nil
}

// rewrite replaces the file by what is needed of it. The caller holds mu, or nobody else has the book yet.
func (b *book) rewrite() error {
	name := filepath.Join(b.dir, bookName)
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	b.lines = len(b.dates) + 1
	if b.last.at != 0 {
		_, _ = w.WriteString(summed(fmt.Sprintf("time %d %s %d", b.last.at, b.last.boot, b.last.since)))
	}
	for n, at := range b.dates {
		_, _ = w.WriteString(summed(fmt.Sprintf("lock %d %s", at, n)))
	}
	err = w.Flush() // has the first error of all
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err == nil {
		err = syncFolder(b.dir)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if b.f != nil {
		_ = b.f.Close()
	}
	b.f = f
	return nil
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (b *book) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = fs.ErrClosed
	}
	return b.f.Close()
}
