package kvm

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
)

// backupsEnv is how many backups TestManyBackups makes. Not set: none in the fast tier, 40 in the long one.
const backupsEnv = "HIKAE_KVM_BACKUPS"

// R182: whatever becomes of backups, one after another while the guest writes and discards, QEMU answers after each and
// nothing is left in it. Half of them are broken off at a moment that is chance, with reads under way.
func TestManyBackups(t *testing.T) {
	n := 40
	if text := os.Getenv(backupsEnv); text != "" {
		var err error
		n, err = strconv.Atoi(text)
		require.NoError(t, err)
	} else if !long() {
		t.Skip("needs HIKAE_TEST_TIER=long or " + backupsEnv)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	l := newLab(t)
	l.fx("fill", "/dev/vdb", "0", "8388608", "1")
	points, broken := 0, 0
	for i := range n {
		l.fx("fill", "/dev/vdb", strconv.Itoa(r.IntN(8)*mib), strconv.Itoa(64<<10*(1+r.IntN(16))), strconv.Itoa(i+2))
		if r.IntN(3) == 0 {
			l.fx("discard", "/dev/vdb", strconv.Itoa(8*mib+r.IntN(4)*mib), "1048576")
		}
		ctx, cancel := context.WithCancel(t.Context())
		o := job.BackupOptions{Journal: l.effects()}
		if r.IntN(2) == 0 {
			after := time.Duration(r.IntN(30)) * time.Millisecond
			o.Wrap = func(_ context.Context, _ hikae.Disk, img pipe.Image) (pipe.Image, error) {
				time.AfterFunc(after, cancel)
				return img, nil
			}
		}
		begun := time.Now()
		_, err := job.Backup(ctx, l.provider(Options{}), "", l.repo, &o)
		cancel()
		require.NoError(t, o.Journal.(*hikae.FileJournal).Close())
		if errors.Is(err, context.Canceled) {
			broken++
		} else {
			require.NoError(t, err)
			points++
		}
		t.Logf("backup %d after %v: %v", i+1, time.Since(begun).Round(time.Millisecond), err)
		l.clean()
	}
	t.Logf("%d points, %d broken off", points, broken)
}
