//go:build unix

package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// deadline is for one run of the program.
const deadline = 2 * time.Minute

// mortal is a repository whose client dies again and again, and what is known of it: only what the program itself has reported.
type mortal struct {
	t     *testing.T
	rnd   *rand.Rand
	dir   string // the programs' folder
	at    string // the repository
	key   string // the key file that opens it
	made  int    // key files so far
	disk  []byte
	acked map[string][]byte // reported, and not begun to be forgotten since
	order []string          // of them, as they were made

	took   map[string]time.Duration // by a run that nobody killed
	kills  map[string]int
	dead   bool // a prune died, and nobody has found out yet
	leaked int  // packs that the worst kill left over
}

// mortalKept is how many points stay.
const mortalKept = 4

func newMortal(t *testing.T, seed uint64, at string) *mortal {
	m := &mortal{t: t, rnd: rand.New(rand.NewPCG(seed, 0)), dir: t.TempDir(), at: at,
		acked: map[string][]byte{}, took: map[string]time.Duration{}, kills: map[string]int{}}
	m.disk = make([]byte, killsOf(5<<20, 24<<20, 24<<20))
	m.noise(m.disk)
	m.key = m.newKey()
	m.must("init", "--key-file", m.key, "--block-size", "64KiB", m.at)
	return m
}

func (m *mortal) file(name string) string { return filepath.Join(m.dir, name) }

// noise fills p, eight bytes at a time.
func (m *mortal) noise(p []byte) {
	for ; len(p) >= 8; p = p[8:] {
		binary.LittleEndian.PutUint64(p, m.rnd.Uint64())
	}
}

// newKey makes the file of a new key.
func (m *mortal) newKey() string {
	m.made++
	name := m.file("key" + strconv.Itoa(m.made))
	key := make([]byte, 32)
	m.noise(key)
	require.NoError(m.t, os.WriteFile(name, key, 0o600))
	return name
}

func (m *mortal) secret() repo.Secret {
	b, err := os.ReadFile(m.key)
	require.NoError(m.t, err)
	return repo.KeyFile([32]byte(b))
}

func (m *mortal) command(args ...string) (cmd *exec.Cmd, out, log *bytes.Buffer) {
	cmd, out, log = exec.Command("hikae", args...), &bytes.Buffer{}, &bytes.Buffer{}
	cmd.Dir, cmd.Stdout, cmd.Stderr = m.dir, out, log
	cmd.Env = append(os.Environ(), "HIKAE_STATE_DIR="+m.file("state"), "HIKAE_CACHE_DIR="+m.file("cache"), "GORACE=atexit_sleep_ms=0")
	return cmd, out, log
}

// must runs the program to its end, which is a good one.
func (m *mortal) must(args ...string) []byte {
	m.t.Helper()
	out, err := m.run(args...)
	require.NoError(m.t, err)
	return out
}

func (m *mortal) run(args ...string) ([]byte, error) {
	cmd, out, log := m.command(args...)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	watchdog := time.AfterFunc(deadline, func() { _ = cmd.Process.Kill() })
	defer watchdog.Stop()
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 3 { // done, and something was worth a word
		err = nil
	}
	if err != nil {
		err = errors.Join(err, errors.New(strings.Join(args, " ")+": "+log.String()))
	}
	return out.Bytes(), err
}

// act is one thing that the program is told to do, and what is known after it has said that it is done.
type act struct {
	args []string
	done func(out []byte)
}

func (m *mortal) backup() act {
	part := len(m.disk) / 12
	m.noise(m.disk[m.rnd.IntN(11)*part:][:part])
	require.NoError(m.t, os.WriteFile(m.file("disk.raw"), m.disk, 0o600))
	content := bytes.Clone(m.disk)
	return act{[]string{"backup", "--json", "--repo", m.at, "--key-file", m.key, "--name", "vm", "disk.raw"}, func(out []byte) {
		var r struct{ Point string }
		require.NoError(m.t, json.Unmarshal(out, &r))
		require.NotEmpty(m.t, r.Point)
		m.acked[r.Point] = content
		m.order = append(m.order, r.Point)
	}}
}

func (m *mortal) forget() act {
	id := m.order[0]
	m.order = m.order[1:]
	delete(m.acked, id) // from here on it may be there or not
	return act{[]string{"forget", "--repo", m.at, "--key-file", m.key, id}, func([]byte) {}}
}

