package tracing_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/diskvm"
	"github.com/hikae/hikae/job/tracing"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/memstore"
)

// A backup is a span with its phases below it, and its disks below the copy; one that fails has its error.
func TestSpans(t *testing.T) {
	ctx := t.Context()
	r, err := repo.Init(ctx, memstore.New(nil), nil, &repo.InitOptions{BlockSize: 64 << 10, NoEncryption: true}, &repo.OpenOptions{CacheDir: t.TempDir()})
	require.NoError(t, err)
	defer r.Close()
	path := filepath.Join(t.TempDir(), "disk.raw")
	require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte("hikae"), 100_000), 0o600))
	vm, err := diskvm.Open(ctx, "web1", []diskvm.File{{Key: "disk0", Path: path}}, nil)
	require.NoError(t, err)

	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test")
	_, events := tracing.Session(ctx, tracer, "backup")
	res, err := job.Backup(ctx, vm, "", r, &job.BackupOptions{Events: events})
	require.NoError(t, err)

	ended := spans.Ended()
	by := map[string]sdktrace.ReadOnlySpan{}
	for _, s := range ended {
		by[s.Name()] = s
	}
	root := by["hikae backup"]
	require.Equal(t, root, ended[len(ended)-1], "it ends last")
	for _, phase := range []string{"plan", "snapshot", "copy", "commit", "release"} {
		require.Equal(t, root.SpanContext().SpanID(), by[phase].Parent().SpanID(), phase)
	}
	require.Equal(t, by["copy"].SpanContext().SpanID(), by["disk"].Parent().SpanID())
	require.Contains(t, root.Attributes(), attribute.String("hikae.point", res.Point))
	require.Contains(t, root.Attributes(), attribute.String("hikae.vm", "web1"))
	require.Contains(t, root.Attributes(), attribute.Int64("hikae.bytes.moved", res.Disks[0].Moved))
	require.Contains(t, by["disk"].Attributes(), attribute.String("hikae.disk", "disk0"))
	require.Equal(t, codes.Unset, root.Status().Code)

	require.NoError(t, os.Remove(path))
	_, events = tracing.Session(ctx, tracer, "backup")
	_, err = job.Backup(ctx, vm, "", r, &job.BackupOptions{Events: events})
	require.Error(t, err)
	ended = spans.Ended()
	last := ended[len(ended)-1]
	require.Equal(t, codes.Error, last.Status().Code)
	require.Equal(t, err.Error(), last.Status().Description)
	require.Equal(t, len(spans.Started()), len(ended), "every span ends")
}
