package schedule

import "time"

// Set is several schedules of one thing: it happens whenever one of them says so, and once where several do.
type Set []Schedule

// Next is the first time after t. It is false where there is none.
func (s Set) Next(t time.Time) (next time.Time, ok bool) {
	for _, one := range s {
		if at, has := one.Next(t); has && (!ok || at.Before(next)) {
			next, ok = at, true
		}
	}
	return next, ok
}

// Last is the last time that is not after t. It is false where there was none.
func (s Set) Last(t time.Time) (last time.Time, ok bool) {
	for _, one := range s {
		if at, has := one.Last(t); has && (!ok || at.After(last)) {
			last, ok = at, true
		}
	}
	return last, ok
}

// Due says what is to be done now, given when the last run was meant for or begun, which is the zero time where there was none:
// the newest run that is due since then, if it is not older than catchUp. Runs before it are made up for by it. A clock that was
// put back before the last run makes nothing due until that time has come again.
//
// Where nothing ever ran, nothing was missed.
func (s Set) Due(last, now time.Time, catchUp time.Duration) (at time.Time, due bool) {
	if last.IsZero() {
		return time.Time{}, false
	}
	at, ok := s.Last(now)
	if !ok || !at.After(last) || now.Sub(at) > catchUp {
		return time.Time{}, false
	}
	return at, true
}
