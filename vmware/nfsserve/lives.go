package nfsserve

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
)

// lives counts how many files had a number before the one that has it now: systems give an inode's number to the next file, and
// a host that still holds a handle of the old one must not read that. It is a file of lines, NUMBER TIMES, of which the last
// counts, and is durable before a file goes.
type lives struct {
	path string

	mu    sync.Mutex
	times map[uint64]uint32
	lines int
}

const maxLines = 1 << 16 // then it is written anew

func openLives(path string) (*lives, error) {
	l := &lives{path: path, times: map[uint64]uint32{}}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var n uint64
		var times uint32
		if _, err := fmt.Sscanf(lines.Text(), "%d %d", &n, &times); err != nil {
			break // torn at the end: that file did not go
		}
		l.times[n] = max(l.times[n], times)
		l.lines++
	}
	return l, nil
}

func (l *lives) of(n uint64) uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.times[n]
}

// end is called before a file goes: its handles are stale from now on, whether it goes or not.
func (l *lives) end(n uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lines >= maxLines {
		if err := l.shorten(); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%d %d\n", n, l.times[n]+1)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	l.times[n]++
	l.lines++
	return nil
}

func (l *lives) shorten() error {
	temp := l.path + ".tmp"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	for n, times := range l.times {
		fmt.Fprintf(w, "%d %d\n", n, times)
	}
	err = w.Flush()
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	l.lines = len(l.times)
	return os.Rename(temp, l.path)
}
