package freeze

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/guest/agent/wire"
)

// frozen is a freeze.
type frozen struct {
	hold   time.Duration
	files  []*frozenFile // in the order in which they freeze
	dog    *watchdog
	answer wire.FreezeAnswer

	once   sync.Once
	thawed chan struct{} // closed with what follows set
	points []string
	held   bool
	err    error
}

// frozenFile is one file system of a freeze.
type frozenFile struct {
	*opened
	begun bool
	done  chan error // of the freeze; has one value when it returned
	ok    bool       // it froze
}

func (z *frozen) closeFiles() {
	for _, f := range z.files {
		f.file.Close()
	}
}

// sync writes out what is dirty.
func (z *frozen) sync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, syncLimit)
	defer cancel()
	for _, f := range z.files {
		fd, done := int(f.file.Fd()), make(chan error, 1)
		go func() { done <- unix.Syncfs(fd) }()
		select {
		case err := <-done:
			if err != nil {
				return fmt.Errorf("%s: sync: %w", f.mount.Point, err)
			}
		case <-ctx.Done():
			return fmt.Errorf("%s: sync: %w", f.mount.Point, ctx.Err())
		}
	}
	return nil
}

// freeze freezes them all, or none.
func (z *frozen) freeze(ctx context.Context) error {
	z.thawed = make(chan struct{})
	ctx, cancel := context.WithTimeout(ctx, z.hold)
	defer cancel()
	var kept []*frozenFile
	for _, f := range z.files {
		start := time.Now()
		err := f.freeze(ctx, z.dog.gone)
		switch {
		case err == nil:
			f.ok = true
			z.answer.Frozen = append(z.answer.Frozen,
				wire.Frozen{Mount: f.mount.Point, Type: f.mount.Type, Micros: time.Since(start).Microseconds()})
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOTTY):
			z.answer.Skipped = append(z.answer.Skipped, volume(f.mount, "it does not know how to freeze"))
			f.file.Close()
			continue
		default:
			z.Thaw(context.WithoutCancel(ctx))
			return explain(f.mount.Point, err)
		}
		kept = append(kept, f)
	}
	z.files = kept
	go z.watch()
	return nil
}

// explain says what the kernel's word means here.
func explain(point string, err error) error {
	f := &wire.Failure{Code: wire.CodeFailed, Message: fmt.Sprintf("%s: freeze: %v", point, err)}
	switch {
	case errors.Is(err, unix.EBUSY):
		f.Code, f.Message = wire.CodeState, point+" is frozen already, by somebody else"
		f.Hint = "another backup is under way, or was killed: fsfreeze -u " + point
	case errors.Is(err, unix.EPERM):
		f.Code, f.Hint = wire.CodeRights, "freezing needs CAP_SYS_ADMIN: root, or passwordless sudo"
	case errors.Is(err, context.DeadlineExceeded):
		f.Message = point + ": freezing took longer than the hold"
	case errors.Is(err, context.Canceled):
		f.Code = wire.CodeCancelled
	}
	return f
}

var errNoWatchdog = errors.New("the watchdog has died")

// freeze waits for the kernel, for the context, or for the watchdog's end.
func (f *frozenFile) freeze(ctx context.Context, gone <-chan struct{}) error {
	select {
	case <-gone:
		return errNoWatchdog
	case <-ctx.Done():
		return ctx.Err()
	default:
	}
	f.begun, f.done = true, make(chan error, 1)
	fd := int(f.file.Fd())
	go func() { f.done <- unix.IoctlSetInt(fd, fiFreeze, 0) }()
	select {
	case err := <-f.done:
		f.begun = false
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-gone:
		return errNoWatchdog
	}
}

// watch thaws when the watchdog is gone: two must die before a guest stays frozen.
func (z *frozen) watch() {
	select {
	case <-z.dog.gone:
		z.Thaw(context.Background())
	case <-z.thawed:
	}
}

// Answer implements [agent.Frozen].
func (z *frozen) Answer() wire.FreezeAnswer { return z.answer }

// Thaw implements [agent.Frozen].
func (z *frozen) Thaw(ctx context.Context) ([]string, bool, error) {
	z.once.Do(func() {
		select {
		case <-z.thawed: // nothing was frozen
		default:
			go z.thaw()
		}
	})
	ctx, cancel := context.WithTimeout(ctx, thawLimit)
	defer cancel()
	select {
	case <-z.thawed:
		return z.points, z.held, z.err
	case <-ctx.Done():
		return nil, false, fmt.Errorf("thaw: %w", ctx.Err())
	}
}

// thaw thaws in the reverse order. The watchdog goes on until the kernel has answered every call: a freeze that was given
// up may yet succeed.
func (z *frozen) thaw() {
	z.held = true
	for _, f := range slices.Backward(z.files) {
		if f.begun {
			z.held = false
			continue
		}
		if !f.ok {
			continue
		}
		switch err := ioctlThaw(int(f.file.Fd())); {
		case err == nil:
			z.points = append(z.points, f.mount.Point)
		case errors.Is(err, unix.EINVAL): // it was not frozen any more
			z.held = false
		default:
			z.held = false
			z.err = errors.Join(z.err, fmt.Errorf("%s: thaw: %w", f.mount.Point, err))
		}
	}
	if z.err == nil && !slices.ContainsFunc(z.files, func(f *frozenFile) bool { return f.begun }) {
		z.held = z.dog.release() && z.held
		z.closeFiles()
		close(z.thawed)
		return
	}
	close(z.thawed)
	z.stragglers()
}

// stragglers thaws what freezes after it was given up, and only then lets the watchdog go.
func (z *frozen) stragglers() {
	for _, f := range z.files {
		if f.begun && <-f.done == nil {
			ioctlThaw(int(f.file.Fd()))
		}
	}
	if z.err != nil { // the watchdog tries its luck after the hold
		select {
		case <-z.dog.gone:
		case <-time.After(z.hold + thawLimit):
		}
	}
	z.dog.release()
	z.closeFiles()
}

func ioctlThaw(fd int) error { return unix.IoctlSetInt(fd, fiThaw, 0) }
