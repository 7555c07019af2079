//go:build unix

package stripe_test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/stripe"
)

const childRoot = "HIKAE_STRIPE_CHILD"

// TestChild is the process that is killed: it creates objects, and says which ones are acknowledged.
func TestChild(t *testing.T) {
	root := os.Getenv(childRoot)
	if root == "" {
		t.Skip("runs only as the child of TestKilled")
	}
	st, err := stripe.Open(t.Context(), dirs(t, root, 6), &stripe.Options{Striped: everything})
	require.NoError(t, err)
	fmt.Println("begin")
	for i := range 100_000 {
		name := fmt.Sprintf("data/%d-%d", os.Getpid(), i)
		fmt.Println("try", name)
		require.NoError(t, st.Create(t.Context(), name, content(uint64(i), 40_000+i)))
		fmt.Println("done", name)
	}
}

// kill -9 at random moments: what was acknowledged is there with any two members lost, what was not is there whole or not
// at all, and a sweep leaves no shards that nobody names.
func TestKilled(t *testing.T) {
	rounds := 4
	if long() {
		rounds = 100
	}
	root, seed := t.TempDir(), uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	st, err := stripe.Init(t.Context(), dirs(t, root, 6), stripe.InitOptions{Data: 4, Parity: 2, Labels: labels(6)}, nil)
	require.NoError(t, err)
	require.NoError(t, st.Close())
	for range rounds {
		tried, acked := killedChild(t, root, time.Duration(rng.IntN(150))*time.Millisecond)
		members := dirs(t, root, 6)
		a, b := rng.IntN(6), rng.IntN(6)
		require.NoError(t, errors.Join(members[a].Close(), closeOther(members, a, b)))
		members[a], members[b] = nil, nil
		st, err := stripe.Open(t.Context(), members, nil)
		require.NoError(t, err)
		for i, name := range tried {
			got, err := store.ReadAll(t.Context(), st, name, 1<<20)
			if i >= acked && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, stripe.ErrTooFew)) {
				continue // it was not acknowledged
			}
			require.NoError(t, err, name)
			require.True(t, string(content(uint64(i), 40_000+i)) == string(got), name)
		}
		require.NoError(t, st.Close())

		st, err = stripe.Open(t.Context(), dirs(t, root, 6), nil)
		require.NoError(t, err)
		_, err = st.Sweep(t.Context(), true)
		require.NoError(t, err)
		require.NoError(t, st.Settle(t.Context(), "data/"))
		report, err := st.Scrub(t.Context(), nil)
		require.NoError(t, err)
		require.Empty(t, report.Damaged)
		require.Empty(t, report.Loose)
		require.Empty(t, report.Lost)
		require.NoError(t, st.Close())
	}
}

func closeOther(members []store.Store, a, b int) error {
	if a == b {
		return nil
	}
	return members[b].Close()
}

// killedChild runs the child for so long after its first create, and says what it tried in order, and of how many it was
// told that they are there.
func killedChild(t *testing.T, root string, after time.Duration) (tried []string, acked int) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestChild$", "-test.v")
	cmd.Env = append(os.Environ(), childRoot+"="+root)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var timer *time.Timer
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		verb, name, _ := strings.Cut(lines.Text(), " ")
		switch verb {
		case "begin":
			timer = time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		case "try":
			tried = append(tried, name)
		case "done":
			acked++
		}
	}
	require.NotNil(t, timer, "the child never began")
	timer.Stop()
	require.Error(t, cmd.Wait(), "it was killed")
	return tried, acked
}
