package proxy

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// Lease is a place on a machine. Its holder renews it in time, which is well before [Pool]'s life of a lease is over, and
// releases it in the end.
type Lease struct {
	pool    *Pool
	machine string
	holder  string
	since   time.Time
	lost    chan struct{}

	ends  time.Time // with those below under the pool's lock
	timer *time.Timer
	over  bool
}

// Machine is where the place is.
func (l *Lease) Machine() string { return l.machine }

// Lost is closed when the lease ends without having been released.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// Renew begins the lease's life anew. An [ErrLeaseLost] says that it has ended: the place may be somebody else's.
func (l *Lease) Renew() error {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	if l.over {
		return fmt.Errorf("%s on %s: %w", l.holder, l.machine, ErrLeaseLost)
	}
	l.ends = time.Now().Add(l.pool.life)
	l.timer.Reset(l.pool.life)
	return nil
}

// Release gives the place back. Again, or after the lease was lost, it does nothing.
func (l *Lease) Release() {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	l.leave()
}

// expire ends a lease that was not renewed. A timer that was about to fire while the lease was renewed finds time left.
func (l *Lease) expire() {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	if l.over || time.Now().Before(l.ends) {
		return
	}
	l.lose()
	l.leave()
}

// lose tells the holder. The pool is locked.
func (l *Lease) lose() {
	if !l.over {
		l.over = true
		l.timer.Stop()
		close(l.lost)
	}
}

// leave frees the place and lets others have it. The pool is locked.
func (l *Lease) leave() {
	l.over = true
	l.timer.Stop()
	if s := l.pool.machines[l.machine]; s != nil {
		if _, held := s.leases[l]; held {
			delete(s.leases, l)
			l.pool.serve()
		}
	}
}

func compareLeases(a, b LeaseState) int {
	return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Holder, b.Holder))
}

// String is the pool's state: a line for each machine, and who waits.
func (s PoolState) String() string {
	var b strings.Builder
	for _, m := range s.Machines {
		fmt.Fprintf(&b, "%s: %s\n", m.Machine, load(m.Tasks, m.Limit))
		for _, l := range m.Leases {
			fmt.Fprintf(&b, "    %s since %s\n", l.Holder, l.Since.UTC().Format(time.RFC3339))
		}
	}
	if len(s.Waiting) > 0 {
		fmt.Fprintf(&b, "waiting: %s\n", strings.Join(s.Waiting, ", "))
	}
	return b.String()
}
