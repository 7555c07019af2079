package qga

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
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
	_, err := c.ThawHeld(ctx, 0)
	return err
}

// ThawHeld is Thaw by whoever froze that many file systems. It reports whether they were frozen until then, as far as the
// guest tells: held is false where fewer were thawed, or where the agent refused and nothing is frozen any more, as on
// Windows after 10 s. Where the first answer was lost nobody knows, and held is true.
func (c *Client) ThawHeld(ctx context.Context, frozen int) (held bool, err error) {
	ctx, cancel := bounded(ctx, Timeout)
	defer cancel()
	answered := time.Now() // or let us wait, at least
	thawed, lost := 0, false
	for {
		n, err := c.tryThaw(ctx)
		thawed = min(thawed+max(n, 0), math.MaxInt32)
		lost = lost || n < 0
		if err == nil {
			return thawed >= frozen || lost, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
			answered = time.Now()
		}
		if time.Since(answered) > refusedFor {
			return false, fmt.Errorf("thaw: not confirmed: %w", err)
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("thaw: not confirmed: %w", err)
		case <-c.done:
			return false, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// tryThaw tries once. n is how many file systems the agent says it has thawed; negative: its answer was lost.
func (c *Client) tryThaw(ctx context.Context) (n int, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.try)
	defer cancel()
	var said json.RawMessage
	thawed := c.Do(ctx, "guest-fsfreeze-thaw", nil, &said)
	if thawed != nil && !Refused(thawed) {
		return -1, thawed
	}
	if thawed == nil && json.Unmarshal(said, &n) != nil {
		n = -1 // it did something, and did not say how much
	}
	frozen, err := c.Frozen(ctx)
	if err == nil && frozen {
		return n, errors.Join(errors.New("the guest says that it is frozen still"), thawed)
	}
	return n, err
}
