package hikae

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const childEnv = "HIKAE_TEST_JOURNAL_CHILD"

func openJournal(t *testing.T, dir string) *FileJournal {
	t.Helper()
	j, err := OpenFileJournal(dir)
	require.NoError(t, err)
	t.Cleanup(func() { j.Close() })
	return j
}

func pendingKinds(t *testing.T, dir string) (kinds []string) {
	t.Helper()
	j := openJournal(t, dir)
	defer j.Close()
	for e, err := range j.Pending(t.Context()) {
		require.NoError(t, err)
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

func effect(kind string) Effect {
	return Effect{Kind: kind, VM: "web1", Facts: map[string]string{"node": "cp1", "what": "a\nb \"c\" 控え"}}
}

func TestJournalKeepsWhatIsNotUndone(t *testing.T) {
	dir := t.TempDir()
	j := openJournal(t, dir)
	done, err := j.Intend(t.Context(), effect("kvm.bitmap"))
	require.NoError(t, err)
	_, err = j.Intend(t.Context(), effect("kvm.fleece"))
	require.NoError(t, err)
	_, err = j.Intend(t.Context(), effect("kvm.export"))
	require.NoError(t, err)
	require.NoError(t, done(t.Context()))
	require.NoError(t, done(t.Context()), "done may be called again")

	require.Empty(t, pendingKinds(t, dir), "the session lives")
	require.NoError(t, j.Close())
	require.Equal(t, []string{"kvm.export", "kvm.fleece"}, pendingKinds(t, dir), "newest first")

	for e, err := range openJournal(t, dir).Pending(t.Context()) {
		require.NoError(t, err)
		require.Equal(t, effect("").Facts, e.Facts)
		require.Equal(t, j.Session(), e.Session)
		require.NotEmpty(t, e.ID)
	}
}

func TestJournalCloseLeavesNothingWhereAllIsUndone(t *testing.T) {
	dir := t.TempDir()
	j := openJournal(t, dir)
	done, err := j.Intend(t.Context(), effect("a"))
	require.NoError(t, err)
	require.NoError(t, done(t.Context()))
	require.NoError(t, j.Close())
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
	_, err = j.Intend(t.Context(), effect("a"))
	require.ErrorIs(t, err, fs.ErrClosed)
}

func TestJournalBounds(t *testing.T) {
	j := openJournal(t, t.TempDir())
	_, err := j.Intend(t.Context(), Effect{Kind: "a", Facts: map[string]string{"x": strings.Repeat("y", maxEffect)}})
	require.ErrorContains(t, err, "larger than")
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = j.Intend(canceled, effect("a"))
	require.ErrorIs(t, err, context.Canceled)
	j.open = maxEffects
	_, err = j.Intend(t.Context(), effect("a"))
	require.ErrorContains(t, err, "not undone")
}

type sweeperFunc func(e Effect, keep []ChangeID) error

func (f sweeperFunc) Undo(_ context.Context, e Effect, keep []ChangeID) error { return f(e, keep) }

func TestJournalSweep(t *testing.T) {
	dir := t.TempDir()
	dead := openJournal(t, dir)
	for _, kind := range []string{"kvm.bitmap", "kvm.fleece", "hyperv.checkpoint", "vmware.snapshot"} {
		_, err := dead.Intend(t.Context(), effect(kind))
		require.NoError(t, err)
	}
	require.NoError(t, dead.Close())

	var seen []string
	note := func(who string) Sweeper {
		return sweeperFunc(func(e Effect, keep []ChangeID) error {
			require.Equal(t, []ChangeID{"base"}, keep)
			seen = append(seen, who+" "+e.Kind)
			return nil
		})
	}
	j := openJournal(t, dir)
	broken := errors.New("host away")
	n, err := j.Sweep(t.Context(), map[string]Sweeper{
		"kvm": note("kvm"), "kvm.fl": note("longest"),
		"hyperv": sweeperFunc(func(Effect, []ChangeID) error { return broken }),
	}, []ChangeID{"base"})
	require.Equal(t, 2, n)
	require.Equal(t, []string{"longest kvm.fleece", "kvm kvm.bitmap"}, seen)
	require.ErrorIs(t, err, broken)
	require.ErrorContains(t, err, `nobody here undoes "vmware.snapshot"`)

	require.Equal(t, []string{"vmware.snapshot", "hyperv.checkpoint"}, pendingKinds(t, dir), "what failed stays")
	n, err = j.Sweep(t.Context(), map[string]Sweeper{"": sweeperFunc(func(Effect, []ChangeID) error { return nil })}, nil)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries, "a swept session leaves nothing")
}

// What only the points of one repository can judge waits for a sweep that knows them; all else goes with any.
func TestJournalSweepForRepository(t *testing.T) {
	dir := t.TempDir()
	dead := openJournal(t, dir)
	for kind, repository := range map[string]string{"a": "one", "b": "two", "c": ""} {
		e := effect(kind)
		e.Repository = repository
		_, err := dead.Intend(t.Context(), e)
		require.NoError(t, err)
	}
	require.NoError(t, dead.Close())
	var seen []string
	sweepers := map[string]Sweeper{"": sweeperFunc(func(e Effect, keep []ChangeID) error {
		seen = append(seen, e.Kind+" of "+e.Repository)
		return nil
	})}
	j := openJournal(t, dir)
	for _, repository := range []string{"three", "two"} {
		n, err := j.SweepFor(t.Context(), repository, sweepers, nil)
		require.NoError(t, err)
		require.Equal(t, 1, n)
	}
	require.ElementsMatch(t, []string{"c of ", "b of two"}, seen)
	n, err := j.SweepFor(t.Context(), "one", sweepers, nil)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, "a of one", seen[2])
	require.Empty(t, pendingKinds(t, dir))
}

