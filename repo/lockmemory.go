package repo

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hikae/hikae/repo/store"
)

// A lock that was read back holds until its date, and nobody can make it shorter: to ask again with every commit about every
// record of the log, in three places, is dear where each answer is a request to a cloud. So a client remembers what it has
// read back and for how long it holds, and asks for the rest. Of what it remembers it asks about a few all the same: where one does
// not hold, it forgets all (somebody with more rights than a lock withstands has been there, or it is another place).
//
// Records of the log are locked for longer than asked, so that not all have to be extended each day; and with each commit
// some are extended before they have to be, so that none meets all of them at once.

const (
	lockAhead   = 4   // records are kept a quarter longer than asked
	lockEarly   = 96  // objects that a commit extends before it has to
	lockSample  = 6   // remembered locks that a commit asks about
	maxLockBook = 1e6 // remembered at most
)

// lockMemory is what a client knows of locks. The zero value knows nothing.
type lockMemory struct {
	mu    sync.Mutex
	file  string // where it is kept; empty: only while the repository is open
	place string // where the store is
	until map[string]int64
}

// lockBook is the file.
type lockBook struct {
	Place string           `json:"place"`
	Until map[string]int64 `json:"until"` // object to seconds since 1970
}

// open takes up what an earlier session knew of the same place.
func (m *lockMemory) open(dir string, st store.Store) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.until != nil {
		return
	}
	m.until = map[string]int64{}
	placed, ok := store.As[store.Placed](st)
	if dir == "" || !ok || placed.Place() == "" {
		return
	}
	m.file, m.place = filepath.Join(dir, "locks"), placed.Place()
	var book lockBook
	b, err := os.ReadFile(m.file)
	if err == nil && json.Unmarshal(b, &book) == nil && book.Place == m.place && len(book.Until) <= maxLockBook && book.Until != nil {
		m.until = book.Until
	}
}

// split tells the objects that have to be locked, and those of the others whose locks end first, before early.
func (m *lockMemory) split(names []string, until, early time.Time) (due, soon []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range names {
		switch at := m.until[name]; {
		case at < ceil(until):
			due = append(due, name)
		case at < ceil(early):
			soon = append(soon, name)
		}
	}
	slices.SortFunc(soon, func(a, b string) int { return cmp.Or(cmp.Compare(m.until[a], m.until[b]), cmp.Compare(a, b)) })
	return due, soon[:min(len(soon), max(0, lockEarly-len(due)))]
}

func ceil(t time.Time) int64 {
	if t.Nanosecond() > 0 {
		return t.Unix() + 1
	}
	return t.Unix()
}

func (m *lockMemory) note(names []string, until time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range names {
		m.until[name] = max(m.until[name], ceil(until))
	}
}

// sample asks whether some of what is remembered of these objects is so.
func (m *lockMemory) sample(ctx context.Context, l store.Locker, names []string) error {
	m.mu.Lock()
	var known []string
	for _, name := range names {
		if m.until[name] > 0 {
			known = append(known, name)
		}
	}
	m.mu.Unlock()
	for range min(lockSample, len(known)) {
		name := known[rand.IntN(len(known))]
		at, err := l.Locked(ctx, name)
		if err != nil {
			return err
		}
		m.mu.Lock()
		if at.Unix() < m.until[name] {
			clear(m.until)
		}
		m.mu.Unlock()
	}
	return nil
}

// keep saves what is known of locks that have not ended. What cannot be saved costs requests.
func (m *lockMemory) keep(now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, at := range m.until {
		if at <= now.Unix() {
			delete(m.until, name)
		}
	}
	if m.file == "" || len(m.until) > maxLockBook {
		return nil
	}
	b, err := json.Marshal(lockBook{m.place, m.until})
	if err == nil {
		err = writeFile(m.file, b)
	}
	return err
}

// lockAll locks objects of which it is not remembered that they are. With ahead the store may keep them longer.
func (r *Repository) lockAll(ctx context.Context, l store.Locker, names []string, until time.Time, ahead time.Duration) error {
	r.locks.open(r.client.dir, r.st)
	if err := r.locks.sample(ctx, l, names); err != nil {
		return err
	}
	far := until.Add(ahead)
	due, soon := r.locks.split(names, until, until.Add(ahead/2))
	batch := slices.Concat(due, soon)
	err := store.LockAll(ctx, l, batch, far)
	if err != nil && ahead > 0 && ctx.Err() == nil { // it may not allow so long
		batch, far = due, until
		err = store.LockAll(ctx, l, batch, far)
	}
	if err != nil {
		return err
	}
	r.locks.note(batch, far)
	if err := r.locks.keep(until.Add(-r.opts.LockFor)); err != nil {
		r.warn(fmt.Sprintf("what is locked could not be remembered, and is asked for again next time: %v", err))
	}
	return nil
}
