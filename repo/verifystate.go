package repo

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// VerifyState keeps a small document between runs of a verification: how far one came before it was cut off, and whose turn
// it is in a rotation. What is lost with it is time. Load answers fs.ErrNotExist where nothing was saved. Save replaces
// what was there at once or not at all.
type VerifyState interface {
	Load(ctx context.Context) ([]byte, error)
	Save(ctx context.Context, doc []byte) error
}

// Rotation spreads the reading of all data over days. A run reads what came since the last one, and of the older packs as
// many as the days that went by ask for: run it every day, and new points are read within a day, and everything within
// Days. Whoever leaves days out finds the next run longer. It needs a State, or a StateDir.
type Rotation struct {
	Days int // zero: 30
}

const (
	defaultRotation = 30
	maxRotation     = 10_000
	maxStateFile    = 256 << 20 // the packs of some 200 TB
	maxResume       = 30 * 24 * time.Hour
)

// runState is what a verification keeps while it runs.
type runState struct {
	keeper VerifyState // nil: nothing is kept

	mu      sync.Mutex
	doc     stateDocument
	due     map[int]bool    // slots of the rotation that this run reads
	newer   uint64          // packs of leases above this one are new since the last rotation
	pending map[packRef]int // assembled blocks that were not looked at yet
	unsaved int64

	proven map[packRef]bool // for the next round of a repair; nil where there is none
}

// stateDocument is what is kept.
type stateDocument struct {
	Format   int           `json:"format"` // 1
	Repo     id16          `json:"repo"`
	Run      *runDocument  `json:"run,omitempty"` // one that did not end
	Rotation rotationState `json:"rotation"`
}

// runDocument is a run that did not end.
type runDocument struct {
	Percent float64   `json:"percent"`
	Seed    uint64    `json:"seed"`
	Days    int       `json:"days"`
	Due     int       `json:"due"`
	Begun   time.Time `json:"begun"`
	Head    uint64    `json:"head"` // of the log when it began
	Done    []byte    `json:"done"` // packs that were found whole
}

// rotationState says where a rotation stands.
type rotationState struct {
	Days int    `json:"days"`
	Next int    `json:"next"` // slot
	Day  int64  `json:"day"`  // of the last run that ended, counted from 1970
	Head uint64 `json:"head"` // of the log when it began
}

// loadState takes up what was kept. What cannot be used is told, and the run starts anew.
func (v *verification) loadState(ctx context.Context) error {
	o, s := &v.opts, &v.state
	if !o.Resume && o.Rotation == nil {
		return nil
	}
	s.keeper = o.State
	if s.keeper == nil && v.r.client.dir != "" {
		s.keeper = stateFile(filepath.Join(v.r.client.dir, "verify"))
	}
	if s.keeper == nil {
		return fmt.Errorf("neither a State nor a StateDir to keep what was read: %w", fs.ErrInvalid)
	}
	b, err := s.keeper.Load(ctx)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the state of the last run: %w", err)
	}
	if err == nil && (decodeJSON(b, &s.doc) != nil || s.doc.Format != 1 || s.doc.Repo != v.r.header.ID) {
		v.note("the state of the last run cannot be used: this one starts anew")
		s.doc = stateDocument{}
	}
	s.doc.Format, s.doc.Repo = 1, v.r.header.ID
	v.rotate()
	v.resume()
	return nil
}

// rotate says what part of a rotation is due.
func (v *verification) rotate() {
	s := &v.state
	if v.opts.Rotation == nil {
		return
	}
	days := min(or(v.opts.Rotation.Days, defaultRotation), maxRotation)
	rot := &s.doc.Rotation
	due := days // the first run reads all
	if rot.Days == days && rot.Day > 0 && rot.Next >= 0 {
		due = int(min(today()-rot.Day, int64(days)))
		if due < 0 { // a clock was wrong, then or now: waiting until that day comes could take years
			due = 1
		}
	} else {
		*rot = rotationState{Days: days}
	}
	if run := s.doc.Run; run != nil && run.Days == days {
		due = max(due, run.Due)
	}
	s.due, s.newer = map[int]bool{}, rot.Head
	for i := range due {
		s.due[(rot.Next+i)%days] = true
	}
}

func today() int64 { return time.Now().Unix() / (24 * 60 * 60) }

// resume takes up a run with the same options, or begins one.
func (v *verification) resume() {
	s, o := &v.state, &v.opts
	days := 0
	if o.Rotation != nil {
		days = s.doc.Rotation.Days
	}
	run := s.doc.Run
	same := run != nil && run.Percent == o.DataPercent && run.Days == days && (o.Seed == 0 || o.Seed == run.Seed) && len(run.Done)%len(packKey{}) == 0
	if !same || !o.Resume && o.Rotation == nil || time.Since(run.Begun).Abs() > maxResume {
		n, _ := v.r.log.head()
		s.doc.Run = &runDocument{Percent: o.DataPercent, Seed: o.Seed, Days: days, Due: len(s.due), Begun: time.Now().UTC(), Head: n}
		return
	}
	run.Due = len(s.due)
	o.Seed = run.Seed
	v.proven = map[packRef]bool{}
	for i := 0; i < len(run.Done); i += len(packKey{}) {
		v.proven[packKey(run.Done[i:]).ref()] = true
	}
}

