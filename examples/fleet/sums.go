package main

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// fleet is what is worked out.
type fleet struct {
	VMs          int
	Petabytes    float64
	Used         float64
	Unique       float64
	Compressed   float64
	Change       float64
	Workers      int
	Slots        int
	Link         float64
	Store        float64
	Hosts        int
	PerHost      int
	Read         float64
	Overhead     time.Duration
	Repositories int
	Lease        time.Duration
	Seed         uint64
}

func defaults() *fleet {
	return &fleet{VMs: 10_000, Petabytes: 1, Used: 0.6, Unique: 0.7, Compressed: 0.5, Change: 0.03, Workers: 40, Slots: 8, Link: 10, Store: 160,
		Hosts: 250, PerHost: 4, Read: 300, Overhead: 45 * time.Second, Repositories: 32, Lease: time.Minute, Seed: 1}
}

func (f *fleet) check() error {
	shares := []float64{f.Used, f.Unique, f.Compressed, f.Change}
	for _, s := range shares {
		if s <= 0 || s > 1 {
			return errors.New("a share is more than 0 and at most 1")
		}
	}
	switch {
	case f.VMs < 1 || f.VMs > 1_000_000 || f.Workers < 1 || f.Workers > 10_000 || f.Slots < 1 || f.Slots > 256:
		return errors.New("1 to 1,000,000 VMs, 1 to 10,000 workers, 1 to 256 slots")
	case f.Hosts < 1 || f.PerHost < 1 || f.Repositories < 1 || f.Repositories > f.VMs:
		return errors.New("at least one host, one VM of each at once, and one to as many repositories as VMs")
	case f.Petabytes <= 0 || f.Link <= 0 || f.Store <= 0 || f.Read <= 0 || f.Overhead < 0 || f.Lease < time.Second:
		return errors.New("sizes and rates are more than nothing, and a lease at least a second")
	}
	return nil
}

// What was measured; TestFigures measures them again and fails when they are no longer right.
const (
	blockSize     = 256 << 10
	indexPerBlock = 50.0    // bytes in the store, of index objects, for each block
	memoryBlock   = 52.0    // bytes of memory of a process for each block of a repository, at the most: `hikae prune` at 10⁷ blocks, docs/release-tests.md
	recordBytes   = 12288.0 // bytes of one log record, in one of its three places
	recordsPoint  = 3       // log records of a backup: lease, commit, end
	pointBytes    = 12288.0 // bytes of a point's manifest, in one of its three places
	taskMessages  = 52.0    // messages to and from the queue for a task that takes no time
	taskBytes     = 9000.0  // bytes of them
	outcomeBytes  = 1500.0  // bytes of the outcome of a task (1 kB of a VM of disk files, 2 kB of a vSphere), which stays in the queue's table
	outcomeNights = 30      // that outcomes are kept
	beatMessages  = 7.0     // messages for each third of a lease that a task takes
	beatBytes     = 1050.0  // bytes of them
)

// sums are what comes out. Sizes are bytes, rates bytes a second.
type sums struct {
	fleet

	First   night   `json:"first"`
	Nightly night   `json:"nightly"`
	Index   index   `json:"index"`
	Log     logSums `json:"log"`
	Queue   queue   `json:"queue"`
}

// night is one run of all VMs.
type night struct {
	Seconds float64 `json:"seconds"`
	Read    float64 `json:"read"` // from hypervisors
	Sent    float64 `json:"sent"` // to stores
	Busy    float64 `json:"busy"` // share of the workers' slots in use until the last VM began
	Limit   string  `json:"limit"`
}

type index struct {
	Blocks      float64 `json:"blocks"`      // all repositories together
	Stored      float64 `json:"stored"`      // in stores, together
	PerRepo     float64 `json:"perRepo"`     // blocks of one repository
	Memory      float64 `json:"memory"`      // of a process that has one repository open
	BlocksNight float64 `json:"blocksNight"` // new ones in a night
}

type logSums struct {
	RecordsNight float64 `json:"recordsNight"` // one repository
	BytesNight   float64 `json:"bytesNight"`   // one repository, all three places, with manifests
	RecordsYear  float64 `json:"recordsYear"`  // one repository
	PerSecond    float64 `json:"perSecond"`    // records of one repository while the run goes on
}

