package vmware

import (
	"context"

	"github.com/hikae/hikae/pipe"
)

// Readable is an optional ability of a target: what the disk holds, over the same connection. A host may let nobody else open a
// disk that is written. The image goes with the target.
type Readable interface{ Image() pipe.Image }

// readableTarget finds that ability, behind what this package puts around targets.
func readableTarget(t pipe.Target) (pipe.Image, bool) {
	switch o := t.(type) {
	case *placedMarks:
		t = o.Target
	case *placedTarget:
		t = o.Target
	}
	r, ok := t.(Readable)
	if !ok {
		return nil, false
	}
	return r.Image(), true
}

// placed gives a target's place back when the target is done with.
func placed(t pipe.Target, release func()) pipe.Target {
	base := placedTarget{t, release}
	if marks, ok := t.(pipe.ExtentTarget); ok {
		return &placedMarks{base, marks}
	}
	return &base
}

type placedTarget struct {
	pipe.Target
	release func()
}

func (t *placedTarget) Commit(ctx context.Context) error {
	defer t.release()
	return t.Target.Commit(ctx)
}

func (t *placedTarget) Close() error {
	defer t.release()
	return t.Target.Close()
}

type placedMarks struct {
	placedTarget
	marks pipe.ExtentTarget
}

func (t *placedMarks) Mark(ctx context.Context, e pipe.Extent) error { return t.marks.Mark(ctx, e) }
