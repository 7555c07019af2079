// Package metrics shows what sessions do to Prometheus. It is an adapter: package job knows nothing of it, and who does not import it
// does not compile Prometheus' library.
//
//	m := metrics.New(nil)
//	prometheus.MustRegister(m)
//	job.Backup(ctx, provider, vm, backend, &job.BackupOptions{Events: m.Session("backup")})
//
// The series that have a VM's name are bounded by [Options.VMs]: a shop with more machines keeps its counters, and
// hikae_vms_left_out says how many have no series of their own.
package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hikae/hikae/job"
)

// Options are how metrics are kept. Nil and zero fields are good defaults.
type Options struct {
	// VMs is how many virtual machines have series of their own at most. Zero: 10,000. Negative: none.
	VMs int
	// Labels stand in every series, such as {"job": "nightly"}.
	Labels map[string]string
}

const defaultVMs = 10_000

// Metrics counts sessions. It is a [prometheus.Collector], and safe for concurrent use.
type Metrics struct {
	all []prometheus.Collector

	open      *prometheus.GaugeVec
	ended     *prometheus.CounterVec
	took      *prometheus.HistogramVec
	phases    *prometheus.CounterVec
	bytes     *prometheus.CounterVec
	skipped   *prometheus.CounterVec
	fallbacks *prometheus.CounterVec
	warnings  *prometheus.CounterVec
	last      *prometheus.GaugeVec
	leftOut   prometheus.Gauge

	most int
	mu   sync.Mutex
	vms  map[string]bool
	out  map[string]bool // without series of their own, of which the first few thousand are told apart
}

var _ prometheus.Collector = (*Metrics)(nil)

// New returns metrics that are all zero.
func New(opts *Options) *Metrics {
	o := Options{}
	if opts != nil {
		o = *opts
	}
	if o.VMs == 0 {
		o.VMs = defaultVMs
	}
	m := &Metrics{most: max(0, o.VMs), vms: map[string]bool{}, out: map[string]bool{}}
	f := family{m, o.Labels}
	m.open = f.gauge("hikae_sessions", "Sessions that are open.", "kind")
	m.ended = f.counter("hikae_sessions_total", "Sessions that ended. Outcome: done, warned or failed.", "kind", "outcome")
	m.took = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "hikae_session_seconds", Help: "How long sessions took.", ConstLabels: o.Labels,
		Buckets: prometheus.ExponentialBuckets(1, 3, 11)}, []string{"kind"}) // 1 s to 16 h
	f.add(m.took)
	m.phases = f.counter("hikae_phase_seconds_total", "Where the sessions' time went.", "kind", "phase")
	m.bytes = f.counter("hikae_bytes_total", "Bytes of disks: size, read, deduplicated, moved (new, before compression), random (of moved: compressed or encrypted), "+
		"stored, parity, written.", "kind", "what")
	m.skipped = f.counter("hikae_skipped_bytes_total", "Bytes that were never moved, by reason.", "kind", "reason")
	m.fallbacks = f.counter("hikae_fallbacks_total", "Disks that had to be read by another way than was asked for.", "from", "to")
	m.warnings = f.counter("hikae_warnings_total", "Warnings of sessions.", "kind")
	m.last = f.gauge("hikae_vm_last_success_timestamp_seconds", "When the newest session of a VM that did what it was asked for began, in seconds since 1970.", "kind", "vm")
	m.leftOut = prometheus.NewGauge(prometheus.GaugeOpts{Name: "hikae_vms_left_out", Help: "VMs that have no series of their own, as there are too many.", ConstLabels: o.Labels})
	f.add(m.leftOut)
	return m
}

// family makes series that share labels.
type family struct {
	m      *Metrics
	labels prometheus.Labels
}

func (f family) add(c prometheus.Collector) { f.m.all = append(f.m.all, c) }

func (f family) counter(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: f.labels}, labels)
	f.add(c)
	return c
}

