package job

import "time"

// clock measures how long a session spends in each phase.
type clock struct {
	start, since time.Time
	now          Phase
	spent        map[Phase]time.Duration
}

func startClock() *clock {
	now := time.Now()
	return &clock{start: now, since: now, spent: map[Phase]time.Duration{}}
}

func (c *clock) enter(p Phase) {
	now := time.Now()
	if c.now != "" {
		c.spent[c.now] += now.Sub(c.since)
	}
	c.now, c.since = p, now
}

func (c *clock) stop() { c.enter("") }

func (c *clock) phases() map[string]float64 {
	out := map[string]float64{}
	for p, d := range c.spent {
		out[string(p)] = seconds(d)
	}
	return out
}

func (c *clock) total() float64 { return seconds(c.since.Sub(c.start)) }
