package metrics

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func counted() *Metrics {
	m := New()
	m.Session("site-a", 1)
	m.Wire(10, 20)
	m.Blocks("site-a", mover.BlockCount{Known: 3, Missing: 4, PlainBytes: 5, WireBytes: 6, Stored: 7})
	m.Failed("site-a", wire.KindPut, wire.CodeMismatch)
	m.Refused("unknown")
	return m
}

var lines = []string{
	`hikae_mover_sessions{peer="site-a"} 1`,
	`hikae_mover_wire_bytes_total{direction="out"} 20`,
	`hikae_mover_blocks_asked_total{answer="missing",peer="site-a"} 4`,
	`hikae_mover_bytes_total{peer="site-a",what="brought"} 6`,
	`hikae_mover_failures_total{call="Put",code="11",peer="site-a"} 1`,
	`hikae_mover_refused_total{why="unknown"} 1`,
}

// Every listener has authentication, and this one is not encrypted: so it is for this machine alone.
func TestServe(t *testing.T) {
	_, err := Listen("0.0.0.0:0")
	require.ErrorIs(t, err, ErrPublic)
	l, err := Listen("127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- counted().Serve(ctx, l, "secret") }()
	get := func(auth string) (int, string) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.Addr().String()+"/metrics", nil)
		require.NoError(t, err)
		r.Header.Set("Authorization", auth)
		answer, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		return answer.StatusCode, string(body)
	}
	for _, wrong := range []string{"", "Bearer ", "Bearer secre", "Bearer secrets", "Basic secret"} {
		status, body := get(wrong)
		require.Equal(t, http.StatusUnauthorized, status, wrong)
		require.NotContains(t, body, "hikae")
	}
	status, body := get("Bearer secret")
	require.Equal(t, http.StatusOK, status)
	for _, line := range lines {
		require.Contains(t, body, line)
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	require.NoError(t, <-done)
}

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hikae.prom")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	counted().Write(ctx, path, slog.New(slog.DiscardHandler))
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, line := range lines {
		require.Contains(t, string(data), line)
	}
}
