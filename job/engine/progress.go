package engine

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/hikae/hikae"
)

// Progress is a file that says what of a run is done, a line for each task, durable before anybody is told. A line that was torn by a kill or a
// power cut is none: its task is done again, and finds its point by [RunFact]. One process has it at a time, by a lock that ends with it.
type Progress struct {
	path  string
	run   string
	claim hikae.Claim

	mu   sync.Mutex
	file *os.File
	good int64 // bytes that are whole
	done map[string]TaskResult
}

const (
	maxProgress = 256 << 20 // bytes
	maxLine     = 4 << 20   // of them, in one line
)

// progressLine is a line: the first names the run, the others a task's end.
type progressLine struct {
	Run  string      `json:"run,omitempty"`
	Task *TaskResult `json:"task,omitempty"`
}

// OpenProgress opens the progress of a run, which goes on where it was; a file that is not there begins a new run. One that somebody has open
// is a [*hikae.BusyError], which says who.
func OpenProgress(path string) (*Progress, error) {
	p := &Progress{path: path, done: map[string]TaskResult{}}
	if err := p.open(); err != nil {
		return nil, fmt.Errorf("progress %s: %w", path, err)
	}
	return p, nil
}

func (p *Progress) open() (err error) {
	if err = p.take(); err != nil {
		return err
	}
	if p.file, err = os.OpenFile(p.path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return errors.Join(err, p.release())
	}
	err = p.read()
	if err == nil && p.run == "" {
		p.run = strings.ToLower(rand.Text()[:12])
		if err = p.write(progressLine{Run: p.run}); err == nil {
			err = syncDir(filepath.Dir(p.path))
		}
	}
	if err != nil {
		err = errors.Join(err, p.file.Close(), p.release())
	}
	return err
}

// take keeps others out: two runs would write their lines over each other's. The lock is a file beside it, as this one is removed in the end.
func (p *Progress) take() error {
	path, err := filepath.Abs(p.path)
	if err != nil {
		return err
	}
	claims, err := hikae.OpenFileClaims(filepath.Dir(path))
	if err != nil {
		return err
	}
	p.claim, err = claims.Claim(context.Background(), "the run of "+filepath.Base(path), "another run")
	return err
}

func (p *Progress) release() error { return p.claim.Release(context.Background()) }

// read takes what is whole.
func (p *Progress) read() error {
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() > maxProgress {
		return fmt.Errorf("it has more than %d bytes: %w", maxProgress, fs.ErrInvalid)
	}
	in := bufio.NewScanner(p.file)
	in.Buffer(make([]byte, 0, 64<<10), maxLine)
	in.Split(wholeLines)
	for in.Scan() {
		text := in.Bytes()
		var line progressLine
		if json.Unmarshal(text, &line) != nil {
			return nil // torn
		}
		switch {
		case line.Run != "" && p.run == "":
			p.run = line.Run
		case line.Task != nil && p.run != "":
			p.done[line.Task.ID] = *line.Task
		default:
			return fmt.Errorf("it is no progress of a run: %w", fs.ErrInvalid)
		}
		p.good += int64(len(text))
	}
	if errors.Is(in.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("a line has more than %d bytes: %w", maxLine, fs.ErrInvalid)
	}
	return in.Err()
}

// wholeLines are those that end, each with its end. What comes behind is torn.
func wholeLines(data []byte, _ bool) (advance int, token []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i+1], nil
	}
	return 0, nil, nil
}

// Run is the name of the run.
func (p *Progress) Run() string { return p.run }

// Close ends it. The file stays for as long as the run is to be gone on with.
func (p *Progress) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.file.Close(), p.release())
}

// Remove ends it, and removes the file: the run is over.
func (p *Progress) Remove() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.file.Close(), os.Remove(p.path), p.release()) // whoever is next finds no file of ours
}

// earlier is what became of a task before.
func (p *Progress) earlier(id string) (TaskResult, bool) {
	if p == nil {
		return TaskResult{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok := p.done[id]
	return r, ok
}

// add makes durable that a task is done.
func (p *Progress) add(r TaskResult) error {
	if p == nil || r.State != Done && r.State != Warned {
		return nil // what failed or was cancelled is done again
	}
	r.Record = nil // the session's own record is kept elsewhere
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done[r.ID] = r
	return p.write(progressLine{Task: &r})
}

// write puts a line behind what is whole, over what a line that failed has left.
func (p *Progress) write(l progressLine) error {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(l); err != nil {
		return err
	}
	if b.Len() > maxLine-1 || p.good+int64(b.Len()) > maxProgress {
		return fmt.Errorf("a line of %d bytes behind %d, at most %d in all and %d of one: %w", b.Len(), p.good, maxProgress, maxLine, fs.ErrInvalid)
	}
	if err := p.file.Truncate(p.good); err != nil {
		return err
	}
	if _, err := p.file.WriteAt(b.Bytes(), p.good); err != nil {
		return err
	}
	if err := p.file.Sync(); err != nil {
		return err
	}
	p.good += int64(b.Len())
	return nil
}