type queue struct {
	Messages  float64 `json:"messages"` // a night
	Bytes     float64 `json:"bytes"`
	PerSecond float64 `json:"perSecond"` // messages, on average
	Rate      float64 `json:"rate"`      // bytes a second, on average, at the servers; times three between the nodes of a cluster
	Stored    float64 `json:"stored"`    // when all tasks wait
	Outcomes  float64 `json:"outcomes"`  // of a run each night, for as long as they are kept
}

func (f *fleet) sums() *sums {
	s := &sums{fleet: *f}
	vms := f.machines()
	s.First = f.run(vms, func(m *machine) float64 { return m.data }, f.Unique*f.Compressed)
	s.Nightly = f.run(vms, func(m *machine) float64 { return m.data * m.change }, f.Compressed)
	data := f.Petabytes * 1e15 * f.Used
	s.Index.Blocks = data * f.Unique / blockSize
	s.Index.Stored = s.Index.Blocks * indexPerBlock
	s.Index.PerRepo = s.Index.Blocks / float64(f.Repositories)
	s.Index.Memory = s.Index.PerRepo * memoryBlock
	s.Index.BlocksNight = s.Nightly.Read / blockSize
	each := float64(f.VMs) / float64(f.Repositories)
	s.Log.RecordsNight = each * recordsPoint
	s.Log.BytesNight = 3 * each * (recordsPoint*recordBytes + pointBytes)
	s.Log.RecordsYear = s.Log.RecordsNight * 365
	s.Log.PerSecond = s.Log.RecordsNight / s.Nightly.Seconds
	beats := 0.0
	for _, m := range vms {
		beats += math.Floor((m.took.Seconds()) / (f.Lease.Seconds() / 3))
	}
	s.Queue.Messages = float64(f.VMs)*taskMessages + beats*beatMessages
	s.Queue.Bytes = float64(f.VMs)*taskBytes + beats*beatBytes
	s.Queue.PerSecond = s.Queue.Messages / s.Nightly.Seconds
	s.Queue.Rate = s.Queue.Bytes / s.Nightly.Seconds
	s.Queue.Stored = float64(f.VMs) * 500
	s.Queue.Outcomes = float64(f.VMs) * outcomeBytes * outcomeNights
	return s
}

func (s *sums) text() string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-18s "+format+"\n", append([]any{name}, args...)...)
	}
	line("fleet", "%d VMs, %s on disks, %s of data; %d hosts, %d workers with %d slots, %d repositories", s.VMs, size(s.Petabytes*1e15),
		size(s.Petabytes*1e15*s.Used), s.Hosts, s.Workers, s.Slots, s.Repositories)
	line("first run", "%s; read %s, sent %s; slots busy %.0f %%; limited by %s", hours(s.First.Seconds), size(s.First.Read), size(s.First.Sent), 100*s.First.Busy, s.First.Limit)
	line("nightly run", "%s; read %s, sent %s; slots busy %.0f %%; limited by %s", hours(s.Nightly.Seconds), size(s.Nightly.Read), size(s.Nightly.Sent), 100*s.Nightly.Busy, s.Nightly.Limit)
	line("network, nightly", "%s/s into workers, %s/s into stores, on average", size(s.Nightly.Read/s.Nightly.Seconds), size(s.Nightly.Sent/s.Nightly.Seconds))
	line("index", "%s blocks, %s in stores; one repository: %s blocks, %s in memory", count(s.Index.Blocks), size(s.Index.Stored), count(s.Index.PerRepo), size(s.Index.Memory))
	line("log", "one repository: %s records and %s a night, %s records a year; %.2f records/s", count(s.Log.RecordsNight), size(s.Log.BytesNight), count(s.Log.RecordsYear), s.Log.PerSecond)
	line("queue", "%s messages and %s a night; %.0f messages/s, %s/s; %s when all wait, %s of outcomes", count(s.Queue.Messages), size(s.Queue.Bytes), s.Queue.PerSecond, size(s.Queue.Rate), size(s.Queue.Stored), size(s.Queue.Outcomes))
	return b.String()
}

// size is a number of bytes in decimal units, in three digits.
func size(n float64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	i := 0
	for ; n >= 999.5 && i < len(units)-1; i++ {
		n /= 1000
	}
	return fmt.Sprintf("%.3g %s", n, units[i])
}

func count(n float64) string {
	units := []string{"", " thousand", " million", " billion"}
	i := 0
	for ; n >= 999.5 && i < len(units)-1; i++ {
		n /= 1000
	}
	return fmt.Sprintf("%.3g%s", n, units[i])
}

func hours(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Minute).String()[:len(time.Duration(seconds*float64(time.Second)).Round(time.Minute).String())-2]
}
