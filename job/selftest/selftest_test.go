package selftest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/job/diskvm"
	"github.com/hikae/hikae/pipe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// disk is a VM of one disk file, which knows nothing of what changed.
func disk(t *testing.T) Subject {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	require.NoError(t, os.WriteFile(path, make([]byte, 3<<20), 0o600))
	require.NoError(t, os.Truncate(path, 5<<20))
	p, err := diskvm.Open(t.Context(), "web1", []diskvm.File{{Key: "root", Path: path}}, nil)
	require.NoError(t, err)
	s := Subject{Provider: p}
	for vm, err := range p.VMs(t.Context()) {
		require.NoError(t, err)
		s.ID = vm.ID
	}
	return s
}

func statuses(r Result) (list []Status) {
	for _, s := range r.Steps {
		list = append(list, s.Status)
	}
	return list
}

// A machine's own steps run in their place; what comes after the end runs whatever happened.
func TestOwnSteps(t *testing.T) {
	s := disk(t)
	var points []*pipe.PointInfo
	s.Free = func(context.Context) (string, error) { return "free", nil }
	s.Clean = func(_ context.Context, p *pipe.PointInfo) (string, error) {
		points = append(points, p)
		return "clean", nil
	}
	s.More = []Own{{"own", func(context.Context) (string, error) { return "", Doubtf("slow") }},
		{"elsewhere", func(context.Context) (string, error) { return "", Untriedf("needs %s", "Windows") }}}
	scratch := t.TempDir()
	r, err := Run(t.Context(), s, &Options{Scratch: scratch})
	require.NoError(t, err)
	require.True(t, r.OK, "%+v", r)
	// nothing tells what changed: the second backup is whole, and there is nothing to compare by
	require.Equal(t, []Status{OK, OK, OK, OK, Warned, OK, OK, Warned, Warned, Skipped, OK}, statuses(r), "%+v", r)
	require.Equal(t, "needs Windows", r.Steps[9].Detail)
	require.Len(t, points, 1)
	require.NotNil(t, points[0])

	s.More = nil
	s.Free = func(context.Context) (string, error) { return "", errors.New("somebody is at work") }
	r, err = Run(t.Context(), s, &Options{Scratch: scratch})
	require.NoError(t, err)
	require.False(t, r.OK)
	require.Equal(t, []Status{OK, Failed, Skipped, Skipped, Skipped, Skipped, Skipped, Skipped, OK}, statuses(r), "%+v", r)
	require.Nil(t, points[1])
	left, err := os.ReadDir(scratch)
	require.NoError(t, err)
	require.Empty(t, left)
}
