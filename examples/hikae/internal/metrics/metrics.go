// Package metrics shows what a mover does to Prometheus: as a page behind a token on this machine's own address, or as
// a file for node_exporter's textfile collector, which needs no listener at all.
package metrics

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// Metrics counts. It is a [mover.Observer].
type Metrics struct {
	registry *prometheus.Registry
	sessions *prometheus.GaugeVec
	wire     *prometheus.CounterVec
	asked    *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	failed   *prometheus.CounterVec
	refused  *prometheus.CounterVec
}

var _ mover.Observer = (*Metrics)(nil)

// New returns metrics that are all zero.
func New() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		sessions: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "hikae_mover_sessions", Help: "Sessions that are open."}, []string{"peer"}),
		wire:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hikae_mover_wire_bytes_total", Help: "Bytes on the wire."}, []string{"direction"}),
		asked:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hikae_mover_blocks_asked_total", Help: "Blocks that peers asked for by fingerprint."}, []string{"peer", "answer"}),
		bytes:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hikae_mover_bytes_total", Help: "Bytes of blocks: placed (decoded), brought (as content, encoded), stored (added to the repository)."}, []string{"peer", "what"}),
		failed:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hikae_mover_failures_total", Help: "Calls that were answered with a failure, by code (PROTOCOL.md)."}, []string{"peer", "call", "code"}),
		refused:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hikae_mover_refused_total", Help: "Connections that were turned away before they had a session."}, []string{"why"}),
	}
	m.registry.MustRegister(m.sessions, m.wire, m.asked, m.bytes, m.failed, m.refused)
	return m
}

func (m *Metrics) Session(peer string, delta int) {
	m.sessions.WithLabelValues(peer).Add(float64(delta))
}

func (m *Metrics) Wire(in, out int64) {
	m.wire.WithLabelValues("in").Add(float64(in))
	m.wire.WithLabelValues("out").Add(float64(out))
}

func (m *Metrics) Blocks(peer string, b mover.BlockCount) {
	m.asked.WithLabelValues(peer, "known").Add(float64(b.Known))
	m.asked.WithLabelValues(peer, "missing").Add(float64(b.Missing))
	m.bytes.WithLabelValues(peer, "placed").Add(float64(b.PlainBytes))
	m.bytes.WithLabelValues(peer, "brought").Add(float64(b.WireBytes))
	m.bytes.WithLabelValues(peer, "stored").Add(float64(b.Stored))
}

func (m *Metrics) Failed(peer string, kind wire.Kind, code wire.Code) {
	m.failed.WithLabelValues(peer, kind.String(), fmt.Sprint(uint16(code))).Inc()
}

func (m *Metrics) Refused(why string) { m.refused.WithLabelValues(why).Inc() }

// Write writes the metrics to a file, in place of the one before, every 15 seconds until ctx ends, and once then.
func (m *Metrics) Write(ctx context.Context, path string, log *slog.Logger) {
	tick := time.NewTicker(15 * time.Second)
	defer tick.Stop()
	for done := false; ; {
		if err := prometheus.WriteToTextfile(path, m.registry); err != nil {
			log.Warn("metrics could not be written", "file", path, "error", err)
		}
		if done {
			return
		}
		select {
		case <-ctx.Done():
			done = true
		case <-tick.C:
		}
	}
}

// ErrPublic says that an address could be reached from other machines.
var ErrPublic = errors.New("metrics are shown on this machine's own address only")

// Listen opens a listener for Serve: on a loopback address, as the page is not encrypted.
func Listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	if tcp, ok := l.Addr().(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() {
		return nil, errors.Join(fmt.Errorf("%s: %w", address, ErrPublic), l.Close())
	}
	return l, nil
}

// Serve shows the page /metrics to who brings the token, until ctx ends (RFC 6750: Authorization: Bearer TOKEN).
func (m *Metrics) Serve(ctx context.Context, l net.Listener, token string) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", bearer(token, promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})))
	s := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10}
	stop := context.AfterFunc(ctx, func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if s.Shutdown(bounded) != nil {
			s.Close()
		}
	})
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// bearer lets in who brings the token. Its digests are compared, so that the time taken tells nothing of it.
func bearer(token string, next http.Handler) http.Handler {
	want := sha256.Sum256([]byte("Bearer " + token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got := sha256.Sum256([]byte(r.Header.Get("Authorization")))
		if token == "" || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "a token is needed", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}
