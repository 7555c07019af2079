//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// hookLog is when the agent began to freeze, and when it had thawed.
const hookLog = "hook"

func noteHook(word string) error {
	log, err := openLog(hookLog)
	if err != nil {
		return err
	}
	return log.add("%s %d\n", word, uptime())
}

const (
	meterPause = 3 * time.Millisecond
	meterNotes = 15_000 // microseconds
)

// meter asks again and again for the right to write in a file system, which is what a frozen one denies, without
// writing. Where the answer took long, its log says when the last one before it came, when it was asked for, and when it
// came.
func meter(name, dir string) error {
	log, err := openLog("meter." + name)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, ".meter")
	for before := uptime(); ; {
		time.Sleep(meterPause)
		asked := uptime()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644) // O_CREATE is what takes the right, also where it is there
		if err != nil {
			return err
		}
		got := uptime()
		f.Close()
		if got-asked > meterNotes {
			if err := log.add("%d %d %d\n", before, asked, got); err != nil {
				return err
			}
		}
		before = got
	}
}

// Moment is what a test is told about the last freeze. Times are microseconds of the guest's monotonic clock.
type moment struct {
	Frozen map[string]int64    `json:"frozen"` // by file system, how long a write had to wait
	Bounds map[string][2]int64 `json:"bounds"` // by ledger, the least and the greatest number of records
	Hook   [2]int64            `json:"hook"`
	pauses map[string][3]int64 // by file system, see meter
}

// homes are the file systems of the ledgers.
var homes = map[string]string{"journal": "root", "sqlite": "root", "xfsjournal": "data", "postgres": "data"}

// printMoment says of each ledger how many records a snapshot taken in the last freeze must hold: all that were
// acknowledged before anything was frozen, and none that was begun after the thaw.
func printMoment() error {
	m := moment{Frozen: map[string]int64{}, Bounds: map[string][2]int64{}, pauses: map[string][3]int64{}}
	if err := m.lastFreeze(); err != nil {
		return err
	}
	for _, name := range []string{"root", "data"} {
		if err := m.measure(name); err != nil {
			return err
		}
	}
	for name, home := range homes {
		records, err := numbers("writer." + name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		m.Bounds[name] = bounds(records, m.pauses[home])
	}
	return json.NewEncoder(os.Stdout).Encode(m)
}

// lastFreeze takes the last pair of notes of the agent's hook.
func (m *moment) lastFreeze() error {
	text, err := os.ReadFile(filepath.Join(logDir, hookLog))
	if err != nil {
		return err
	}
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		var word string
		var at int64
		if _, err := fmt.Sscan(line, &word, &at); err != nil {
			return fmt.Errorf("hook %q: %w", line, err)
		}
		switch {
		case word == "freeze":
			m.Hook = [2]int64{at, 0}
		case word == "thaw" && m.Hook[1] == 0:
			m.Hook[1] = at
		}
	}
	if m.Hook[0] == 0 || m.Hook[1] == 0 {
		return fmt.Errorf("no freeze with a thaw after it: %q", text)
	}
	return nil
}

// measure takes the longest wait in the freeze.
func (m *moment) measure(name string) error {
	waits, err := numbers("meter." + name)
	if err != nil {
		return err
	}
	for _, w := range waits {
		if w[2] < m.Hook[0] || w[1] > m.Hook[1] {
			continue
		}
		if took := w[2] - w[1]; took > m.Frozen[name] {
			m.Frozen[name], m.pauses[name] = took, [3]int64(w)
		}
	}
	if m.Frozen[name] == 0 {
		return fmt.Errorf("file system %s was not frozen between %d and %d", name, m.Hook[0], m.Hook[1])
	}
	return nil
}

// bounds of the records that were there while the file system was frozen.
func bounds(records [][]int64, pause [3]int64) (out [2]int64) {
	for _, r := range records {
		n, begun, acknowledged := r[0], r[1], r[2]
		if acknowledged < pause[0] {
			out[0] = max(out[0], n)
		}
		if begun < pause[2] {
			out[1] = max(out[1], n)
		}
	}
	return out
}

// printWritten says which record of a ledger was acknowledged last.
func printWritten(ledger string) error {
	records, err := numbers("writer." + ledger)
	if err != nil || len(records) == 0 {
		return errors.Join(err, fmt.Errorf("nothing was written in %s", ledger))
	}
	fmt.Println(records[len(records)-1][0])
	return nil
}

// numbers reads a log of three numbers a line. The line that is being written is left out.
func numbers(log string) (out [][]int64, err error) {
	f, err := os.Open(filepath.Join(logDir, log))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return out, nil
		}
		n := make([]int64, 3)
		if _, err := fmt.Sscan(line, &n[0], &n[1], &n[2]); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", log, line, err)
		}
		out = append(out, n)
	}
}

// resetLogs forgets what was before. The hook's log stays: the last freeze in it counts.
func resetLogs() error {
	logs, err := filepath.Glob(logDir + "/*.*")
	if err != nil {
		return err
	}
	for _, log := range logs {
		if err := os.Truncate(log, 0); err != nil {
			return err
		}
	}
	return nil
}
