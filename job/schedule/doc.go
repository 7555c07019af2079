// Package schedule says when a job runs: schedules, the windows in which work may start, and what becomes of runs that were
// missed. It is pure: a text and a time zone in, times out. It reads no clock and waits for nothing.
//
// # Schedules
//
// [Parse] takes one of these; words may be in capitals, and days are mon … sun, also in full:
//
//	daily at 22:00                       each day; several times: daily at 06:00, 18:00
//	weekly on mon,wed,fri at 22:00       days, or a range (mon-fri), weekdays, weekends
//	monthly on last friday at 23:00      first, second, third, fourth or last of a day of the week
//	monthly on day 31 at 23:00           a month that is shorter has it on its last day
//	monthly on last day at 23:00
//	every 30 minutes                     also 4 hours, 90m; counted from each midnight, in time that passes
//	15 2 * * 1-5                         minute, hour, day of the month, month, day of the week, as cron has them
//
// # When clocks are changed
//
// What is written is the time that a clock on the wall of the zone shows. Where the zone puts its clocks ahead or back, a run is
// neither doubled nor lost:
//
//	a time that is skipped        the run is at the moment after the gap (02:30 where 02:00 becomes 03:00: at 03:00)
//	several that are skipped      one run, at that moment, and none besides if there is one then anyhow
//	a time that comes twice       the run is at the first
//	a cron line with * for hours  means every hour that passes: a repeated hour has its runs, a skipped one has none
//	every N minutes               counts time that passes: a day of 23 hours has fewer runs, one of 25 has more
//
// # Windows
//
// A [Window] is a list of spans of the week, such as "mon-fri 20:00-06:00", "sat,sun" or "22:00-04:00". A span whose end is not
// after its begin ends on the next day, and belongs to the day on which it begins. Its borders follow the same rules: a skipped
// border is at the moment after the gap, one that comes twice at the first. So a window over a night in which clocks are put back
// is an hour longer.
//
// # Missed runs
//
// A run that nobody was there for is made up for if it is not older than the schedule's owner says, and several of them by one
// ([Set.Due]): a second full look at the same VMs would find what the first one has just stored.
package schedule