func TestJournalTwoSweepsDoNotShareAnEffect(t *testing.T) {
	dir := t.TempDir()
	for range 5 {
		dead := openJournal(t, dir)
		for range 4 {
			_, err := dead.Intend(t.Context(), effect("x"))
			require.NoError(t, err)
		}
		require.NoError(t, dead.Close())
	}
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	for range 4 {
		j := openJournal(t, dir)
		wg.Go(func() {
			_, err := j.Sweep(context.Background(), map[string]Sweeper{"": sweeperFunc(func(e Effect, _ []ChangeID) error {
				mu.Lock()
				defer mu.Unlock()
				seen[e.ID]++
				return nil
			})}, nil)
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Len(t, seen, 20)
	for id, n := range seen {
		require.Equal(t, 1, n, id)
	}
}

// A torn, flipped or swapped file is never taken for an effect, and never hides the others.
func TestJournalDamage(t *testing.T) {
	dir := t.TempDir()
	dead := openJournal(t, dir)
	_, err := dead.Intend(t.Context(), effect("good"))
	require.NoError(t, err)
	_, err = dead.Intend(t.Context(), effect("bad"))
	require.NoError(t, err)
	require.NoError(t, dead.Close())
	path := filepath.Join(dir, dead.Session()+".2.effect")
	whole, err := os.ReadFile(path)
	require.NoError(t, err)

	check := func(data []byte, what string) {
		t.Helper()
		require.NoError(t, os.WriteFile(path, data, 0o600))
		var kinds []string
		var bad *BadEffectError
		for e, err := range openJournal(t, dir).Pending(t.Context()) {
			if err != nil {
				require.ErrorAs(t, err, &bad, what)
				continue
			}
			kinds = append(kinds, e.Kind)
		}
		require.NotNil(t, bad, what)
		require.Equal(t, path, bad.Path)
		require.Equal(t, []string{"good"}, kinds, what)
	}
	for n := range whole {
		check(whole[:n], fmt.Sprintf("cut at %d", n))
	}
	for n := range whole {
		flipped := slices.Clone(whole)
		flipped[n] ^= 1 << (n % 8)
		check(flipped, fmt.Sprintf("flipped at %d", n))
	}
	other, err := os.ReadFile(filepath.Join(dir, dead.Session()+".1.effect"))
	require.NoError(t, err)
	check(other, "the other effect's file")
	check(make([]byte, maxEffect+10), "too long")
	require.NoError(t, os.WriteFile(path, whole, 0o600))
	require.Equal(t, []string{"bad", "good"}, pendingKinds(t, dir))
}

func TestJournalIgnoresForeignFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{".DS_Store", "x.lock", "readme~", "aaaaaaaaaaaaaaaaaaaaaaaaaa.0.effect", "AAAAAAAAAAAAAAAAAAAAAAAAAA.1.effect"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600))
	}
	require.Empty(t, pendingKinds(t, dir))
}

func FuzzDecodeEffect(f *testing.F) {
	for _, kind := range []string{"", "kvm.bitmap"} {
		data, err := encodeEffect(effect(kind))
		require.NoError(f, err)
		f.Add(data)
	}
	f.Add([]byte("00000000 {}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := decodeEffect(data)
		if err != nil {
			return
		}
		again, err := encodeEffect(e)
		require.NoError(t, err)
		back, err := decodeEffect(again)
		require.NoError(t, err)
		require.Equal(t, e, back)
	})
}

// journalChild is the process that is killed: it tells what it has been promised, line by line.
func journalChild(dir string) {
	runtime.LockOSThread() // strace counts calls by thread
	j, err := OpenFileJournal(dir)
	if err != nil {
		panic(err)
	}
	r := rand.New(rand.NewPCG(uint64(os.Getpid()), 1))
	live := map[string]func(context.Context) error{}
	for n := 0; ; n++ {
		kind := fmt.Sprintf("k%d", n)
		fmt.Printf("begin %s\n", kind)
		done, err := j.Intend(context.Background(), Effect{Kind: kind, VM: "v"})
		if err != nil {
			panic(err)
		}
		fmt.Printf("intended %s\n", kind)
		live[kind] = done
		for kind, done := range live {
			if len(live) > 3 || r.IntN(2) == 0 {
				fmt.Printf("ending %s\n", kind)
				if err := done(context.Background()); err != nil {
					panic(err)
				}
				fmt.Printf("ended %s\n", kind)
				delete(live, kind)
			}
			break
		}
	}
}

