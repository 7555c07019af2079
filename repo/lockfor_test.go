package repo_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/retention"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

// keeping is a store in memory that keeps what is locked, with a clock of its own.
type keeping struct {
	*memstore.Store
	mu    sync.Mutex
	now   time.Time
	until map[string]time.Time
	fail  string // prefix of names that cannot be locked
}

func newKeeping() *keeping {
	return &keeping{Store: memstore.New(nil), now: time.Unix(1_900_000_000, 0), until: map[string]time.Time{}}
}

func (k *keeping) CanLock(context.Context) (bool, error) { return true, nil }

func (k *keeping) Now(context.Context) (time.Time, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now, nil
}

func (k *keeping) Lock(ctx context.Context, name string, until time.Time) error {
	if _, err := k.Stat(ctx, name); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail != "" && strings.HasPrefix(name, k.fail) {
		return errors.New("no lock for " + name)
	}
	if until.After(k.until[name]) {
		k.until[name] = until
	}
	return nil
}

func (k *keeping) Locked(_ context.Context, name string) (time.Time, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.until[name].After(k.now) {
		return time.Time{}, nil
	}
	return k.until[name], nil
}

func (k *keeping) Remove(ctx context.Context, name string) error {
	if at, _ := k.Locked(ctx, name); !at.IsZero() {
		return &fs.PathError{Op: "remove", Path: name, Err: store.ErrLocked}
	}
	return k.Store.Remove(ctx, name)
}

func (k *keeping) pass(d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now = k.now.Add(d)
}

// lockedBytes are those of objects that cannot go now, without the log.
func (k *keeping) lockedBytes(t *testing.T) (bytes int64, objects int) {
	for info, err := range k.List(t.Context(), "") {
		require.NoError(t, err)
		at, err := k.Locked(t.Context(), info.Name)
		require.NoError(t, err)
		if !at.IsZero() && !strings.Contains(info.Name, "log/") {
			bytes, objects = bytes+info.Size, objects+1
		}
	}
	return bytes, objects
}

const lockDay = 24 * time.Hour

