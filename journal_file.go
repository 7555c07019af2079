package hikae

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// FileJournal is a [Journal] in a folder: one small file for each effect, and one lock file for each session that has
// any. It survives a kill at any point, and a power cut as far as the file system keeps what it was told to sync.
//
//	<session>.lock         held by the session's process for as long as it lives, by a lock that dies with it
//	<session>.<n>.effect   one effect that was intended and is not yet undone: a checksum and JSON
//	<session>.<n>.tmp      one that was never whole; a sweep removes it
//
// A session is dead when its lock can be taken. No clock is asked, and no process id. The folder must be on a file
// system whose locks hold between all processes that use it; a local one does.
//
// All methods are safe for concurrent use.
type FileJournal struct {
	dir     string
	session string

	mu     sync.Mutex
	lock   *os.File // of the session, from its first effect on
	last   int      // number of the last effect
	open   int      // effects that are not undone
	closed bool
}

var _ Journal = (*FileJournal)(nil)

const (
	maxEffect  = 64 << 10 // bytes of one effect's file
	maxEffects = 10_000   // effects of one session that are not undone
	maxEntries = 1 << 20  // files of the folder that are looked at
)

// OpenFileJournal opens the journal in a folder, which is made where it is missing. Each open journal is one session.
func OpenFileJournal(dir string) (*FileJournal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return &FileJournal{dir: dir, session: strings.ToLower(rand.Text())}, nil
}

// Session is the id that this journal gives to its effects.
func (j *FileJournal) Session() string { return j.session }

// Intend implements [Journal]. It chooses the effect's ID and Session. On nil the effect is durable; after an error it
// may or may not be, and the caller must not act. done removes it durably; it may be called again after an error.
func (j *FileJournal) Intend(ctx context.Context, e Effect) (func(context.Context) error, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.ready(ctx); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	j.last++
	e.Session, e.ID = j.session, fmt.Sprintf("%s.%d", j.session, j.last)
	data, err := encodeEffect(e)
	if err != nil {
		return nil, fmt.Errorf("journal: %s: %w", e.Kind, err)
	}
	name := e.ID + ".effect"
	if err := writeDurable(j.dir, name, data); err != nil {
		return nil, fmt.Errorf("journal: %w", errors.Join(err, removeDurable(j.dir, name)))
	}
	j.open++
	undone := false
	return func(context.Context) error {
		j.mu.Lock()
		defer j.mu.Unlock()
		if undone {
			return nil
		}
		if err := removeDurable(j.dir, name); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		undone = true
		j.open--
		return nil
	}, nil
}

// ready makes the session known before its first effect.
func (j *FileJournal) ready(ctx context.Context) error {
	switch {
	case j.closed:
		return fs.ErrClosed
	case j.open >= maxEffects:
		return fmt.Errorf("%d effects of this session are not undone", j.open)
	case ctx.Err() != nil || j.lock != nil:
		return ctx.Err()
	}
	lock, err := newLockFile(filepath.Join(j.dir, j.session+".lock"))
	j.lock = lock
	return err
}

// newLockFile makes a session's lock file and locks it. In between a sweep may take it for a dead session's and remove
// it; so after locking, the name must still lead to it.
func newLockFile(path string) (*os.File, error) {
	for range 100 {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		free, err := tryLock(f)
		if err == nil && free && leadsTo(path, f) {
			return f, nil
		}
		f.Close()
		if err != nil {
			return nil, errors.Join(err, ignoreMissing(os.Remove(path)))
		}
		time.Sleep(time.Millisecond) // whoever sweeps holds it for a listing of the folder
	}
	return nil, &BusyError{What: path, Owner: "a sweep that does not end"}
}

func leadsTo(path string, f *os.File) bool {
	named, err := os.Stat(path)
	if err != nil {
		return false
	}
	open, err := f.Stat()
	return err == nil && os.SameFile(named, open)
}

// Close ends the session. Effects that are not undone stay, and are pending from now on.
func (j *FileJournal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	if j.lock == nil {
		return nil
	}
	var err error
	if j.open == 0 {
		err = ignoreMissing(removeOpen(j.lock, filepath.Join(j.dir, j.session+".lock")))
	} else {
		err = j.lock.Close()
	}
	j.lock = nil
	return err
}

