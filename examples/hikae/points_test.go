package main

import (
	"context"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// Unfinished points, as the tool shows them.
func TestUnfinishedPoints(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/unfinished", Deadline: time.Now().Add(time.Minute), RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HIKAE_STATE_DIR", e.WorkDir+"/.state")
			e.Setenv("HIKAE_CACHE_DIR", e.WorkDir+"/.cache")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"json": jsonIs, "sample": sample, "leave": leave},
	})
}

// leave makes an unfinished point of a VM as a session does that breaks off: leave REPO VM. Its id is then $LEFT.
func leave(ts *testscript.TestScript, _ bool, args []string) {
	ctx := context.Background()
	st, err := dirstore.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	defer st.Close()
	r, err := repo.Open(ctx, st, nil, &repo.OpenOptions{StateDir: ts.Getenv("HIKAE_STATE_DIR")})
	ts.Check(err)
	defer r.Close()
	w, err := r.Begin(ctx, args[1], nil)
	ts.Check(err)
	defer w.Close()
	d, err := w.Disk(ctx, "disk0", 128<<10)
	ts.Check(err)
	_, err = d.WriteAt(ctx, make([]byte, 64<<10), 0)
	ts.Check(err)
	id, err := w.(pipe.Checkpointer).Checkpoint(ctx, pipe.CheckpointOptions{
		Disks:    []pipe.CheckpointDisk{{Key: "disk0", Size: 128 << 10, Pending: []pipe.Extent{{Len: 128 << 10, Kind: pipe.Data}}}},
		Tracking: func(context.Context) (map[string]string, error) { return map[string]string{"disk0": "moment 1"}, nil },
	})
	ts.Check(err)
	ts.Setenv("LEFT", id)
}
