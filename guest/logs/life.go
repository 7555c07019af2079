package logs

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/hikae/hikae/guest/agent/wire"
)

// A name is no content. A VM that is put back to an image goes on on the same timeline, and writes other logs under names
// that are stored already; RESET MASTER begins with the first number again. What a guest lists counts as stored only where
// the newest log that both have is the same, byte for byte: histories that part do not meet again, so the logs before that
// one are the same too. Where it is not, the stream begins a new life, and nothing of the old one is told to be safe.

// history is what is stored of a stream's present life.
type history struct {
	life int64
	any  bool
	logs map[string]Log // by timeline and name
	last *Log           // in the chain
	// damaged is a batch behind all that could be read: whether the life had ended in it, nobody can tell.
	damaged *BatchError
}

func (h *history) of(o Log) (Log, bool) {
	old, ok := h.logs[o.Timeline+"/"+o.Name]
	return old, ok
}

// history reads what is stored. A batch that cannot be read is left out: its logs are taken again while the guest has them.
func (s *Service) history(ctx context.Context, st Stream) (*history, error) {
	h := &history{logs: map[string]Log{}}
	for o, err := range s.store.Logs(ctx, st) {
		if errors.As(err, &h.damaged) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if o.Life < h.life { // of an older life; they are stored one after the other
			continue
		}
		if o.Life > h.life {
			h.begin(o.Life)
		}
		h.any, h.damaged = true, nil
		h.logs[o.Timeline+"/"+o.Name] = o
		if _, ok := place(o.Name, o.Size); ok {
			h.last = &o
		}
	}
	return h, nil
}

// begin forgets what was before.
func (h *history) begin(life int64) { h.life, h.logs, h.last = life, map[string]Log{}, nil }

// anew begins a new life where the guest's logs do not continue those that are stored. The gap says why, and is noted with
// the first log of that life.
func (h *history) anew(ctx context.Context, l *link, st Stream, answer wire.LogsAnswer, listed []Log) (*GapError, error) {
	why, err := h.parted(ctx, l, st, answer, listed)
	if why == "" || err != nil {
		return nil, err
	}
	g := &GapError{Stream: st, Before: firstName(listed), Words: why}
	if h.last != nil {
		g.After = h.last.Name
	}
	if g.Before == "" && len(listed) > 0 {
		g.Before = listed[0].Name
	}
	// One more than could be read: the damaged batch may have begun a life too.
	next := h.life + 1
	if h.damaged != nil {
		next++
	}
	h.begin(next)
	for i := range listed {
		if listed[i].Name == g.Before {
			listed[i].Gap = g.Error()
		}
	}
	return g, nil
}

// parted says why what is listed does not continue what is stored; empty where it does.
func (h *history) parted(ctx context.Context, l *link, st Stream, answer wire.LogsAnswer, listed []Log) (string, error) {
	switch {
	case h.damaged != nil:
		return "the last batch that is stored cannot be read: " + h.damaged.Error(), nil
	case !h.any || len(listed) == 0:
		return "", nil
	case answer.New:
		return "what keeps logs in the guest was made anew: nothing tells that they continue those that are stored", nil
	}
	var newest *Log
	for i, o := range listed {
		old, ok := h.of(o)
		if ok && old.Size != o.Size {
			return fmt.Sprintf("a log of this name and %d bytes is stored already, and the guest has one of %d: it has begun anew", old.Size, o.Size), nil
		}
		if ok {
			newest = &listed[i]
		}
	}
	if newest == nil {
		return "", nil
	}
	var sum Sum
	err := l.do(ctx, func(k Keeper) (err error) {
		sum, err = fetchSum(ctx, k, st, *newest, &atMost{newest.Size})
		return err
	})
	if err != nil {
		return "", fmt.Errorf("log %s: %w", newest.Name, err)
	}
	if old, _ := h.of(*newest); sum != old.SHA256 {
		return newest.Name + " is stored already with another content: it has begun anew, since the VM was put back or its logs were reset", nil
	}
	return "", nil
}

// atMost takes so many bytes and throws them away.
type atMost struct{ left int64 }

func (w *atMost) Write(p []byte) (int, error) {
	if w.left -= int64(len(p)); w.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

// split tells logs that are new from those that are stored.
func (h *history) split(listed []Log) (fresh []Log, safe []string) {
	for _, o := range listed {
		if _, ok := h.of(o); ok {
			safe = append(safe, o.Name)
			continue
		}
		o.Life = h.life
		fresh = append(fresh, o)
	}
	return fresh, safe
}
