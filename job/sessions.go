package job

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Kind says what a session did.
type Kind string

const (
	KindBackup  Kind = "backup"
	KindRestore Kind = "restore"
)

// Record is what is kept of one session.
type Record struct {
	Kind    Kind           `json:"kind"`
	Error   string         `json:"error,omitempty"` // empty: the session did what it was asked for
	Backup  *Result        `json:"backup,omitempty"`
	Restore *RestoreResult `json:"restore,omitempty"`
	Boot    *BootResult    `json:"boot,omitempty"`
}

// Session is the id of the recorded session.
func (r *Record) Session() string { session, _, _ := r.names(); return session }

// VM is its machine's name.
func (r *Record) VM() string { _, vm, _ := r.names(); return vm }

// Point is the restore point that it made or used; empty: none.
func (r *Record) Point() string { _, _, point := r.names(); return point }

func (r *Record) names() (session, vm, point string) {
	switch {
	case r.Backup != nil:
		return r.Backup.Session, r.Backup.VM, r.Backup.Point
	case r.Restore != nil:
		return r.Restore.Session, r.Restore.VM, r.Restore.Point
	case r.Boot != nil:
		return r.Boot.Session, r.Boot.VM, r.Boot.Point
	}
	return "", "", ""
}

// Sessions keeps the records of the newest sessions, one file each. Several processes may use one folder at once. The
// nil *Sessions keeps nothing.
//
// A session's id is a number that counts up and some random letters, such as 42-k7q2m9ax. The number alone orders
// them: a clock that was set back loses nothing.
type Sessions struct{ dir string }

const (
	maxSessions = 1000
	maxRecord   = 16 << 20 // bytes
)

// OpenSessions opens the store in a folder, which is made where it is missing.
func OpenSessions(dir string) (*Sessions, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("sessions: %w", err)
	}
	return &Sessions{dir: dir}, nil
}

var sessionName = regexp.MustCompile(`^([1-9][0-9]{0,17})-([a-z0-9]{8})$`)

// newID makes an id above all that are kept.
// NewID is the id of a session that begins now.
func (s *Sessions) NewID() string {
	random := strings.ToLower(rand.Text()[:8])
	if s == nil {
		return random
	}
	last := int64(0)
	if ids, err := s.ids(); err == nil && len(ids) > 0 {
		last = number(ids[0])
	}
	return fmt.Sprintf("%d-%s", last+1, random)
}

// number is what an id counts; 0 for one that counts too high to be ours, so that it shuts out no later one.
func number(id string) int64 {
	n, err := strconv.ParseInt(strings.SplitN(id, "-", 2)[0], 10, 64)
	if err != nil || n > maxNumber {
		return 0
	}
	return n
}

const maxNumber = 1e15

// ids are the kept sessions, newest first.
func (s *Sessions) ids() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("sessions: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), ".json"); ok && sessionName.MatchString(id) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b string) int {
		return cmp.Or(cmp.Compare(number(b), number(a)), cmp.Compare(b, a))
	})
	return ids, nil
}

// Save keeps a record under its session's id, whole or not at all, and lets the oldest go above a thousand. Sessions
// that were started without a store have no number and are given one.
func (s *Sessions) Save(r Record) error {
	if s == nil {
		return nil
	}
	id := r.Session()
	if !sessionName.MatchString(id) {
		return fmt.Errorf("session %q: %w", id, fs.ErrInvalid)
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("session %s: %w", id, err)
	}
	if len(data) > maxRecord {
		return fmt.Errorf("session %s: its record of %d bytes is larger than %d", id, len(data), maxRecord)
	}
	if err := writeAtomic(filepath.Join(s.dir, id+".json"), data); err != nil {
		return fmt.Errorf("session %s: %w", id, err)
	}
	return s.trim()
}

func (s *Sessions) trim() error {
	ids, err := s.ids()
	if err != nil || len(ids) <= maxSessions {
		return err
	}
	var errs []error
	for _, id := range ids[maxSessions:] {
		if err := os.Remove(filepath.Join(s.dir, id+".json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// writeAtomic makes data appear under path at once.
func writeAtomic(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Load finds a record by its id, its number, a unique prefix, "latest", or "latest~N" for the Nth before that. Errors
// wrap fs.ErrNotExist or ErrAmbiguous.
func (s *Sessions) Load(spec string) (Record, error) {
	if s == nil {
		return Record{}, fmt.Errorf("session %q: %w", spec, fs.ErrNotExist)
	}
	ids, err := s.ids()
	if err != nil {
		return Record{}, err
	}
	id, err := findSession(ids, spec)
	if err != nil {
		return Record{}, fmt.Errorf("session %q: %w", spec, err)
	}
	return s.read(id)
}

func findSession(ids []string, spec string) (string, error) {
	if back, ok := strings.CutPrefix(spec, "latest"); ok {
		return latestSession(ids, back)
	}
	for _, match := range []func(id string) bool{
		func(id string) bool { return id == spec || strings.HasPrefix(id, spec+"-") },
		func(id string) bool { return strings.HasPrefix(id, spec) },
	} {
		found := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return !match(id) })
		switch {
		case len(found) == 1:
			return found[0], nil
		case len(found) > 1:
			return "", ErrAmbiguous
		case spec == "":
			return "", fs.ErrNotExist
		}
	}
	return "", fs.ErrNotExist
}

func latestSession(ids []string, back string) (string, error) {
	n := 0
	if back != "" {
		var err error
		if n, err = strconv.Atoi(strings.TrimPrefix(back, "~")); err != nil || back[0] != '~' || n < 0 {
			return "", fs.ErrNotExist
		}
	}
	if n >= len(ids) {
		return "", fs.ErrNotExist
	}
	return ids[n], nil
}

func (s *Sessions) read(id string) (Record, error) {
	var r Record
	f, err := os.Open(filepath.Join(s.dir, id+".json"))
	if err != nil {
		return r, fmt.Errorf("session %s: %w", id, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err == nil && len(data) > maxRecord {
		err = fmt.Errorf("its record is larger than %d bytes", maxRecord)
	}
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err == nil && r.Session() != id {
		err = fmt.Errorf("its record is of session %q", r.Session())
	}
	if err != nil {
		return Record{}, fmt.Errorf("session %s: %w", id, err)
	}
	return r, nil
}

// List returns the kept records, newest first, at most max of them (zero: all) and only those that want accepts (nil:
// all). Records that cannot be read are left out and told in the error, which does not void the others.
func (s *Sessions) List(max int, want func(*Record) bool) ([]Record, error) {
	if s == nil {
		return nil, nil
	}
	ids, err := s.ids()
	if err != nil {
		return nil, err
	}
	var out []Record
	var errs []error
	for _, id := range ids {
		if max > 0 && len(out) == max {
			break
		}
		r, err := s.read(id)
		switch {
		case errors.Is(err, fs.ErrNotExist): // another process let it go
		case err != nil:
			errs = append(errs, err)
		case want == nil || want(&r):
			out = append(out, r)
		}
	}
	return out, errors.Join(errs...)
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
