package metrics_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/diskvm"
	"github.com/hikae/hikae/job/metrics"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/memstore"
)

// series are all values by name and labels, as the exposition has them.
func series(t *testing.T, m *metrics.Metrics) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	require.NoError(t, r.Register(m))
	families, err := r.Gather()
	require.NoError(t, err)
	out := map[string]float64{}
	for _, f := range families {
		require.NotEmpty(t, f.GetHelp())
		for _, one := range f.GetMetric() {
			var labels []string
			for _, l := range one.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			out[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = one.GetCounter().GetValue() + one.GetGauge().GetValue() + float64(one.GetHistogram().GetSampleCount())
		}
	}
	return out
}

// Two backups and one that fails stand in the figures, as the sessions' own results have them.
func TestSessions(t *testing.T) {
	ctx := t.Context()
	r, err := repo.Init(ctx, memstore.New(nil), nil, &repo.InitOptions{BlockSize: 64 << 10, NoEncryption: true}, &repo.OpenOptions{CacheDir: t.TempDir()})
	require.NoError(t, err)
	defer r.Close()
	path := filepath.Join(t.TempDir(), "disk.raw")
	m := metrics.New(&metrics.Options{VMs: 1, Labels: map[string]string{"job": "nightly"}})
	var read, moved, stored int64
	for _, name := range []string{"web1", "web2"} {
		require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte(name), 100_000), 0o600))
		vm, err := diskvm.Open(ctx, name, []diskvm.File{{Key: "disk0", Path: path}}, nil)
		require.NoError(t, err)
		res, err := job.Backup(ctx, vm, "", r, &job.BackupOptions{Events: m.Session("backup")})
		require.NoError(t, err)
		read, moved, stored = read+res.Disks[0].Read, moved+res.Disks[0].Moved, stored+res.Stored
	}
	vm, err := diskvm.Open(ctx, "web3", []diskvm.File{{Key: "disk0", Path: path}}, nil)
	require.NoError(t, err)
	require.NoError(t, os.Remove(path))
	_, err = job.Backup(ctx, vm, "", r, &job.BackupOptions{Events: m.Session("backup")})
	require.Error(t, err)

	s := series(t, m)
	require.Equal(t, 2.0, s["hikae_sessions_total{job=nightly,kind=backup,outcome=done}"])
	require.Equal(t, 1.0, s["hikae_sessions_total{job=nightly,kind=backup,outcome=failed}"])
	require.Equal(t, 0.0, s["hikae_sessions{job=nightly,kind=backup}"])
	require.Equal(t, 3.0, s["hikae_session_seconds{job=nightly,kind=backup}"])
	require.Positive(t, moved)
	require.Equal(t, float64(read), s["hikae_bytes_total{job=nightly,kind=backup,what=read}"])
	require.Equal(t, float64(moved), s["hikae_bytes_total{job=nightly,kind=backup,what=moved}"])
	require.Equal(t, float64(stored), s["hikae_bytes_total{job=nightly,kind=backup,what=stored}"])
	require.Positive(t, s["hikae_phase_seconds_total{job=nightly,kind=backup,phase=copy}"])
	require.Positive(t, s["hikae_vm_last_success_timestamp_seconds{job=nightly,kind=backup,vm=web1}"])
	require.NotContains(t, s, "hikae_vm_last_success_timestamp_seconds{job=nightly,kind=backup,vm=web2}", "one VM has series of its own")
	require.Equal(t, 1.0, s["hikae_vms_left_out{job=nightly}"])
}