func (m *mortal) prune() act {
	return act{[]string{"prune", "--repo", m.at, "--key-file", m.key, "--max-unused", "0%", "--wait", "0"}, func([]byte) {}}
}

// repair has something to repair: a hole in a pack that its parity fills.
func (m *mortal) repair() act {
	packs, err := filepath.Glob(filepath.Join(m.at, "data", "*", "*"))
	require.NoError(m.t, err)
	require.NotEmpty(m.t, packs)
	name := packs[m.rnd.IntN(len(packs))]
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	require.NoError(m.t, err)
	size, err := f.Seek(0, io.SeekEnd)
	require.NoError(m.t, err)
	_, err = f.WriteAt(make([]byte, 1000), m.rnd.Int64N(size/4096)*4096)
	require.NoError(m.t, errors.Join(err, f.Sync(), f.Close()))
	return act{[]string{"verify", "--repair", "--repo", m.at, "--key-file", m.key}, func([]byte) {}}
}

// rekey changes the key, or the master key behind it. After a kill either the old or the new one opens.
func (m *mortal) rekey() act {
	if m.rnd.IntN(3) == 0 {
		return act{[]string{"key", "rotate", "--repo", m.at, "--key-file", m.key}, func([]byte) {}}
	}
	old, next := m.key, m.newKey()
	m.key = next // whoever opens it next tries both
	return act{[]string{"key", "change", "--repo", m.at, "--key-file", old, "--new-key-file", next}, func([]byte) {}}
}

// settleKey finds out which key counts.
func (m *mortal) settleKey(old string) {
	m.t.Helper()
	next := m.key
	for _, m.key = range []string{next, old} {
		if r, err := m.open(); err == nil {
			require.NoError(m.t, r.Close())
			return
		}
	}
	require.Fail(m.t, "neither the old key opens the repository nor the new one")
}

// alive is a repository that is open, with its store.
type alive struct {
	*repo.Repository
	st *dirstore.Store
}

func (a alive) Close() error { return errors.Join(a.Repository.Close(), a.st.Close()) }

func (m *mortal) open() (alive, error) {
	st, err := dirstore.Open(m.at)
	if err != nil {
		return alive{}, err
	}
	r, err := repo.Open(m.t.Context(), st, m.secret(), nil)
	if err != nil {
		return alive{}, errors.Join(err, st.Close())
	}
	return alive{r, st}, nil
}

func (m *mortal) mustOpen() alive {
	m.t.Helper()
	r, err := m.open()
	require.NoError(m.t, err)
	return r
}

func (m *mortal) of(what string) act {
	switch what {
	case "backup":
		return m.backup()
	case "forget":
		return m.forget()
	case "prune":
		return m.prune()
	case "repair":
		return m.repair()
	case "condense":
		return act{[]string{"repo", "condense", "--repo", m.at, "--key-file", m.key}, func([]byte) {}}
	}
	return m.rekey()
}

// live does a thing without a kill, and takes the time.
func (m *mortal) live(what string) {
	m.t.Helper()
	a := m.of(what)
	began := time.Now()
	a.done(m.must(a.args...))
	m.took[what] = time.Since(began)
}

