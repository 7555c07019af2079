package mover

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// tape is bytes that are written once and may be read again: the notes of a writer, or the content of a blob. It
// stays in memory while it is short. Longer ones go to a temporary file, which has no name any more where the system
// allows that, so that nothing of it outlives the process.
type tape struct {
	dir string

	mu   sync.Mutex
	tail []byte // what is not in the file
	file *os.File
	name string // of the file, where it could not be removed at once
	size int64  // of the file
	err  error  // the first failure: from then on it holds nothing
}

// tapeTail is what a tape keeps in memory: the notes of 4,681 placements, 1.1 GiB of blocks of 256 KiB.
const tapeTail = 256 << 10

func newTape(dir string) *tape { return &tape{dir: dir} }

// add appends p.
func (t *tape) add(p []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil && len(t.tail)+len(p) > tapeTail {
		t.err = t.spill()
	}
	if t.err == nil {
		t.tail = append(t.tail, p...)
	}
	return t.err
}

// spill moves the tail to the file.
func (t *tape) spill() error {
	if t.file == nil {
		f, err := os.CreateTemp(t.dir, tapePattern)
		if err != nil {
			return err
		}
		t.file = f
		if err := os.Remove(f.Name()); err != nil { // an open file keeps its name on Windows
			t.name = f.Name()
			sweepTapes(t.dir)
		}
	}
	n, err := t.file.WriteAt(t.tail, t.size)
	t.size += int64(n)
	t.tail = t.tail[:0]
	return err
}

const tapePattern = "hikae-replay-*"

// sweepTapes removes what processes that were killed have left, on systems where open files keep their names. There a
// file that is in use cannot be removed.
func sweepTapes(dir string) {
	names, _ := filepath.Glob(filepath.Join(dir, tapePattern))
	for _, name := range names {
		_ = os.Remove(name)
	}
}

// reader reads everything that was added before.
func (t *tape) reader() (io.Reader, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return nil, t.err
	}
	if t.file == nil {
		return &tailReader{tail: append([]byte(nil), t.tail...)}, nil
	}
	if len(t.tail) > 0 {
		if t.err = t.spill(); t.err != nil {
			return nil, t.err
		}
	}
	return io.NewSectionReader(t.file, 0, t.size), nil
}

// tailReader reads a copy of what is in memory.
type tailReader struct{ tail []byte }

func (r *tailReader) Read(p []byte) (int, error) {
	if len(r.tail) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.tail)
	r.tail = r.tail[n:]
	return n, nil
}

var errTapeClosed = fmt.Errorf("the notes are closed: %w", os.ErrClosed)

func (t *tape) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tail = nil
	if t.err == nil {
		t.err = errTapeClosed
	}
	if t.file == nil {
		return
	}
	_ = t.file.Close()
	if t.name != "" {
		_ = os.Remove(t.name)
	}
	t.file = nil
}
