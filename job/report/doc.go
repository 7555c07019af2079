// Package report tells what a session did: as text for a terminal, as JSON for a script, and as one page of HTML that
// needs nothing else, for a person who wants to see where the time went.
//
// Reach for it with a [job.Record], fresh or from [job.Sessions]. [New] adds what earlier sessions of the same VM
// stored, so that a trend shows.
//
//	r := report.New(record, earlier)
//	err := r.HTML(w)
//
// A run of many VMs has a [Job], which [NewJob] makes of what the engine returns.
//
// # The page
//
// It holds no script, loads nothing, and forbids itself to. Charts are inline SVG; every figure that a chart shows
// stands in a table or label too. It follows the reader's light or dark scheme and prints.
//
// Names of VMs, disks and errors come from outside: all text is escaped.
package report