// Pending yields the effects of dead sessions that are not undone: of each session the newest first, because that is
// the order to undo them in. A live session's effects are never among them, nor are this journal's own before Close.
// An effect that cannot be read is an error in its place; the others follow. While a session's effects are being
// yielded, no other process gets them.
func (j *FileJournal) Pending(ctx context.Context) iter.Seq2[Effect, error] {
	return func(yield func(Effect, error) bool) {
		sessions, err := j.sessions()
		if err != nil {
			yield(Effect{}, err)
			return
		}
		for _, session := range sessions {
			if err := ctx.Err(); err != nil {
				yield(Effect{}, err)
				return
			}
			if !j.pendingOf(session, yield) {
				return
			}
		}
	}
}

var journalName = regexp.MustCompile(`^([a-z2-7]{20,40})\.(?:lock|([1-9][0-9]{0,8})\.(effect|tmp))$`)

// sessions are those that have left anything in the folder.
func (j *FileJournal) sessions() ([]string, error) {
	names, err := listNames(j.dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range names {
		if m := journalName.FindStringSubmatch(name); m != nil {
			out = append(out, m[1])
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func listNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(maxEntries)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if len(names) == maxEntries {
		return nil, fmt.Errorf("journal: %s holds %d files or more", dir, maxEntries)
	}
	return names, nil
}

// pendingOf yields one session's effects if it is dead. What a dead session left empty goes.
func (j *FileJournal) pendingOf(session string, yield func(Effect, error) bool) (more bool) {
	lock, dead, err := j.takeOver(session)
	if err != nil {
		return yield(Effect{}, err)
	}
	if !dead {
		return true
	}
	if lock != nil {
		defer lock.Close()
	}
	numbers, err := j.effectsOf(session) // listed only now: before, the owner may have been at work
	if err != nil {
		return yield(Effect{}, err)
	}
	for _, n := range numbers {
		if !yield(j.read(fmt.Sprintf("%s.%d", session, n))) {
			return false
		}
	}
	if left, err := j.effectsOf(session); err == nil && len(left) == 0 && lock != nil {
		err = ignoreMissing(removeOpen(lock, filepath.Join(j.dir, session+".lock")))
		return err == nil || yield(Effect{}, fmt.Errorf("journal: %w", err))
	}
	return true
}

// takeOver takes a session's lock, if it is free. A session without a lock file is dead too: the file is made before
// the first effect and goes after the last.
func (j *FileJournal) takeOver(session string) (lock *os.File, dead bool, err error) {
	f, err := os.OpenFile(filepath.Join(j.dir, session+".lock"), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, session != j.session, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("journal: %w", err)
	}
	free, err := tryLock(f)
	if err != nil || !free {
		f.Close()
		if err != nil {
			err = fmt.Errorf("journal: %w", err)
		}
		return nil, false, err
	}
	return f, true, nil
}

// effectsOf are the numbers of a session's effects, newest first. Those that were never whole go.
func (j *FileJournal) effectsOf(session string) ([]int, error) {
	names, err := listNames(j.dir)
	if err != nil {
		return nil, err
	}
	var out []int
	for _, name := range names {
		m := journalName.FindStringSubmatch(name)
		switch {
		case m == nil || m[1] != session || m[2] == "":
		case m[3] == "tmp":
			os.Remove(filepath.Join(j.dir, name)) // one that stays does no harm
		default:
			n, _ := strconv.Atoi(m[2])
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b int) int { return cmp.Compare(b, a) })
	return out, nil
}

// BadEffectError says that the file of an effect cannot be understood. What it stood for is not known, so it is left
// alone until a person removes the file.
type BadEffectError struct {
	Path string
	Err  error
}

func (e *BadEffectError) Error() string { return fmt.Sprintf("journal: %s: %v", e.Path, e.Err) }
func (e *BadEffectError) Unwrap() error { return e.Err }

func (j *FileJournal) read(id string) (Effect, error) {
	path := filepath.Join(j.dir, id+".effect")
	e, err := readEffect(path)
	if err == nil && (e.ID != id || e.Session != strings.SplitN(id, ".", 2)[0]) {
		err = fmt.Errorf("it holds effect %q of session %q", e.ID, e.Session)
	}
	if err != nil {
		return Effect{}, &BadEffectError{Path: path, Err: err}
	}
	return e, nil
}

func readEffect(path string) (e Effect, err error) {
	f, err := os.Open(path)
	if err != nil {
		return e, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxEffect+1))
	if err != nil {
		return e, err
	}
	return decodeEffect(data)
}

// Sweep undoes what dead sessions left, as [FileJournal.SweepFor] does for a caller who knows all repositories that were
// ever used with this journal: keep are the change ids that points of any of them name.
func (j *FileJournal) Sweep(ctx context.Context, sweepers map[string]Sweeper, keep []ChangeID) (undone int, err error) {
	return j.sweepAll(ctx, func(Effect) bool { return true }, sweepers, keep)
}

// SweepFor undoes what dead sessions left, but for effects that only the points of another repository can judge: those
// stay until a sweep for theirs. Each effect goes to the sweeper whose key is the longest prefix of its kind; keep are the
// change ids that committed points of this repository name. It returns how many effects were undone, and everything that
// could not be, joined; what fails stays for the next time.
func (j *FileJournal) SweepFor(ctx context.Context, repository string, sweepers map[string]Sweeper, keep []ChangeID) (undone int, err error) {
	mine := func(e Effect) bool { return e.Repository == "" || e.Repository == repository }
	return j.sweepAll(ctx, mine, sweepers, keep)
}

func (j *FileJournal) sweepAll(ctx context.Context, mine func(Effect) bool, sweepers map[string]Sweeper, keep []ChangeID) (undone int, err error) {
	var errs []error
	for e, err := range j.Pending(ctx) {
		if err == nil && !mine(e) {
			continue
		}
		if err == nil {
			err = j.sweep(ctx, sweepers, e, keep)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		undone++
	}
	return undone, errors.Join(errs...)
}

func (j *FileJournal) sweep(ctx context.Context, sweepers map[string]Sweeper, e Effect, keep []ChangeID) error {
	s := SweeperFor(sweepers, e.Kind)
	if s == nil {
		return fmt.Errorf("journal: effect %s: nobody here undoes %q of VM %q", e.ID, e.Kind, e.VM)
	}
	if err := s.Undo(ctx, e, keep); err != nil {
		return fmt.Errorf("journal: effect %s: undo %s of VM %q: %w", e.ID, e.Kind, e.VM, err)
	}
	if err := removeDurable(j.dir, e.ID+".effect"); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// SweeperFor is the sweeper whose key is the longest prefix of an effect's kind; nil: there is none.
func SweeperFor(sweepers map[string]Sweeper, kind string) Sweeper {
	best, found := "", Sweeper(nil)
	for prefix, s := range sweepers {
		if strings.HasPrefix(kind, prefix) && (found == nil || len(prefix) > len(best)) {
			best, found = prefix, s
		}
	}
	return found
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encodeEffect is a checksum in hexadecimal, a space, the effect in JSON, a line feed.
func encodeEffect(e Effect) ([]byte, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	data := fmt.Appendf(nil, "%08x %s\n", crc32.Checksum(text, castagnoli), text)
	if len(data) > maxEffect {
		return nil, fmt.Errorf("its note of %d bytes is larger than %d", len(data), maxEffect)
	}
	return data, nil
}

func decodeEffect(data []byte) (e Effect, err error) {
	if len(data) > maxEffect || len(data) < 10 || data[8] != ' ' || data[len(data)-1] != '\n' {
		return e, fmt.Errorf("%d bytes that are no effect", len(data))
	}
	text := data[9 : len(data)-1]
	if string(data[:8]) != fmt.Sprintf("%08x", crc32.Checksum(text, castagnoli)) {
		return e, errors.New("its checksum is wrong")
	}
	if err := json.Unmarshal(text, &e); err != nil {
		return Effect{}, err
	}
	return e, nil
}

// writeDurable follows the rule that a name comes after its content: write beside, sync, rename, sync the folder.
func writeDurable(dir, name string, data []byte) error {
	temp := filepath.Join(dir, strings.TrimSuffix(name, ".effect")+".tmp")
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(temp, filepath.Join(dir, name))
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(temp)))
	}
	return syncFolder(dir)
}

// removeDurable: what is not there is no error.
func removeDurable(dir, name string) error {
	if err := ignoreMissing(os.Remove(filepath.Join(dir, name))); err != nil {
		return err
	}
	return syncFolder(dir)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
