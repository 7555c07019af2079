package job

import (
	"context"
	"sync"

	"github.com/hikae/hikae/pipe"
)

// guardBase watches a target for failures of its base: where marking Unchanged fails, the base is at fault and nothing
// else, and the disk can still be read whole. The returned function tells the failure. Abilities stay what they were.
func guardBase(t pipe.Target) (pipe.Target, func() error) {
	g := &baseGuard{}
	switch t := t.(type) {
	case pipe.BlockTarget:
		return &guardedBlocks{t, g}, g.failure
	case pipe.ExtentTarget:
		return &guardedExtents{t, g}, g.failure
	}
	return t, g.failure
}

type baseGuard struct {
	mu  sync.Mutex
	err error
}

func (g *baseGuard) failure() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

func (g *baseGuard) mark(ctx context.Context, t pipe.ExtentTarget, e pipe.Extent) error {
	err := t.Mark(ctx, e)
	if err != nil && e.Kind == pipe.Unchanged && ctx.Err() == nil {
		g.mu.Lock()
		if g.err == nil {
			g.err = err
		}
		g.mu.Unlock()
	}
	return err
}

type guardedBlocks struct {
	pipe.BlockTarget
	guard *baseGuard
}

func (t *guardedBlocks) Mark(ctx context.Context, e pipe.Extent) error {
	return t.guard.mark(ctx, t.BlockTarget, e)
}

// Flight hands on what the target says: see pipe.Far.
func (t *guardedBlocks) Flight() pipe.Flight {
	if far, ok := t.BlockTarget.(pipe.Far); ok {
		return far.Flight()
	}
	return pipe.Flight{}
}

// Assemble hands on where the target can: see pipe.Assembler.
func (t *guardedBlocks) Assemble(ctx context.Context, off int64, id pipe.ID, block []byte) (pipe.PutResult, bool, error) {
	if a, ok := t.BlockTarget.(pipe.Assembler); ok {
		return a.Assemble(ctx, off, id, block)
	}
	return pipe.PutResult{}, false, nil
}

type guardedExtents struct {
	pipe.ExtentTarget
	guard *baseGuard
}

func (t *guardedExtents) Mark(ctx context.Context, e pipe.Extent) error {
	return t.guard.mark(ctx, t.ExtentTarget, e)
}