func (f family) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: f.labels}, labels)
	f.add(g)
	return g
}

// Describe implements [prometheus.Collector].
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.all {
		c.Describe(ch)
	}
}

// Collect implements [prometheus.Collector].
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.all {
		c.Collect(ch)
	}
}

// Session returns who listens to the events of one session, for [job.BackupOptions] or [job.RestoreOptions]. kind is one word, such as
// "backup"; there should be few of them.
func (m *Metrics) Session(kind string) func(job.Event) {
	s := &session{m: m, kind: kind}
	return s.event
}

// session is one that is open. Its events come one at a time.
type session struct {
	m     *Metrics
	kind  string
	open  bool
	phase job.Phase
	since time.Time
}

func (s *session) event(e job.Event) {
	switch e := e.(type) {
	case job.PhaseStarted:
		if !s.open {
			s.open = true
			s.m.open.WithLabelValues(s.kind).Inc()
		}
		s.enter(e.Phase)
	case job.FellBack:
		s.m.fallbacks.WithLabelValues(string(e.From), string(e.To)).Inc()
	case job.Warned:
		s.m.warnings.WithLabelValues(s.kind).Inc()
	case job.SessionEnded:
		s.enter("")
		if s.open {
			s.m.open.WithLabelValues(s.kind).Dec()
		}
		s.open = false
		s.m.end(s.kind, &e.Record)
	}
}

func (s *session) enter(p job.Phase) {
	now := time.Now()
	if s.phase != "" {
		s.m.phases.WithLabelValues(s.kind, string(s.phase)).Add(now.Sub(s.since).Seconds())
	}
	s.phase, s.since = p, now
}

func (m *Metrics) end(kind string, r *job.Record) {
	outcome := "done"
	var warnings []string
	var started time.Time
	switch {
	case r.Backup != nil:
		warnings, started = r.Backup.Warnings, r.Backup.Started
		m.took.WithLabelValues(kind).Observe(r.Backup.Seconds)
		m.backup(kind, r.Backup)
	case r.Restore != nil:
		warnings, started = r.Restore.Warnings, r.Restore.Started
		m.took.WithLabelValues(kind).Observe(r.Restore.Seconds)
		m.restore(kind, r.Restore)
	}
	if len(warnings) > 0 {
		outcome = "warned"
	}
	if r.Error != "" {
		outcome = "failed"
	} else if vm := r.VM(); m.has(vm) {
		m.last.WithLabelValues(kind, vm).Set(float64(started.Unix()))
	}
	m.ended.WithLabelValues(kind, outcome).Inc()
}

func (m *Metrics) backup(kind string, b *job.Result) {
	for _, d := range b.Disks {
		for what, n := range map[string]int64{"size": d.Size, "read": d.Read, "deduplicated": d.Deduplicated, "moved": d.Moved, "random": d.Random} {
			m.bytes.WithLabelValues(kind, what).Add(float64(n))
		}
		for reason, n := range d.Skipped {
			m.skipped.WithLabelValues(kind, reason).Add(float64(n))
		}
	}
	m.bytes.WithLabelValues(kind, "stored").Add(float64(b.Stored))
	m.bytes.WithLabelValues(kind, "parity").Add(float64(b.Parity))
}

func (m *Metrics) restore(kind string, r *job.RestoreResult) {
	for _, d := range r.Disks {
		for what, n := range map[string]int64{"size": d.Size, "read": d.Read, "written": d.Written} {
			m.bytes.WithLabelValues(kind, what).Add(float64(n))
		}
	}
}

// has reports whether a VM has series of its own.
func (m *Metrics) has(vm string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.vms[vm]:
		return true
	case len(m.vms) < m.most:
		m.vms[vm] = true
		return true
	case len(m.out) < defaultVMs:
		m.out[vm] = true
		m.leftOut.Set(float64(len(m.out)))
	}
	return false
}
