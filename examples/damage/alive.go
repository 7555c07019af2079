package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
)

// childEnv names the repository into which this program, started once more, makes a backup to be killed.
const childEnv = "HIKAE_DAMAGE_CHILD"

var errLost = errors.New("the connection was lost")

// failing is a store on which the n-th creation goes wrong.
type failing struct {
	store.Store
	left   atomic.Int64
	takes  bool // it takes effect, and only the answer is lost
	always bool // and so do all that follow
	err    error
}

func (f *failing) Unwrap() store.Store { return f.Store }

func (f *failing) Create(ctx context.Context, name string, data []byte) error {
	if n := f.left.Add(-1); n > 0 || n < 0 && !f.always {
		return f.Store.Create(ctx, name, data)
	}
	if f.takes {
		if err := f.Store.Create(ctx, name, data); err != nil {
			return err
		}
	}
	return &fs.PathError{Op: "create", Path: name, Err: f.err}
}

// lostAnswer: one creation during a backup succeeds and says that it did not.
func (l *lab) lostAnswer(rng *rand.Rand, dir string) (*verdict, error) {
	n := int64(1 + rng.IntN(20))
	v := &verdict{what: fmt.Sprintf("the answer to creation %d of a backup is lost", n)}
	return v, l.during(dir, v, func(st store.Store) store.Store {
		f := &failing{Store: st, takes: true, err: errLost}
		f.left.Store(n)
		return f
	})
}

// fullDisk: from one creation on there is no room.
func (l *lab) fullDisk(rng *rand.Rand, dir string) (*verdict, error) {
	n := int64(1 + rng.IntN(20))
	v := &verdict{what: fmt.Sprintf("from creation %d of a backup on there is no room", n)}
	return v, l.during(dir, v, func(st store.Store) store.Store {
		f := &failing{Store: st, always: true, err: syscall.ENOSPC}
		f.left.Store(n)
		return f
	})
}

// during makes a backup on a store that fails, and looks at what it left.
func (l *lab) during(dir string, v *verdict, wrap func(store.Store) store.Store) error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	fresh := sample{content: content(20, 1, 21, 2)}
	r, err := l.open(ctx, dir, "", wrap)
	if err == nil {
		fresh.id, err = backup(ctx, r, "web", fresh.content)
		_ = r.Close() // cannot end its lease either
	}
	if err != nil {
		v.say("the backup failed and said so: %v", err)
	} else {
		v.say("the backup was made all the same: point %.8s", fresh.id)
	}
	return l.goesOn(ctx, dir, fresh, err == nil, v)
}

// goesOn: all that was there restores, so does a point whose commit was reported, and the next backup needs no unlocking.
func (l *lab) goesOn(ctx context.Context, dir string, fresh sample, reported bool, v *verdict) error {
	r, err := l.open(ctx, dir, "", nil)
	if err != nil {
		return err
	}
	defer r.Close()
	points := append([]sample{}, l.points...)
	if reported {
		points = append(points, fresh)
	}
	next := sample{content: content(22, 21, 3)}
	if next.id, err = backup(ctx, r, "web", next.content); err != nil {
		return fmt.Errorf("the next backup: %w", err)
	}
	for _, p := range append(points, next) {
		if _, err := restored(ctx, r, p); err != nil {
			return err
		}
	}
	rep, err := r.Verify(ctx, &repo.VerifyOptions{DataPercent: 100, Repair: true})
	if err != nil {
		return err
	}
	if !rep.OK {
		return fmt.Errorf("damage is left: %+v", rep.Damaged)
	}
	v.say("%d points restore, the next backup was made, nothing is damaged", len(points)+1)
	return nil
}

// stale: the whole repository is put back to an older state. A client that has seen the newer one says so and does not write.
func (l *lab) stale(_ *rand.Rand, dir string) (*verdict, error) {
	v := &verdict{what: "all of it is as it was one point ago"}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	state := filepath.Join(l.dir, "state-of-round")
	defer os.RemoveAll(state)
	if err := errors.Join(os.RemoveAll(dir), copyTree(l.older, dir), copyTree(l.state, state)); err != nil {
		return v, err
	}
	r, err := l.open(ctx, dir, state, nil)
	if err != nil {
		return v, err
	}
	defer r.Close()
	for _, p := range l.points[:3] {
		if _, err := restored(ctx, r, p); err != nil {
			return v, err
		}
	}
	var back *repo.ErrRollback
	if _, err := backup(ctx, r, "web", content(1)); !errors.As(err, &back) {
		return v, fmt.Errorf("a client that knows better wrote to it: %w", err)
	}
	v.say("%v", back)
	v.lost = true
	return v, nil
}

// killed: a process that makes a backup is killed at some moment.
func (l *lab) killed(rng *rand.Rand, dir string) (*verdict, error) {
	after := time.Duration(rng.IntN(120)) * time.Millisecond
	v := &verdict{what: fmt.Sprintf("a process that makes a backup is killed %v after it has opened the repository", after)}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		return v, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), childEnv+"="+dir, "TMPDIR="+l.dir)
	said, err := cmd.StdoutPipe()
	if err != nil {
		return v, err
	}
	if err := cmd.Start(); err != nil {
		return v, err
	}
	lines := bufio.NewScanner(said)
	point := ""
	for lines.Scan() {
		if lines.Text() == "open" {
			time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		} else if id, ok := strings.CutPrefix(lines.Text(), "point "); ok {
			point = id
		}
	}
	_ = cmd.Wait()
	if point != "" {
		v.say("it was too fast: point %.8s", point)
	} else {
		v.say("it died before it had reported a point")
	}
	return v, l.goesOn(ctx, dir, sample{point, childContent()}, point != "", v)
}

func childContent() []byte {
	blocks := make([]uint64, 120)
	for i := range blocks {
		blocks[i] = uint64(1000 + i)
	}
	return content(blocks...)
}

// child makes one backup, and says when it has begun and when it is done.
func child(dir string) int {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	r, err := (&lab{}).open(ctx, dir, "", nil)
	if err != nil {
		return 1
	}
	fmt.Println("open")
	id, err := backup(ctx, r, "web", childContent())
	if err != nil {
		return 1
	}
	fmt.Println("point " + id)
	return 0
}
