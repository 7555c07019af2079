package engine

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Progress is a file that says what of a run is done, a line for each task, durable before anybody is told. A line that was torn by a kill or a
// power cut is none: its task is done again, and finds its point by [RunFact].
type Progress struct {
	path string
	run  string

	mu   sync.Mutex
	file *os.File
	good int64 // bytes that are whole
	done map[string]TaskResult
}

const maxProgress = 256 << 20 // bytes

// progressLine is a line: the first names the run, the others a task's end.
type progressLine struct {
	Run  string      `json:"run,omitempty"`
	Task *TaskResult `json:"task,omitempty"`
}

// OpenProgress opens the progress of a run, which goes on where it was; a file that is not there begins a new run.
func OpenProgress(path string) (*Progress, error) {
	p := &Progress{path: path, done: map[string]TaskResult{}}
	if err := p.open(); err != nil {
		return nil, fmt.Errorf("progress %s: %w", path, err)
	}
	return p, nil
}

func (p *Progress) open() (err error) {
	if p.file, err = os.OpenFile(p.path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	err = p.read()
	if err == nil && p.run == "" {
		p.run = strings.ToLower(rand.Text()[:12])
		if err = p.write(progressLine{Run: p.run}); err == nil {
			err = syncDir(filepath.Dir(p.path))
		}
	}
	if err != nil {
		err = errors.Join(err, p.file.Close())
	}
	return err
}

// read takes what is whole.
func (p *Progress) read() error {
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() > maxProgress {
		return fmt.Errorf("it has more than %d bytes: %w", maxProgress, fs.ErrInvalid)
	}
	in := bufio.NewReader(p.file)
	for {
		text, err := in.ReadBytes('\n')
		var line progressLine
		if err != nil || json.Unmarshal(text, &line) != nil {
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
}

// Run is the name of the run.
func (p *Progress) Run() string { return p.run }

// Close ends it. The file stays for as long as the run is to be gone on with.
func (p *Progress) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.file.Close()
}

// Remove ends it, and removes the file: the run is over.
func (p *Progress) Remove() error { return errors.Join(p.Close(), os.Remove(p.path)) }

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
