package session

import (
	"errors"
	"time"
)

var (
	errSlept = errors.New("this machine stood still; the line is opened anew")
	errIdle  = errors.New("the lane was not needed")
)

// standstill is how long nothing may happen here before the lanes are not trusted any more: their other ends have given
// them up, or will before a Ping is answered.
const standstill = 15 * time.Second

// sleepWatch notices that the process or the machine stood still. On Linux the monotonic clock goes on while a process is
// stopped, and stands while the machine is suspended (clock_gettime(2)), when only the wall clock tells.
type sleepWatch struct {
	wall      func() time.Time
	lastWall  time.Time
	lastMoved time.Time
}

func newSleepWatch(wall func() time.Time) *sleepWatch {
	return &sleepWatch{wall: wall, lastWall: wall().Round(0), lastMoved: time.Now()}
}

// slept reports whether there was a standstill since it was asked last. It is to be asked each second.
func (w *sleepWatch) slept() bool {
	wall, now := w.wall().Round(0), time.Now()
	passed := max(wall.Sub(w.lastWall), now.Sub(w.lastMoved))
	w.lastWall, w.lastMoved = wall, now
	return passed > standstill
}