// die does a thing and kills the program at any moment of it. False: it was done before.
func (m *mortal) die(what string) (killed bool) {
	m.t.Helper()
	old, packs := m.key, m.packs()
	a := m.of(what)
	cmd, out, log := m.command(a.args...)
	wait := m.took["start"]/2 + time.Duration(m.rnd.Int64N(int64(m.took[what])))
	require.NoError(m.t, cmd.Start())
	timer := time.AfterFunc(wait, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	timer.Stop()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGKILL {
		m.kills[what]++
		killed = true
	} else if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !(ok && exit.ExitCode() == 3) {
		require.NoError(m.t, err, "%s: %s", what, log)
	}
	if !killed || what == "backup" && json.Valid(out.Bytes()) && out.Len() > 0 { // it may have reported all the same
		a.done(out.Bytes())
	}
	m.settleKey(old)
	switch what {
	case "prune":
		m.dead = m.dead || killed
		m.leaked = max(m.leaked, m.packs()-packs)
	case "repair":
		m.must("verify", "--repair", "--repo", m.at, "--key-file", m.key)
	}
	return killed
}

func (m *mortal) packs() int {
	packs, err := filepath.Glob(filepath.Join(m.at, "data", "*", "*"))
	require.NoError(m.t, err)
	return len(packs)
}

// check looks at all of it with another client.
func (m *mortal) check(about ...any) {
	m.t.Helper()
	ctx := m.t.Context()
	r := m.mustOpen()
	defer r.Close()
	rep, err := r.Verify(ctx, &repo.VerifyOptions{DataPercent: 100})
	require.NoError(m.t, err, about...)
	require.True(m.t, rep.OK, "%v: %+v", about, rep)
	listed := map[string]bool{}
	for p, err := range r.Points(ctx, "") {
		require.NoError(m.t, err, about...)
		listed[p.ID] = true
	}
	for id := range m.acked {
		require.True(m.t, listed[id], "%v: point %s was reported", about, id)
	}
	for _, id := range []string{m.order[len(m.order)-1], m.order[m.rnd.IntN(len(m.order))]} {
		m.same(r, id, about...)
	}
}

func (m *mortal) same(r alive, id string, about ...any) {
	m.t.Helper()
	img, err := r.Open(m.t.Context(), id, "disk0")
	require.NoError(m.t, err, about...)
	defer img.Close()
	want := m.acked[id]
	diff, err := pipe.Compare(m.t.Context(), img, pipe.FromReaderAt(bytes.NewReader(want), int64(len(want))), nil)
	require.NoError(m.t, err, about...)
	require.Empty(m.t, diff, about...)
}

// ripen lets the minute pass after which what died is known to be dead, in no time, and prunes: nothing of it is left.
func (m *mortal) ripen(about ...any) {
	m.t.Helper()
	outer := m.t
	bubble.Test(outer, func(t *testing.T) {
		m.t = t
		defer func() { m.t = outer }()
		r := m.mustOpen()
		rep, err := r.Prune(t.Context(), &repo.PruneOptions{MaxUnused: 1e-9})
		require.NoError(t, err, about...)
		require.Zero(t, rep.Deferred, "%v: %+v", about, rep)
		whole, err := r.Verify(t.Context(), nil)
		require.NoError(t, err, about...)
		if whole.Reclaimable > 0 {
			t.Logf("%v: after %+v; kept for who looks into it: %s", about, rep, m.keep())
		}
		require.Zero(t, whole.Reclaimable, about...)
		require.NoError(t, r.Close())
	})
	beats, err := filepath.Glob(filepath.Join(m.at, "beat", "*", "*"))
	require.NoError(m.t, err)
	require.Empty(m.t, beats, about...)
	m.dead = false
}

// keep copies the repository and its key to where they outlive the test.
func (m *mortal) keep() string {
	to, err := os.MkdirTemp("", "hikae-killed-")
	require.NoError(m.t, err)
	require.NoError(m.t, os.CopyFS(filepath.Join(to, "r"), os.DirFS(m.at)))
	key, err := os.ReadFile(m.key)
	require.NoError(m.t, err)
	require.NoError(m.t, os.WriteFile(filepath.Join(to, "key"), key, 0o600))
	return to
}

// unfinished are the files that have no object's name yet.
func (m *mortal) unfinished() (names []string) {
	err := filepath.WalkDir(filepath.Join(m.at, ".tmp"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if !errors.Is(err, fs.ErrNotExist) {
		require.NoError(m.t, err)
	}
	return names
}

// choose picks what dies next.
func (m *mortal) choose() string {
	all := []string{"backup", "backup", "forget", "prune", "prune", "repair", "rekey"}
	if len(m.order) > mortalKept {
		all = []string{"forget"}
	}
	if len(m.order) < 3 {
		all = slices.DeleteFunc(all, func(s string) bool { return s == "forget" })
	}
	if m.dead {
		all = slices.DeleteFunc(all, func(s string) bool { return s == "prune" })
	}
	return all[m.rnd.IntN(len(all))]
}

// killsOf is how many kills a tier has.
func killsOf(fast, long, release int) int {
	switch os.Getenv("HIKAE_TEST_TIER") {
	case "long":
		return long
	case "release":
		return release
	}
	return fast
}

// RELIABILITY bars 1, 8: the real program is killed at random moments of backups, forgettings, prunes, repairs and changes of keys.
// Each time the very next backup starts at once and is a good one, all is whole, what was reported is there bit for bit, and a
// prune that has seen that the dead are dead leaves nothing of them.
func TestKilledAnywhere(t *testing.T) {
	lanes := killsOf(1, 2, 4) // side by side, each with a repository of its own
	for range lanes {
		t.Run("lane", func(t *testing.T) {
			t.Parallel()
			killedAnywhere(t, killsOf(2, 30, 125))
		})
	}
}

func killedAnywhere(t *testing.T, kills int) {
	seed := rand.Uint64()
	t.Logf("seed %d, %d kills", seed, kills)
	began := time.Now()
	m := newMortal(t, seed, filepath.Join(t.TempDir(), "r"))
	start := time.Now()
	m.must("version")
	m.took["start"] = time.Since(start)
	for _, what := range []string{"backup", "backup", "backup", "forget", "prune", "repair", "rekey"} {
		m.live(what)
	}
	died := 0
	for tries := 0; died < kills; tries++ {
		require.Less(t, tries, 4*kills+20, "the program is done before it can be killed: %v", m.took)
		what := m.choose()
		if !m.die(what) {
			continue
		}
		died++
		m.live("backup") // the next job
		m.check(what, "kill", died)
		if died == kills || m.rnd.IntN(3) == 0 {
			m.ripen(what, "kill", died)
			m.check(what, "kill", died, "ripe")
		}
		for len(m.order) > mortalKept {
			m.live("forget")
		}
		if died%50 == 0 {
			t.Logf("%d kills after %v: %v", died, time.Since(began).Round(time.Second), m.kills)
		}
	}
	m.live("backup")
	require.Empty(t, m.unfinished(), "what the dead had not finished is swept")
	require.LessOrEqual(t, m.leaked, 1, "packs that a killed prune left over")
	t.Logf("seed %d: killed %v in %v; a killed prune left %d packs over at most", seed, m.kills, time.Since(began).Round(time.Second), max(m.leaked, 0))
}

// The same while the log is condensed, which only one of thousands of sessions has to do: so many are made up first.
func TestCondenseKilled(t *testing.T) {
	kills, seed := killsOf(0, 3, 30), rand.Uint64()
	if kills == 0 {
		t.Skip("a log of thousands of records takes too long: in the long tiers")
	}
	t.Logf("seed %d, %d kills", seed, kills)
	began := time.Now()
	origin, at := t.TempDir(), t.TempDir()
	m := newMortal(t, seed, filepath.Join(at, "r"))
	start := time.Now()
	m.must("version")
	m.took["start"] = time.Since(start)
	m.live("backup")
	m.live("backup")
	r := m.mustOpen()
	for range 4150 {
		require.NoError(t, r.Hold(t.Context(), m.order[:1], ""))
		require.NoError(t, r.Unhold(t.Context(), m.order[:1], ""))
	}
	require.NoError(t, r.Close())
	m.live("backup") // it has seen them all
	require.NoError(t, os.CopyFS(filepath.Join(origin, "at"), os.DirFS(at)))
	require.NoError(t, os.CopyFS(filepath.Join(origin, "state"), os.DirFS(m.file("state"))))
	t.Logf("a log of %d records after %v", len(m.records()), time.Since(began).Round(time.Second))
	order, acked := slices.Clone(m.order), maps.Clone(m.acked)
	m.live("condense")
	require.Less(t, len(m.records()), 5000, "there is something to condense")
	for died, tries := 0, 0; died < kills; tries++ {
		require.Less(t, tries, 4*kills+20, "the program is done before it can be killed: %v", m.took)
		for from, to := range map[string]string{"at": at, "state": m.file("state")} {
			require.NoError(t, os.RemoveAll(to))
			require.NoError(t, os.CopyFS(to, os.DirFS(filepath.Join(origin, from))))
		}
		m.order, m.acked = slices.Clone(order), maps.Clone(acked)
		if m.die("condense") {
			died++
		}
		m.live("backup") // the next job
		m.check("condense", "kill", died)
		m.live("condense")
		m.check("condense", "kill", died, "and again")
		require.Less(t, len(m.records()), 5000)
	}
	t.Logf("seed %d: killed %v in %v", seed, m.kills, time.Since(began).Round(time.Second))
}

// records are the log's, in their first place.
func (m *mortal) records() []string {
	names, err := filepath.Glob(filepath.Join(m.at, "log", "*"))
	require.NoError(m.t, err)
	return names
}
