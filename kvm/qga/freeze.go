package qga

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"
)

// Frozen reports whether file systems of the guest are frozen.
func (c *Client) Frozen(ctx context.Context) (bool, error) {
	var status string
	if err := c.repeat(ctx, "guest-fsfreeze-status", nil, &status); err != nil {
		return false, err
	}
	switch status {
	case "frozen":
		return true, nil
	case "thawed":
		return false, nil
	}
	return false, fmt.Errorf("guest-fsfreeze-status: %w: %.40q", ErrProtocol, status)
}

// repeat runs a command that may be run twice, once more on a fresh connection where the answer does not come. Each
// try gets half of the time that is left, so that there is time for the second.
func (c *Client) repeat(ctx context.Context, command string, args, out any) error {
	ctx, cancel := bounded(ctx, Timeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	first, stop := context.WithTimeout(ctx, time.Until(deadline)/2)
	err := c.Do(first, command, args, out)
	stop()
	if err == nil || Refused(err) || errors.Is(err, ErrTooLong) || ctx.Err() != nil {
		return err
	}
	return c.Do(ctx, command, args, out)
}

// Freeze freezes the file systems of the guest and returns how many. The caller calls Thaw on every path afterwards,
// whatever Freeze returned, unless that is ErrFrozen.
func (c *Client) Freeze(ctx context.Context) (int, error) {
	frozen, err := c.Frozen(ctx)
	if err != nil {
		return 0, err
	}
	if frozen {
		return 0, ErrFrozen
	}
	var n int
	err = c.Do(ctx, "guest-fsfreeze-freeze", nil, &n)
	return n, err
}

// thawTry bounds one attempt to thaw.
const thawTry = 3 * time.Second

// refusedFor is how long a socket may refuse before there is nobody behind it: QEMU listens for as long as it lives, so
// it has ended, and nothing is frozen any more.
const refusedFor = 2 * time.Second

// Thaw thaws the file systems of the guest, and returns nil only when the agent has said that none is frozen. An
// answer that does not come within 3 s is asked for again on a fresh connection, until the context ends, or until the
// socket has been refusing for 2 s, which wraps fs.ErrNotExist or syscall.ECONNREFUSED. To thaw what is not frozen is no
// error.
func (c *Client) Thaw(ctx context.Context) error {
	ctx, cancel := bounded(ctx, Timeout)
	defer cancel()
	answered := time.Now() // or let us wait, at least
	for {
		err := c.tryThaw(ctx)
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
			answered = time.Now()
		}
		if time.Since(answered) > refusedFor {
			return fmt.Errorf("thaw: not confirmed: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("thaw: not confirmed: %w", err)
		case <-c.done:
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (c *Client) tryThaw(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.try)
	defer cancel()
	thawed := c.Do(ctx, "guest-fsfreeze-thaw", nil, nil)
	if thawed != nil && !Refused(thawed) {
		return thawed
	}
	frozen, err := c.Frozen(ctx)
	if err == nil && frozen {
		return errors.Join(errors.New("the guest says that it is frozen still"), thawed)
	}
	return err
}