// A session that is killed at any moment leaves exactly what it was promised and did not end; while it lives, nothing
// of it is listed.
func TestJournalKill(t *testing.T) {
	kills := 12
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier == "long" || tier == "release" {
		kills = 300
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range kills {
		dir := t.TempDir()
		lines := r.IntN(60)
		said := runAndKill(t, dir, lines, time.Duration(r.IntN(2000))*time.Microsecond)
		must, may := promises(said)
		got := pendingKinds(t, dir)
		for _, kind := range must {
			require.Contains(t, got, kind, "said: %v", said)
		}
		for _, kind := range got {
			require.True(t, slices.Contains(must, kind) || slices.Contains(may, kind), "%s is listed; said: %v", kind, said)
		}
		n, err := openJournal(t, dir).Sweep(t.Context(), map[string]Sweeper{"": sweeperFunc(func(Effect, []ChangeID) error { return nil })}, nil)
		require.NoError(t, err)
		require.Equal(t, len(got), n)
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, entries, "the next start leaves nothing of a dead session")
	}
}

func runAndKill(t *testing.T, dir string, lines int, more time.Duration) (said []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	s := bufio.NewScanner(out)
	for i := 0; i <= lines && s.Scan(); i++ {
		said = append(said, s.Text())
	}
	require.Empty(t, pendingKinds(t, dir), "a live session's effects are never listed")
	time.Sleep(more)
	require.NoError(t, cmd.Process.Kill())
	for s.Scan() {
		said = append(said, s.Text())
	}
	_, _ = io.Copy(io.Discard, out)
	require.Error(t, cmd.Wait())
	return said
}

// straced starts the child under strace with the given options.
func straced(t *testing.T, dir string, options ...string) *exec.Cmd {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	if out, err := exec.Command(strace, "true").CombinedOutput(); err != nil {
		t.Skipf("strace may not trace here: %s", out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, strace, append(append([]string{"-f", "-qq", "-E", childEnv + "=" + dir}, options...), os.Args[0], "-test.run=^$")...)
	cmd.WaitDelay = time.Second
	return cmd
}

// The crash sweep: the child dies in front of the first call that makes something durable, then the second, and so on.
func TestJournalKilledAtEveryCall(t *testing.T) {
	for _, call := range []string{"fsync", "/^rename", "/^unlink"} {
		for n := 1; n <= 5; n++ {
			dir := t.TempDir()
			out, err := straced(t, dir, "-o", os.DevNull, "-e", "trace="+call,
				"-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, n)).Output()
			require.Error(t, err)
			said := strings.Split(strings.TrimSpace(string(out)), "\n")
			require.NotEmpty(t, said[0])
			must, may := promises(said)
			got := pendingKinds(t, dir)
			require.Subset(t, got, must, "%s %d: %v", call, n, said)
			require.Subset(t, append(must, may...), got, "%s %d: %v", call, n, said)
		}
	}
}

// An fsync that fails is an error of Intend, and the effect is not there.
func TestJournalSyncFails(t *testing.T) {
	for n := 1; n <= 4; n++ {
		dir := t.TempDir()
		out, err := straced(t, dir, "-o", os.DevNull, "-e", "trace=fsync", "-e", fmt.Sprintf("inject=fsync:error=EIO:when=%d", n)).CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), "input/output error", "the child tells the error and ends")
	}
}

// Before Intend returns, the content, and then the name, were made durable.
func TestJournalOrderOfCalls(t *testing.T) {
	dir, log := t.TempDir(), filepath.Join(t.TempDir(), "log")
	cmd := straced(t, dir, "-o", log, "-e", "trace=fsync,write,/^rename,/^unlink", "-e", "inject=fsync:signal=KILL:when=9")
	_, err := cmd.Output()
	require.Error(t, err)
	data, err := os.ReadFile(log)
	require.NoError(t, err)
	var order []string
	for _, m := range regexp.MustCompile(`(?m)^\d+ +(fsync|rename\w*|unlink\w*|write\(1, "(?:begin|intended|ending|ended))`).FindAllStringSubmatch(string(data), -1) {
		order = append(order, strings.TrimPrefix(m[1], `write(1, "`))
	}
	text := strings.Join(order, " ")
	require.Regexp(t, `^begin fsync rename\w* fsync intended `, text)
	for _, m := range regexp.MustCompile(`ending (.*?)ended`).FindAllStringSubmatch(text, -1) {
		require.Regexp(t, `^unlink\w* fsync $`, m[1])
	}
}

// promises are the effects that must be pending, and those that were under way.
func promises(said []string) (must, may []string) {
	for _, line := range said {
		verb, kind, ok := strings.Cut(line, " ")
		if !ok {
			continue
		}
		switch verb {
		case "begin":
			may = append(may, kind)
		case "intended":
			must = append(must, kind)
		case "ending": // it may be gone, and it may not
			must = slices.DeleteFunc(must, func(k string) bool { return k == kind })
		case "ended":
			may = slices.DeleteFunc(may, func(k string) bool { return k == kind })
		}
	}
	return must, may
}
