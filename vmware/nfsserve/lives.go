package nfsserve

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
)

// lives counts how many files had a number before the one that has it now: systems give an inode's number to the next file, and
// a host that still holds a handle of the old one must not read that. It is a file of lines, NUMBER TIMES, of which the last
// counts, and is durable before another file can be made.
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
	whole := true
	for lines := bufio.NewReader(f); ; {
		line, err := lines.ReadString('\n')
		var n uint64
		var times uint32
		if err == io.EOF {
			whole = whole && line == "" // torn at the end: that file did not go
			break
		}
		if err != nil {
			return nil, err
		}
		if _, err := fmt.Sscanf(line, "%d %d\n", &n, &times); err != nil {
			whole = false
			continue
		}
		l.times[n] = max(l.times[n], times)
		l.lines++
	}
	if !whole { // nothing is appended to half a line
		return l, l.shorten()
	}
	return l, nil
}

func (l *lives) of(n uint64) uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.times[n]
}

// end makes the handles of a number stale, durably. It is called after its file has gone and before anybody can make another.
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
	var b []byte
	for n, times := range l.times {
		b = fmt.Appendf(b, "%d %d\n", n, times)
	}
	l.lines = len(l.times)
	return writeDurable(l.path, b)
}
