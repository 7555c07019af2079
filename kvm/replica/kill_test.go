package replica

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
)

// victimEnv makes this test program do one thing to a site and end itself by SIGKILL at a step of it:
// folder, operation, seed, step by its number or its name.
const victimEnv = "HIKAE_REPLICA_VICTIM"

const killVM = "web 1"

// victim is the process that is killed. It returns where the operation has fewer steps, having printed how many.
func victim() int {
	words := strings.SplitN(os.Getenv(victimEnv), "|", 4)
	at, _ := strconv.Atoi(words[3])
	seed, _ := strconv.ParseUint(words[2], 10, 64)
	n := 0
	s, err := openSite(words[0], nil, func(name string) {
		if n++; n == at || name == words[3] {
			fmt.Println("killed at " + name)
			self, err := os.FindProcess(os.Getpid())
			if err == nil {
				err = self.Kill()
			}
			fmt.Println(err)
			select {}
		}
	})
	if err == nil {
		err = perform(s, words[1], seed)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("steps", n)
	return 0
}

// perform does an operation that a seed makes up.
func perform(s *Site, op string, seed uint64) error {
	ctx := context.Background()
	switch op {
	case "open":
		return nil
	case "write":
		return writeVictim(ctx, s, seed)
	case "keep":
		_, err := s.Keep(ctx, killVM, 1)
		return err
	case "failover":
		_, err := s.Failover(ctx, killVM, nil)
		return err
	case "failover with journal":
		j, err := hikae.OpenFileJournal(s.dir + "-journal")
		if err != nil {
			return err
		}
		_, err = s.Failover(ctx, killVM, &FailoverOptions{Journal: j})
		return errors.Join(err, j.Close())
	case "undo":
		return s.Undo(ctx, killVM)
	case "seal":
		_, err := s.Seal(ctx, killVM)
		return err
	case "remove":
		return s.Remove(ctx, killVM)
	}
	return errors.ErrUnsupported
}

// writeVictim writes a point that is like no other, on the newest.
func writeVictim(ctx context.Context, s *Site, seed uint64) error {
	m, err := modelOf(ctx, s)
	if err != nil {
		return err
	}
	t := &bare{ctx: ctx}
	rng := rand.New(rand.NewPCG(seed, 1))
	c := m.plan(rng)
	c.write(t, s, killVM, rng)
	return nil
}

// bare is what of a test a process has that is no test.
type bare struct {
	testing.TB
	ctx context.Context
}

func (b *bare) Helper()                           {}
func (b *bare) Context() context.Context          { return b.ctx }
func (b *bare) FailNow()                          { os.Exit(1) }
func (b *bare) Errorf(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// modelOf reads what a site holds, as the model of it.
func modelOf(ctx context.Context, s *Site) (*model, error) {
	m := newModel()
	for p, err := range s.Points(ctx, killVM) {
		if err != nil {
			return nil, err
		}
		point := modelPoint{disks: map[string][]byte{}}
		for _, d := range p.Disks {
			img, err := s.Open(ctx, p.ID, d.Key)
			if err != nil {
				return nil, err
			}
			content := make([]byte, d.Size)
			if _, err := img.ReadAt(ctx, content, 0); err != nil {
				return nil, err
			}
			point.disks[d.Key] = content
			if err := img.Close(); err != nil {
				return nil, err
			}
		}
		m.add(p.ID, point)
	}
	return m, nil
}

// runVictim runs an operation that is killed at a step; steps is positive where it came to its end.
func runVictim(t *testing.T, dir, op string, seed uint64, at any) (steps int, said string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s|%d|%v", victimEnv, dir, op, seed, at))
	out, err := cmd.CombinedOutput()
	said = strings.TrimSpace(string(out))
	if err == nil {
		_, err = fmt.Sscanf(said[strings.LastIndex(said, "steps"):], "steps %d", &steps)
		require.NoError(t, err, said)
		return steps, said
	}
	require.Contains(t, said, "killed at", "%v", err)
	return 0, said
}

// Each operation is killed with SIGKILL at every step of it, and then what takes it up is killed at every step of that, too.
// Whatever was listed reads as it did, byte by byte; the operation has happened or has not; and nothing is left (R188, H06).
func TestKilled(t *testing.T) {
	for _, op := range []string{"write", "keep", "failover", "undo", "seal", "remove"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			stride := 1
			if !long() {
				stride = 3
			}
			count := 0
			for at := 1 + int(seed%2); ; at += stride {
				dir, m := killedSite(t, op, seed)
				steps, said := runVictim(t, dir, op, seed, at)
				if steps > 0 {
					break
				}
				count++
				if at%2 == 0 { // and the one that takes it up
					_, again := runVictim(t, dir, "open", seed, 1+at/2%3)
					said += ", " + again
				}
				m.afterKill(t, dir, op, said)
			}
			require.Positive(t, count)
			t.Logf("figure: %s killed at %d steps", op, count)
		})
	}
}

