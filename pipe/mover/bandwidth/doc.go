// Package bandwidth limits what connections carry: in total, by session and by connection, by weekday and local time,
// and fairly among sessions.
//
// A [Shaper] has [Rules], which [Shaper.Set] changes while connections are open. [Shaper.Session] names a session, and
// [Session.Conn] wraps a connection of it. Several connections of one session share what the session gets.
//
// # What a limit means
//
// A limit is bytes per second, for each direction by itself: a line carries both ways at once. Zero is no limit. What
// is counted are the bytes that go through the wrapped connection, so wrap what lies below TLS to count TLS's own
// bytes too.
//
// Over ten seconds a limit is kept within five percent. What was not used is kept for a tenth of a second and no longer.
// A limit below 1 kB/s counts as 1 kB/s: below that, no heartbeat would come through in time.
//
// # What is fair
//
// Where the total is short, every session that has something to carry gets an equal share, whatever the number of its
// connections and the size of its writes. What a session does not use goes to the others at once. Connections of one
// session take turns.
//
//	total ──── divided among sessions with something to carry ────┐
//	                                                              ├─ credit of session 1 ─ own limit ─┬─ connection, own limit
//	                                                              │                                   └─ connection, own limit
//	                                                              └─ credit of session 2 ─ own limit ─── connection, own limit
//
// Tokens of the total are handed to the sessions as credit while they accrue, and not to whoever asks first: a session
// with eight connections asks eight times as often as one with a single one.
//
// # Time
//
// Windows follow the local clock as people read it: in the night in which an hour comes twice, a window over that hour
// counts twice; where an hour is left out, a window that would begin in it begins at its end.
package bandwidth
