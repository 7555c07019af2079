package lockd

import "time"

// clock is the helper's time: what it began with, and what has passed since by a counter that nobody sets.
type clock struct {
	base  int64 // seconds since 1970, when since was began
	began int64
	boot  string
	since func() int64 // seconds since boot, suspension included
}

// startClock finds the time to begin with. doubt says by how much the wall clock is further on than is believed.
func startClock(last stamp, wall int64, boot string, since func() int64, maxStep time.Duration, vouched bool) (c *clock, doubt time.Duration) {
	c = &clock{began: since(), boot: boot, since: since, base: max(wall, last.at)}
	switch {
	case last.at == 0 || vouched:
	case last.boot == boot: // the wall clock is not asked
		c.base = last.at + max(0, c.began-last.since)
	case c.base-last.at > int64(maxStep/time.Second):
		doubt = time.Duration(min(c.base-last.at, int64(1<<33))) * time.Second
		c.base = last.at
	}
	return c, doubt
}

func (c *clock) now() stamp {
	n := c.since()
	return stamp{c.base + n - c.began, c.boot, n}
}
