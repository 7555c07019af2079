//go:build linux

package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// chained is one record of a ledger. Its sum is made of its number and of the sum before it, so that none can be missing,
// doubled or of another history without all later ones being wrong.
type chained struct {
	n   int64
	sum string // hex, empty before the first
}

func (c chained) next() chained {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s", c.n+1, c.sum))
	return chained{c.n + 1, hex.EncodeToString(sum[:])}
}

// ledger keeps chained records in some store. What append has returned from is durable.
type ledger interface {
	// check reads all of it, and returns its last record.
	check() (chained, error)
	append(c chained) error
	close() error
}

func openLedger(name string) (ledger, error) {
	switch name {
	case "journal":
		return openChainFile(rootJournal)
	case "xfsjournal":
		return openChainFile(dataJournal)
	case "sqlite":
		return openSQL(sqliteClient(), sqliteSetup, sqliteCheck)
	case "postgres":
		return openSQL(postgresClient(), postgresSetup, postgresCheck)
	}
	return nil, fmt.Errorf("no ledger %q", name)
}

// writePause is between records of one writer.
const writePause = 20 * time.Millisecond

// write appends to a ledger for ever. When each record was begun and acknowledged, by the guest's clock, stands in the
// writer's log.
func write(name string) error {
	l, err := openLedger(name)
	if err != nil {
		return err
	}
	defer l.close()
	log, err := openLog("writer." + name)
	if err != nil {
		return err
	}
	c, err := l.check()
	if err != nil {
		return err
	}
	for {
		c = c.next()
		begun := uptime()
		if err := l.append(c); err != nil {
			return fmt.Errorf("%s: record %d: %w", name, c.n, err)
		}
		if err := log.add("%d %d %d\n", c.n, begun, uptime()); err != nil {
			return err
		}
		time.Sleep(writePause)
	}
}

// uptime is the guest's monotonic clock, in microseconds.
func uptime() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err) // there is no machine without this clock
	}
	return t.Nano() / 1000
}

// eventLog is a file in memory, which a frozen guest can write to. When it is long it begins anew.
type eventLog struct {
	f    *os.File
	size int64
}

const maxLog = 16 << 20

func openLog(name string) (*eventLog, error) {
	f, err := os.OpenFile(logDir+"/"+name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	return &eventLog{f: f}, err
}

func (l *eventLog) add(format string, args ...any) error {
	if l.size > maxLog {
		if err := l.f.Truncate(0); err != nil {
			return err
		}
		l.size = 0
	}
	n, err := fmt.Fprintf(l.f, format, args...)
	l.size += int64(n)
	return err
}

// chainFile is a ledger of lines in a file, of one length; each is synced.
type chainFile struct{ f *os.File }

func openChainFile(path string) (*chainFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	return &chainFile{f}, err
}

func chainLine(c chained) string { return fmt.Sprintf("%012d %s\n", c.n, c.sum) }

// check cuts off a last line that is torn.
func (l *chainFile) check() (last chained, err error) {
	if _, err := l.f.Seek(0, io.SeekStart); err != nil {
		return last, err
	}
	r := bufio.NewReader(l.f)
	for size := int64(0); ; {
		line, err := r.ReadString('\n')
		if err == io.EOF {
			if err := l.f.Truncate(size); err != nil {
				return last, err
			}
			_, err := l.f.Seek(size, io.SeekStart)
			return last, err
		}
		if err != nil {
			return last, err
		}
		next := last.next()
		if line != chainLine(next) {
			return last, fmt.Errorf("%s: record %d is %q", l.f.Name(), next.n, strings.TrimSpace(line))
		}
		last, size = next, size+int64(len(line))
	}
}

func (l *chainFile) append(c chained) error {
	if _, err := l.f.WriteString(chainLine(c)); err != nil {
		return err
	}
	return l.f.Sync()
}

func (l *chainFile) close() error { return l.f.Close() }
