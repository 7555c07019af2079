package xfs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/exclude/fsys/fsystest"
)

// moments are the states in which a guest's disk is caught.
var moments = []string{"synced", "frozen", "unsynced", "working"}

// TestBusy holds R015 to R018 for XFS on disks that are caught while mounted: with the log full of changes.
func TestBusy(t *testing.T) {
	seeds := 4
	if long() {
		seeds = 160
	}
	l := newLab(t)
	for seed := range uint64(seeds) {
		v := variants[int(seed)%len(variants)]
		if v.v4 {
			v = variants[0]
		}
		moment := moments[int(seed)%len(moments)]
		if seeds > len(moments) {
			moment = moments[int(seed/uint64(len(variants)))%len(moments)]
		}
		t.Run(fmt.Sprintf("%d %s %s", seed, moment, v.name), func(t *testing.T) { l.busy(t, seed, v, moment) })
	}
}

func (l *lab) busy(t *testing.T, seed uint64, v variant, moment string) {
	img := l.path()
	mkfsAt(t, img, v.args...)
	rng := rand.New(rand.NewPCG(seed, 1))
	m := fsystest.Mount(t, "xfs", img, mountOptions(v, rng)...)
	opts := &fsystest.AgeOptions{MaxFile: 512 << 10, MaxFiles: 1500, RawNames: true, Fsync: 7}
	require.NoError(t, fsystest.Age(m.Dir, seed, 250, opts))
	open, err := mess(m.Dir, seed, 60)
	require.NoError(t, err)
	require.NoError(t, m.Sync())
	worked := make(chan error, 1)
	if moment == "working" {
		go func() { worked <- ageAndMess(m.Dir, seed+1, 400, opts, nil) }()
		time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
	} else {
		worked <- ageAndMess(m.Dir, seed+1, 150, opts, &open)
	}
	switch moment {
	case "synced":
		require.NoError(t, m.Sync())
	case "frozen":
		require.NoError(t, m.Freeze())
	}
	snapshot := l.clone(t, img)
	if moment == "frozen" {
		require.NoError(t, m.Thaw())
	}
	require.NoError(t, <-worked)
	for _, f := range open {
		require.NoError(t, f.Close())
	}
	require.NoError(t, m.Unmount())
	require.NoError(t, os.Remove(img))
	found := l.checkSnapshot(t, snapshot)
	f, _ := free(t, snapshot)
	t.Logf("seed %d: %d bytes replayed, %.1f %% of what is free was found", seed, f.Info().Replayed, 100*found)
	assert.Greater(t, found, 0.8)
	if moment == "frozen" {
		// What a mount frees besides: files that were unlinked while open, and what was set aside for writing to shared
		// blocks, which counts where blocks are large.
		assert.Greater(t, found, 0.9)
	}
	require.NoError(t, os.Remove(snapshot))
}

// mountOptions vary how large the log's records are.
func mountOptions(v variant, rng *rand.Rand) []string {
	sizes := []string{"32k", "64k", "256k"}
	if v.stripes {
		sizes = sizes[2:]
	}
	return []string{"nouuid", "logbsize=" + sizes[rng.IntN(len(sizes))]}
}

// ageAndMess works on a tree that is there. Files that it leaves open and unlinked go to open; nil: they are closed.
func ageAndMess(dir string, seed uint64, ops int, opts *fsystest.AgeOptions, open *[]*os.File) error {
	for i := range uint64(4) {
		if err := ageAgain(dir, seed+i<<16, ops/4, opts); err != nil {
			return err
		}
		more, err := mess(dir, seed+i<<16, ops/10)
		if open != nil {
			*open = append(*open, more...)
			more = nil
		}
		for _, f := range more {
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ageAgain ages what was aged before: the names it makes may be there already, and then it goes on from another seed.
func ageAgain(dir string, seed uint64, ops int, opts *fsystest.AgeOptions) (err error) {
	for i := range uint64(8) {
		if err = fsystest.Age(dir, seed+i<<32, ops, opts); !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return err
}
