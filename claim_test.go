package hikae

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Two sessions on one VM refuse each other with the owner's name, also from other processes, and a dead owner's claim is free.
func TestFileClaims(t *testing.T) {
	dir := t.TempDir()
	c, err := OpenFileClaims(dir)
	require.NoError(t, err)
	if os.Getenv("HIKAE_TEST_CLAIMER") != "" { // the other process
		c, err := OpenFileClaims(os.Getenv("HIKAE_TEST_CLAIMER"))
		require.NoError(t, err)
		_, err = c.Claim(t.Context(), "vm/kvm/web1", "job nightly on other")
		require.NoError(t, err)
		fmt.Println("CLAIMED")
		time.Sleep(time.Minute)
	}
	first, err := c.Claim(t.Context(), "vm/kvm/web1", "job daily")
	require.NoError(t, err)
	_, err = c.Claim(t.Context(), "vm/kvm/web1", "job hourly")
	var busy *BusyError
	require.ErrorAs(t, err, &busy)
	require.Equal(t, "vm/kvm/web1", busy.What)
	require.Regexp(t, `^job daily, process \d+, since 20`, busy.Owner)
	other, err := c.Claim(t.Context(), "vm/kvm/web2", "job hourly")
	require.NoError(t, err)
	require.NoError(t, other.Release(t.Context()))
	require.NoError(t, first.Release(t.Context()))
	require.NoError(t, first.Release(t.Context()))

	cmd := exec.Command(os.Args[0], "-test.run=^TestFileClaims$", "-test.v")
	cmd.Env = append(os.Environ(), "HIKAE_TEST_CLAIMER="+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != "CLAIMED"; {
	}
	_, err = c.Claim(t.Context(), "vm/kvm/web1", "job hourly")
	require.ErrorAs(t, err, &busy)
	require.Contains(t, busy.Owner, "job nightly on other")
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	again, err := c.Claim(t.Context(), "vm/kvm/web1", "job hourly")
	require.NoError(t, err)
	require.NoError(t, again.Release(t.Context()))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}

// However many ask at once, one at a time has it.
func TestFileClaimsExclude(t *testing.T) {
	c, err := OpenFileClaims(t.TempDir())
	require.NoError(t, err)
	var inside, taken atomic.Int64
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 200 {
				held, err := c.Claim(t.Context(), "vm", fmt.Sprint(i))
				if err != nil {
					continue
				}
				taken.Add(1)
				if inside.Add(1) != 1 {
					t.Error("two have it")
				}
				inside.Add(-1)
				if err := held.Release(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	require.Positive(t, taken.Load())
}
