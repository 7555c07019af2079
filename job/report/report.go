package report

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/hikae/hikae/job"
)

// Report is one session, told.
type Report struct {
	job.Record
	Trend []Past `json:"trend,omitempty"` // oldest first; the session itself is the last where it made a point

	Usual   *Usual   `json:"usual,omitempty"`   // of the same VM's runs before
	Remarks []Remark `json:"remarks,omitempty"` // what is out of the ordinary
}

// Past is what one earlier backup of the same VM came to.
type Past struct {
	Session string    `json:"session"`
	Point   string    `json:"point"`
	Time    time.Time `json:"time"`
	Stored  int64     `json:"stored"` // bytes, without parity
	Read    int64     `json:"read"`
	Seconds float64   `json:"seconds"`

	Increment   bool  `json:"increment"` // it was built on a base
	Moved       int64 `json:"moved"`
	Random      int64 `json:"random"`
	Overwritten int64 `json:"overwritten"`
	Randomized  int64 `json:"randomized"`
}

// maxTrend is how many points a trend shows.
const maxTrend = 30

// New makes a report of a session. earlier are records in the order of [job.Sessions.List], newest first; those of
// other VMs, restores and failed sessions are left out of the trend, and so is everything newer than the session.
func New(record job.Record, earlier []job.Record) *Report {
	r := &Report{Record: record}
	if record.Backup == nil {
		return r
	}
	if i := slices.IndexFunc(earlier, func(e job.Record) bool { return e.Session() == record.Session() }); i >= 0 {
		earlier = earlier[i+1:]
	}
	for _, e := range append([]job.Record{record}, earlier...) {
		if e.Backup == nil || e.Backup.Point == "" || e.Backup.VM != record.Backup.VM || len(r.Trend) == maxTrend {
			continue
		}
		r.Trend = append(r.Trend, past(e.Backup))
	}
	slices.Reverse(r.Trend)
	if record.Backup.Point != "" {
		now, before := alike(r.Trend)
		r.Usual, r.Remarks = usualOf(before), remarks(now, before)
	}
	return r
}

func past(b *job.Result) Past {
	sum := sumOf(b.Disks)
	return Past{Session: b.Session, Point: b.Point, Time: b.Started, Stored: sum.Stored, Read: sum.Read, Seconds: b.Seconds,
		Increment: b.Base != "", Moved: sum.Moved, Random: sum.Random, Overwritten: sum.Overwritten, Randomized: sum.Randomized}
}

// sumOf adds up what happened to the disks.
func sumOf(disks []job.DiskResult) job.DiskResult {
	sum := job.DiskResult{Skipped: map[string]int64{}}
	for _, d := range disks {
		sum.Size += d.Size
		sum.Read += d.Read
		sum.Deduplicated += d.Deduplicated
		sum.Moved += d.Moved
		sum.Stored += d.Stored
		sum.Parity += d.Parity
		sum.Random += d.Random
		sum.Overwritten += d.Overwritten
		sum.Randomized += d.Randomized
		for reason, n := range d.Skipped {
			sum.Skipped[reason] += n
		}
	}
	return sum
}

// JSON writes the report as one document.
func (r *Report) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// status is the outcome in one word and a class for its colour.
func (r *Report) status() (word, class string) {
	switch {
	case r.Error != "":
		return "Failed", "bad"
	case len(r.warnings()) > 0:
		return "Done, with warnings", "warn"
	}
	return "Done", "good"
}

func (r *Report) warnings() []string {
	switch {
	case r.Backup != nil:
		return r.Backup.Warnings
	case r.Restore != nil:
		return r.Restore.Warnings
	case r.Boot != nil:
		return r.Boot.Warnings
	}
	return nil
}

// bottleneck says in words a person can act on what a session waited for.
func bottleneck(side string, stages map[string]float64, restore bool) string {
	stage, busy := busiest(side, stages)
	if side == "" || busy == 0 {
		return "Nothing had to be copied, so nothing was slow."
	}
	how := fmt.Sprintf("%s was busy %s of the copying time", stageWords[stage], percent(busy))
	switch {
	case side == "source" && restore:
		return "The repository set the pace: " + how + ". A faster disk under the repository, or a faster way to it, would shorten the restore."
	case side == "source":
		return "The source set the pace: " + how + ". Faster storage under the VM, or a faster way to it, would shorten the backup; more processors would not."
	case side == "pipe":
		return "The processors set the pace: " + how + ". More cores, or a lighter compression, would shorten it; faster disks would not."
	case side == "network":
		return "The network set the pace: " + how + ". A faster line, or a stronger compression, would shorten it; faster disks would not."
	case side == "target" && restore:
		return "The place restored to set the pace: " + how + ". Faster storage there would shorten the restore."
	}
	return "The repository set the pace: " + how + ". A faster disk under the repository, or a faster way to it, would shorten the backup."
}

// stageOrder is the order of the flow, with the side that each stage is on.
var stageOrder = []struct{ name, side string }{
	{"read", "source"}, {"exclude", "pipe"}, {"fingerprint", "pipe"},
	{"deduplicate", "target"}, {"compress", "pipe"}, {"send", "network"}, {"write", "target"},
}

var stageWords = map[string]string{
	"read": "reading", "exclude": "looking for what can be left out", "fingerprint": "fingerprinting",
	"deduplicate": "asking which blocks are new", "compress": "compressing", "send": "sending", "write": "writing",
}

func busiest(side string, stages map[string]float64) (stage string, busy float64) {
	for _, s := range stageOrder {
		if s.side == side && stages[s.name] > busy {
			stage, busy = s.name, stages[s.name]
		}
	}
	return stage, busy
}

// reasonWords say why a range was not moved, in the order of a report.
var reasonWords = []struct{ reason, words string }{
	{"unchanged", "unchanged since the base"}, {"zero", "zero"}, {"free", "free space"}, {"swap", "swap"},
	{"excluded", "excluded files"}, {"bad", "unreadable"},
}
