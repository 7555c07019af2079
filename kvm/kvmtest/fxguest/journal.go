//go:build linux

package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"time"
)

const statePath = "/run/journal.state"

// journal appends numbered records, each with a checksum, and syncs every fifth. What it has reached, and the longest
// pause that it saw, stand in statePath: while the file system is frozen, it waits.
func journal(path string) error {
	next, err := countRecords(path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	synced, pause, last := next, time.Duration(0), time.Now()
	for i := next + 1; ; i++ {
		if _, err := f.WriteString(record(i)); err != nil {
			return err
		}
		if i%5 == 0 {
			if err := f.Sync(); err != nil {
				return err
			}
			synced = i
		}
		now := time.Now()
		pause, last = max(pause, now.Sub(last)), now
		state := fmt.Sprintf("written %d synced %d pause %d\n", i, synced, pause.Milliseconds())
		if err := replaceFile(statePath, state); err != nil {
			return err
		}
		if _, err := os.Stat(statePath + ".reset"); err == nil {
			pause = 0
			os.Remove(statePath + ".reset")
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func replaceFile(path, text string) error {
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func record(i int64) string {
	head := fmt.Sprintf("%012d ", i)
	sum := sha256.Sum256([]byte(head))
	return fmt.Sprintf("%s%x\n", head, sum[:8])
}

// countRecords checks a journal: every record is there, whole and in order. A last one that is torn does not count, and
// is cut off.
func countRecords(path string) (int64, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	r := bufio.NewReader(f)
	for n := int64(0); ; n++ {
		line, err := r.ReadString('\n')
		if err == io.EOF {
			return n, f.Truncate(n * int64(len(record(1))))
		}
		if err != nil {
			return n, err
		}
		if line != record(n+1) {
			return n, fmt.Errorf("%s: record %d is %q", path, n+1, line)
		}
	}
}