func lockingRepository(t *testing.T, st *keeping, d time.Duration) *repo.Repository {
	opts := openOptions(t)
	opts.LockFor = d
	r, err := repo.Init(t.Context(), st, testKey, nil, opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// H12: when Commit returns, everything that the point is restored from is locked, also what an older point brought; whoever
// then removes all that can be removed leaves a repository from which it is restored.
func TestLockFor(t *testing.T) {
	st := newKeeping()
	r := lockingRepository(t, st, 3*lockDay)
	mustBackup(t, r, "web1", disk(1), nil)
	st.pass(2 * lockDay)
	id := mustBackup(t, r, "web1", disk(1), nil) // the same content: nothing but references
	st.pass(2 * lockDay)                         // the first point's time has passed, the second's has not
	for info, err := range st.List(t.Context(), "") {
		require.NoError(t, err)
		_ = st.Remove(t.Context(), info.Name)
	}
	again, err := repo.Open(t.Context(), st, testKey, openOptions(t))
	require.NoError(t, err)
	defer again.Close()
	require.NoError(t, same(t.Context(), again, id, disk(1)))
}

// A store without locks, a failed lock: no success; and what could not be locked is no point where the log was not reached.
func TestLockForFails(t *testing.T) {
	opts := openOptions(t)
	opts.LockFor = lockDay
	bare, err := repo.Init(t.Context(), memstore.New(nil), testKey, nil, opts)
	require.NoError(t, err)
	defer bare.Close()
	_, err = backup(t.Context(), bare, "web1", disk(1), nil)
	require.ErrorIs(t, err, errors.ErrUnsupported)

	for _, prefix := range []string{"data/", "manifest/", "copy2/manifest/", "header", "slot/"} {
		st := newKeeping()
		r := lockingRepository(t, st, lockDay)
		st.fail = prefix
		_, err := backup(t.Context(), r, "web1", disk(1), nil)
		require.ErrorContains(t, err, "no lock for "+prefix)
		for p, err := range r.Points(t.Context(), "") {
			require.NoError(t, err)
			t.Errorf("%s: point %s is there", prefix, p.ID)
		}
	}

	st := newKeeping()
	r := lockingRepository(t, st, lockDay)
	st.fail = "copy1/log/"
	id, err := backup(t.Context(), r, "web1", disk(1), nil)
	var not *repo.ErrNotLocked
	require.ErrorAs(t, err, &not)
	require.Equal(t, id, not.Point)
	require.NoError(t, same(t.Context(), r, id, disk(1)))
	st.fail = ""
	_, err = r.LockPoint(t.Context(), id, not.Until)
	require.NoError(t, err)
}

// A locked point may be forgotten: prune says what it may not remove yet, goes on with the rest, and removes it once its time
// has come. Until then who puts aside the log's records from the forgetting on has the point back.
func TestForgetLocked(t *testing.T) {
	st := newKeeping()
	r := lockingRepository(t, st, 3*lockDay)
	id := mustBackup(t, r, "web1", disk(1), nil)
	st.pass(4 * lockDay)
	other := mustBackup(t, r, "db1", disk(2), nil)
	before := map[string]bool{}
	for info, err := range st.List(t.Context(), "") {
		require.NoError(t, err)
		before[info.Name] = true
	}
	require.NoError(t, r.Forget(t.Context(), []string{id, other}, "test"))
	rep, err := r.Prune(t.Context(), nil)
	require.NoError(t, err)
	assert.NotEmpty(t, rep.Locked)
	assert.Positive(t, rep.Deleted, "the first point's time has come")
	for _, name := range rep.Locked {
		at, err := st.Locked(t.Context(), name)
		require.NoError(t, err)
		assert.False(t, at.IsZero(), name)
	}

	past := memstore.New(nil)
	for info, err := range st.List(t.Context(), "") {
		require.NoError(t, err)
		if strings.Contains(info.Name, "log/") && !before[info.Name] {
			continue
		}
		data, err := store.ReadAll(t.Context(), st, info.Name, 1<<30)
		require.NoError(t, err)
		require.NoError(t, past.Create(t.Context(), info.Name, data))
	}
	old, err := repo.Open(t.Context(), past, testKey, openOptions(t))
	require.NoError(t, err)
	defer old.Close()
	require.NoError(t, same(t.Context(), old, other, disk(2)))

	st.pass(4 * lockDay)
	rep, err = r.Prune(t.Context(), nil)
	require.NoError(t, err)
	assert.Empty(t, rep.Locked)
	bytes, _ := st.lockedBytes(t)
	assert.Zero(t, bytes)
}

// H13: what is locked is what the points of the last LockFor need, however long the repository lives; and what is there is
// not more than that and what the policy keeps.
func TestLockedBytesAreBounded(t *testing.T) {
	const days, lockDays = 16, 4
	st := newKeeping()
	r := lockingRepository(t, st, lockDays*lockDay)
	var point, most int64 // bytes
	for n := range days {
		img := pipe.Image(pipetest.NewPattern(uint64(100+n), 9*testBlock).Blank()) // nothing in common
		mustBackup(t, r, "web1", img, nil)
		locked, _ := st.lockedBytes(t)
		if n == 0 {
			point = locked // with header and slots
		}
		most = max(most, locked)
		_, err := r.Retain(t.Context(), retention.Policy{Last: 2}, nil)
		require.NoError(t, err)
		_, err = r.Prune(t.Context(), nil)
		require.NoError(t, err)
		st.pass(lockDay)
	}
	assert.LessOrEqual(t, most, (lockDays+1)*point)
	assert.Greater(t, most, (lockDays-2)*point/2, "nothing is locked")
	var there int64
	for _, prefix := range []string{"data/", "meta/"} {
		for info, err := range st.List(t.Context(), prefix) {
			require.NoError(t, err)
			there += info.Size
		}
	}
	assert.Greater(t, there, point)
	assert.LessOrEqual(t, there, (lockDays+2)*point)
}

// counted counts what is asked about locks, and says where it is.
type counted struct {
	*keeping
	place string
	calls atomic.Int64
}

func (c *counted) Place() string { return c.place }

func (c *counted) Lock(ctx context.Context, name string, until time.Time) error {
	c.calls.Add(1)
	return c.keeping.Lock(ctx, name, until)
}

func (c *counted) Locked(ctx context.Context, name string) (time.Time, error) {
	c.calls.Add(1)
	return c.keeping.Locked(ctx, name)
}

// A commit with locks asks about a bounded number of objects, however long the log is, also in a process of its own each day;
// and everything that leads to the point is locked all the same.
func TestLockForAsksLittle(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := &counted{keeping: newKeeping(), place: "here"}
	opts := openOptions(t)
	opts.LockFor, opts.StateDir = 30*lockDay, t.TempDir()
	r, err := repo.Init(ctx, st, testKey, &repo.InitOptions{BlockSize: testBlock}, opts)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	most, places := int64(0), 0
	locked := func(from string) {
		now, err := st.Now(ctx)
		require.NoError(t, err)
		places = 0
		for _, name := range names(t, st) {
			if !strings.Contains(name, "log/") {
				continue
			}
			places++
			if rest := strings.TrimPrefix(strings.TrimPrefix(name, "copy1/"), "copy2/"); rest > from {
				continue // the end of the session comes after its point
			}
			at, err := st.Locked(ctx, name)
			require.NoError(t, err)
			require.False(t, at.Before(now.Add(30*lockDay)), "%s is kept until %s", name, at)
		}
	}
	for day := range 60 {
		r, err := repo.Open(ctx, st, testKey, opts)
		require.NoError(t, err)
		st.calls.Store(0)
		mustBackup(t, r, "vm", disk(uint64(day/20)), nil)
		if day > 0 {
			most = max(most, st.calls.Load())
		}
		if day%10 == 9 {
			all := names(t, st.keeping)
			last := ""
			for _, name := range all {
				if strings.HasPrefix(name, "log/") {
					last = name
				}
			}
			before := strings.TrimRight(last, "0123456789abcdef") // of the commit: the record before the end
			n, err := strconv.ParseUint(strings.TrimPrefix(last, before), 16, 64)
			require.NoError(t, err)
			locked(fmt.Sprintf("log/%016x", n-1))
		}
		require.NoError(t, r.Close())
		st.pass(lockDay)
	}
	t.Logf("%d places of log records, at most %d calls in a commit", places, most)
	require.Greater(t, places, 500)
	require.Less(t, most, int64(180))
}

// What is remembered is of one place only, and somebody who could take locks away is noticed.
func TestRememberedLocksAreNotBelievedBlindly(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	state := t.TempDir()
	session := func(st *counted, seed uint64) {
		opts := openOptions(t)
		opts.LockFor, opts.StateDir = 30*lockDay, state
		r, err := repo.Open(ctx, st, testKey, opts)
		require.NoError(t, err)
		defer r.Close()
		mustBackup(t, r, "vm", disk(seed), nil)
	}
	every := func(st *counted) {
		first := ""
		for _, name := range names(t, st.keeping) {
			if strings.HasPrefix(name, "beat/") || strings.HasPrefix(name, "index/") || strings.HasPrefix(name, "anchor/") {
				continue
			}
			if strings.HasPrefix(name, "log/") {
				first = name // the last one: the end of the session
			}
		}
		for _, name := range names(t, st.keeping) {
			if strings.Contains(name, "log/") && !strings.HasSuffix(name, first) {
				at, err := st.Locked(ctx, name)
				require.NoError(t, err)
				require.False(t, at.IsZero(), name)
			}
		}
	}
	here := &counted{keeping: newKeeping(), place: "here"}
	opts := openOptions(t)
	opts.LockFor, opts.StateDir = 30*lockDay, state
	r, err := repo.Init(ctx, here, testKey, &repo.InitOptions{BlockSize: testBlock}, opts)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	session(here, 1)
	session(here, 2)
	// A copy carries no locks.
	there := &counted{keeping: newKeeping(), place: "there"}
	for _, name := range names(t, here.keeping) {
		b, err := store.ReadAll(ctx, here, name, 1<<30)
		require.NoError(t, err)
		require.NoError(t, there.Create(ctx, name, b))
	}
	session(there, 3)
	every(there)
	// Locks that somebody took away.
	there.mu.Lock()
	clear(there.until)
	there.mu.Unlock()
	session(there, 4)
	every(there)
}