// packKey is a pack's name in the state: kind (1), lease (8), id (16).
type packKey [25]byte

func keyOf(p packRef) (k packKey) {
	k[0] = p.Kind
	binary.LittleEndian.PutUint64(k[1:], p.Lease)
	copy(k[9:], p.ID[:])
	return k
}

func (k packKey) ref() packRef {
	return packRef{objectRef{binary.LittleEndian.Uint64(k[1:]), [16]byte(k[9:])}, k[0]}
}

// resumed counts a pack that an earlier run had proven.
func (v *verification) resumed(size int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.rep.Checked.Resumed += size
}

// wholly reports whether all of a pack is to be read.
func (v *verification) wholly(p packRef) bool {
	switch {
	case v.proven[p]:
		return false
	case v.opts.Rotation != nil:
		slot := binary.LittleEndian.Uint64(p.ID[:]) % uint64(v.state.doc.Rotation.Days)
		return v.state.due[int(slot)] || p.Lease > v.state.newer
	}
	return v.opts.DataPercent == 100
}

func (s *runState) kept() bool { return s.keeper != nil || s.proven != nil }

// wait notes that a pack is not done before an assembled block was looked at. The caller holds the verification's lock.
func (s *runState) wait(p packRef) {
	if !s.kept() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending == nil {
		s.pending = map[packRef]int{}
	}
	s.pending[p]++
}

// sound notes that a pack was read as far as was asked for. What is damaged is read again by the next run.
func (v *verification) sound(ctx context.Context, p packRef) error {
	v.mu.Lock()
	hurt := v.hurt[p] || v.unread[p.name()]
	v.mu.Unlock()
	if !v.state.kept() || hurt || v.proven[p] {
		return nil
	}
	if v.opts.Rotation != nil && !v.wholly(p) {
		return nil // only its table was looked at: by the time this run goes on it may be due
	}
	return v.state.done(ctx, p, v.sizes[p], v.total.Load())
}

// recipeSound notes that one more of a pack's assembled blocks is right.
func (v *verification) recipeSound(ctx context.Context, p packRef) error {
	s := &v.state
	if !s.kept() {
		return nil
	}
	s.mu.Lock()
	s.pending[p]--
	last := s.pending[p] == 0
	s.mu.Unlock()
	if !last {
		return nil
	}
	return v.sound(ctx, p)
}

// done adds a pack, and saves the state after each half percent of the store, so that a run that is killed is not far
// behind.
func (s *runState) done(ctx context.Context, p packRef, size, total int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending[p] > 0 {
		return nil
	}
	if s.keeper == nil {
		s.proven[p] = true
		return nil
	}
	k := keyOf(p)
	s.doc.Run.Done = append(s.doc.Run.Done, k[:]...)
	if s.unsaved += size; s.unsaved < total/200 {
		return nil
	}
	s.unsaved = 0
	return s.save(ctx)
}

func (s *runState) save(ctx context.Context) error {
	b, err := json.Marshal(&s.doc)
	if err == nil {
		err = s.keeper.Save(ctx, b)
	}
	if err != nil {
		return fmt.Errorf("the state of this run: %w", err)
	}
	return nil
}

// finishState keeps what the next run needs to know.
func (v *verification) finishState(ctx context.Context, failure error) error {
	s := &v.state
	if s.keeper == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endDeadline)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if failure == nil {
		if rot := &s.doc.Rotation; v.opts.Rotation != nil {
			*rot = rotationState{Days: rot.Days, Next: (rot.Next + len(s.due)) % rot.Days, Day: today(), Head: s.doc.Run.Head}
		}
		s.doc.Run = nil
	}
	return s.save(ctx)
}

// stateFile keeps the state in a file.
type stateFile string

func (f stateFile) Load(context.Context) ([]byte, error) {
	info, err := os.Stat(string(f))
	if err != nil {
		return nil, err
	}
	if info.Size() > maxStateFile {
		return nil, nil // not one of ours
	}
	return os.ReadFile(string(f))
}

func (f stateFile) Save(_ context.Context, doc []byte) error { return writeFile(string(f), doc) }

// pace keeps reads below a rate. It is safe for concurrent use.
type pace struct {
	rate int64 // bytes a second; zero: no limit

	mu   sync.Mutex
	next time.Time
}

// wait waits until n more bytes may be read.
func (p *pace) wait(ctx context.Context, n int64) error {
	if p.rate == 0 {
		return nil
	}
	p.mu.Lock()
	now := time.Now()
	at := p.next
	if at.Before(now) {
		at = now
	}
	p.next = at.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	p.mu.Unlock()
	return wait(ctx, at.Sub(now))
}
