// Package retention decides which restore points of a VM stay and which may go, and says for each one why.
//
// It is pure: points and a policy in, a [Plan] out. It reads no clock, no file and no repository, and it removes
// nothing; whoever forgets points acts on the plan, or shows it and does nothing. The same input gives the same plan.
//
// # A policy
//
// A policy is a set of rules, written as [Parse] takes them:
//
//	last=3,daily=7,weekly=8,monthly=12,yearly=3,within=2d,tag=audit
//
// A point stays if at least one rule keeps it. Rules never take away from each other, so more rules, or larger
// numbers, never remove a point that fewer would have kept.
//
//   - last=N keeps the N newest points, by the order of the log.
//   - hourly, daily, weekly, monthly, yearly=N keep one point in each of the N newest periods that have any: the newest
//     one, or the newest that is whole if some are not. Periods without points do not count, so a VM that was not backed
//     up for a year loses nothing by it. Weeks are those of ISO 8601: they begin on Monday, and the days around New Year
//     belong to the year that has the week's Thursday.
//   - within=D keeps whatever is not more than D older than the last point but one. D is elapsed time; a day is 24 hours.
//   - tag=T keeps points that have the tag. Tags alone are no policy.
//
// A period is represented by its newest point, for that one never changes any more once the period is over. Applied every
// night, a policy leaves what it would leave if it were applied once, to all points that there ever were.
//
// For every number "all" may stand. Whatever is held stays under every policy.
//
// With daily=2,weekly=2 and these points of one VM, in the zone UTC:
//
//	Fri 2026-11-13 22:00  a  goes   2026-11-13 is older than the 2 newest days with points; 2026-W46 has b, which is newer
//	Sun 2026-11-15 22:00  b  stays  newest of 2026-W46
//	Fri 2026-11-20 22:00  c  goes   2026-11-20 is older than the 2 newest days with points; 2026-W47 has f, which is newer
//	Sat 2026-11-21 22:00  d  stays  newest of 2026-11-21
//	Sun 2026-11-22 10:00  e  goes   2026-11-22 has f, which is newer; 2026-W47 has f, which is newer
//	Sun 2026-11-22 22:00  f  stays  newest point; newest of 2026-11-22; newest of 2026-W47
//
// # What no policy removes
//
// The newest point of a VM, by the log. And every point for which all later ones are worse: a series of points with
// holes never pushes out the last one that is whole, and a guest component that has stopped working never pushes out the
// last application-consistent point. That is at most five points for a VM, mostly one. Who wants them gone names them.
//
// A policy that cannot be read, has a negative number, or keeps nothing is a [PolicyError], and there is no plan. The
// same goes for a history that contradicts itself: a [HistoryError].
//
// # Clocks
//
// Points are ordered by the numbers of the log, which nobody's clock can change. Times only name periods, and they are
// not believed blindly:
//
//   - Of a VM's points the longest series in log order whose times never step back is trusted. A point outside it is
//     doubtful. So one point from 2099 among others is doubtful as soon as one was made after it. So is a
//     point whose time is not known, or lies more than a day after [Options.Now].
//   - A doubtful point uses up no period, and no rule by time removes it: it stays and is reported until somebody forgets
//     it by name. Under a policy that has only last=N, times mean nothing and it is a point like any other.
//   - Removing points must not turn the vote around. So a few trusted points stay for each doubtful one: one more than
//     doubtful points agree with each other.
//   - That the time D of "within" has passed is believed when two points say so. A single point with a clock that
//     jumped ahead, which has nothing after it yet, removes nothing by "within". Without Options.Now it can use up one
//     period of each rule, until the next point shows it up.
//
// Options.Now only ever makes more points stay: a clock that is behind makes points doubtful that are right, and one that is
// ahead is as good as none.
//
// # Calendars
//
// One zone names the periods of all points of a call. A day that a zone skipped does not exist and costs nothing; a
// day of 23 or 25 hours is a day. The hour that comes twice when clocks are put back is two hours, told apart by
// their offsets. Go's time has no leap seconds: 23:59:60 cannot be a point's time.
package retention