// killedSite is a site in the state before an operation, and its model.
func killedSite(t *testing.T, op string, seed uint64) (string, *model) {
	t.Helper()
	dir := t.TempDir()
	s, err := Open(dir, nil)
	require.NoError(t, err)
	m, rng := newModel(), rand.New(rand.NewPCG(seed, 0))
	for range 3 {
		c := m.plan(rng)
		m.add(c.write(t, s, killVM, rng), c.modelPoint)
	}
	if op == "undo" || op == "seal" {
		f, err := s.Failover(t.Context(), killVM, nil)
		require.NoError(t, err)
		newest := m.points[m.ids[2]]
		after := modelPoint{disks: map[string][]byte{}, blob: newest.blob}
		for _, d := range f.State.Disks {
			after.disks[d.Key] = scribble(t, d.Path, newest.disks[d.Key], rng)
		}
		m.points["sealed"] = after
	}
	return dir, m
}

// afterKill opens a site after the process that worked on it was killed, and holds that it is right.
func (m *model) afterKill(t *testing.T, dir, op, said string) {
	t.Helper()
	s, err := Open(dir, &Options{Warn: func(text string) { t.Error(text) }})
	require.NoError(t, err, said)
	var ids []string
	for p, err := range s.Points(t.Context(), killVM) {
		require.NoError(t, err, said)
		ids = append(ids, p.ID)
		if _, ok := m.points[p.ID]; ok {
			m.checkPoint(t, s, killVM, p, false)
			continue
		}
		switch op { // the new one
		case "write":
		case "seal":
			m.points[p.ID] = m.points["sealed"]
			m.checkPoint(t, s, killVM, p, false)
		default:
			require.Fail(t, "a point that nobody made", said)
		}
	}
	state, err := s.State(t.Context(), killVM)
	require.NoError(t, err)
	switch op {
	case "keep", "remove":
		require.Subset(t, m.ids, ids, said)
		require.True(t, op == "remove" || len(ids) > 0 && ids[len(ids)-1] == m.ids[2], said)
	case "write", "seal":
		require.Equal(t, m.ids, ids[:3], said)
	default:
		require.Equal(t, m.ids, ids, said)
	}
	found, err := s.Check(t.Context(), killVM, true)
	require.NoError(t, err, said)
	require.Empty(t, found, said)
	m.requireTidy(t, s, state, said)
	err = perform(s, op, 1)
	if op == "seal" && state.Stage == Ready || op == "failover" && (state.Stage == FailedOver) {
		var done *StateError
		require.ErrorAs(t, err, &done, said)
		return
	}
	require.NoError(t, err, "it is done again: %s", said)
}

// requireTidy holds that a VM's folder has nothing but its points, locks and state.
func (m *model) requireTidy(t *testing.T, s *Site, state State, said string) {
	t.Helper()
	entries, err := os.ReadDir(s.folder(killVM))
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	require.NoError(t, err)
	for _, e := range entries {
		switch name := e.Name(); {
		case name == lockName, name == readersName:
		case (name == stateName || name == runName) && state.Stage == FailedOver:
		default:
			require.True(t, pointID.MatchString(name), "%s was left: %s", name, said)
			_, err := os.Lstat(filepath.Join(s.folder(killVM), name, recordName))
			require.NoError(t, err, said)
			left, err := filepath.Glob(filepath.Join(s.dir, "*", name, "*.new"))
			require.NoError(t, err)
			require.Empty(t, left, said)
		}
	}
}
