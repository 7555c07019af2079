package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/job"
)

var update = flag.Bool("update", false, "write the golden files")

func at(day int) time.Time { return time.Date(2026, 3, day, 2, 30, 0, 0, time.UTC) }

const gib = 1 << 30

// example is an increment of a machine with two disks.
func example() job.Record {
	return job.Record{Kind: job.KindBackup, Backup: &job.Result{
		Session: "42-k7q2m9ax", Point: "9f31c0ffee5a4d7788aa01b2c3d4e5f6", VM: "web1", Base: "11aa22bb33cc44dd55ee66ff77889900",
		Target:  "mover backup.example:7420, trusted: it holds the repository's keys",
		Started: at(28), Consistency: "application",
		Disks: []job.DiskResult{
			{Key: "scsi0:0", Size: 80 * gib, Method: job.Changed, Read: 5 * gib, Skipped: map[string]int64{"unchanged": 74 * gib, "zero": gib, "swap": gib / 2},
				Deduplicated: 2 * gib, Moved: 5 * gib / 2, Stored: 1_180_000_000, Parity: 36_000_000, Seconds: 21.4},
			{Key: "scsi0:1", Size: 20 * gib, Method: job.Allocated, Read: 8 * gib, Skipped: map[string]int64{"zero": 12 * gib, "free": gib},
				Deduplicated: 13 * gib / 2, Moved: gib / 2, Stored: 210_000_000, Parity: 6_000_000, Seconds: 17.9},
		},
		Volumes: []job.VolumeResult{
			{Name: "scsi0:0:1", Kind: "ext4", Label: "root", Size: 40 * gib, Parts: []job.VolumePart{{Disk: "scsi0:0", Offset: 1 << 20, Length: 40 * gib}}, Free: 21 * gib, Excluded: 3 * gib, Files: 1204},
			{Name: "scsi0:0:2", Kind: "swap", Size: gib, Parts: []job.VolumePart{{Disk: "scsi0:0", Offset: 41 * gib, Length: gib}}, Swap: gib - 4096},
			{Name: "data/db", Kind: "xfs", Size: 50 * gib, Parts: []job.VolumePart{{Disk: "scsi0:0", Offset: 42 * gib, Length: 38 * gib}, {Disk: "scsi0:1", Length: 12 * gib}}, Whole: "its log cannot be replayed", Caution: true},
		},
		Fallbacks: []job.Fallback{{Disk: "scsi0:1", From: job.Changed, To: job.Allocated, Reason: "change tracking was lost"}},
		Notes:     []string{"disk scsi0:2 was not asked for"}, Warnings: []string{},
		Stages:     map[string]float64{"read": 0.41, "exclude": 0.06, "fingerprint": 0.22, "deduplicate": 0.03, "compress": 0.71, "write": 0.18},
		Bottleneck: "pipe", Seconds: 43.2, Parity: 42_000_000, Stored: 1_390_000_000,
		Phases: map[string]float64{"plan": 0.3, "snapshot": 2.1, "exclude": 0.6, "copy": 38.8, "commit": 0.9, "release": 0.5},
	}}
}

func earlier(n int) (out []job.Record) {
	for i := range n {
		r := example()
		r.Backup.Session, r.Backup.Started = fmt.Sprintf("%d-aaaaaaaa", 41-i), at(27-i)
		r.Backup.Disks = []job.DiskResult{{Key: "scsi0:0", Read: int64(3+i*7%5) * gib, Moved: int64(1+i*7%3) * gib, Stored: int64(400_000_000 + i*i*31_000_000%900_000_000)}}
		r.Backup.Seconds = 30 + float64(i*17%23)
		if i == n-1 {
			r.Backup.Disks[0].Stored, r.Backup.Seconds = 9_000_000_000, 181
		}
		out = append(out, r)
	}
	return out
}

func failed() job.Record {
	return job.Record{Kind: job.KindBackup, Error: "disk scsi0:0: read [4096, 8192): input/output error", Backup: &job.Result{
		Session: "43-abcdefgh", VM: "web1", Started: at(29), Consistency: "unknown", Warnings: []string{"the old base was kept"}, Seconds: 0.75,
		Phases: map[string]float64{"plan": 0.25, "copy": 0.5},
	}}
}

func restored() job.Record {
	return job.Record{Kind: job.KindRestore, Restore: &job.RestoreResult{
		Session: "44-abcdefgh", Point: "9f31c0ffee5a4d7788aa01b2c3d4e5f6", VM: "web1", ID: "out/", Started: at(30),
		Disks: []job.RestoredDisk{{Key: "scsi0:0", Size: 80 * gib, Read: 21 * gib, Written: 21 * gib, Compared: true, Seconds: 62},
			{Key: "scsi0:1", Size: 20 * gib, Read: 8 * gib, Written: 8 * gib, Seconds: 23}},
		Holes: []job.Hole{{Disk: "scsi0:1", Offset: 1 << 20, Length: 256 << 10, File: "/var/log/syslog"}}, Warnings: []string{"disk scsi0:1: 262144 bytes in 1 ranges could not be had and read as zero"},
		Stages: map[string]float64{"read": 0.93, "exclude": 0.05, "write": 0.61}, Bottleneck: "source", Seconds: 86,
	}}
}

func booted() job.Record {
	return job.Record{Kind: job.KindBootCheck, Error: "the machine did not pass its boot check: port 443: not within 5m0s", Boot: &job.BootResult{
		Session: "45-abcdefgh", Point: "9f31c0ffee5a4d7788aa01b2c3d4e5f6", VM: "web1", Started: at(31), Seconds: 312.4, Written: 71 << 20,
		Checks:   []job.BootCheck{{Name: "started", Passed: true}, {Name: "agent", Passed: true, Seconds: 24.4}, {Name: "port 443", Detail: "not within 5m0s; last: port 443: the guest refused the connection", Seconds: 300}},
		Mapping:  []string{"memory: 4096 MiB, as recorded", "disks: on sata, in the point's order"},
		Warnings: []string{}, Serial: "Debian GNU/Linux 12 web1 ttyS0\n\nweb1 login: ", Screen: []byte("\x89PNG"),
	}}
}

func reports() map[string]*Report {
	return map[string]*Report{
		"backup": New(example(), earlier(9)), "failed": New(failed(), nil), "restore": New(restored(), nil),
		"boot":  New(booted(), nil),
		"empty": New(job.Record{Kind: job.KindBackup, Backup: &job.Result{VM: "new", Disks: []job.DiskResult{}}}, nil),
	}
}

func TestTextIsAsReviewed(t *testing.T) {
	for name, r := range reports() {
		var b bytes.Buffer
		require.NoError(t, r.Text(&b))
		golden := filepath.Join("testdata", name+".txt")
		if *update {
			require.NoError(t, os.MkdirAll("testdata", 0o755))
			require.NoError(t, os.WriteFile(golden, b.Bytes(), 0o644))
		}
		want, err := os.ReadFile(golden)
		require.NoError(t, err)
		require.Equal(t, strings.ReplaceAll(string(want), "\r\n", "\n"), b.String(), name)
	}
}

func TestPageIsWellFormedAndNeedsNothing(t *testing.T) {
	for name, r := range reports() {
		text := page_(t, r)
		requireWellFormed(t, text)
		for _, bad := range []string{"<script", "http://", "https://", "<link", "@import", "url(", "src=\"h", "src=\"/"} {
			require.NotContains(t, text, bad, name)
		}
		require.Contains(t, text, "prefers-color-scheme: dark")
		if dir := os.Getenv("HIKAE_TEST_REPORT_DIR"); dir != "" { // to look at
			require.NoError(t, os.WriteFile(filepath.Join(dir, name+".html"), []byte(text), 0o600))
		}
	}
}

func page_(t *testing.T, r *Report) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, r.HTML(&b))
	require.NotContains(t, b.String(), "ZgotmplZ", "the template let something through that had to be blanked")
	return b.String()
}

// requireWellFormed: what a strict parser reads, every browser reads the same way.
func requireWellFormed(t *testing.T, text string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(text))
	d.Entity = xml.HTMLEntity
	for {
		_, err := d.Token()
		if err == io.EOF {
			return
		}
		require.NoError(t, err)
	}
}

// Whoever names a VM does not write the page, nor steer the terminal.
func TestHostileNames(t *testing.T) {
	for _, evil := range []string{
		`</title><script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onload='alert(1)`, `</style><script>`, `--><b>`, `javascript:alert(1)`, "\x1b]0;owned\x07\x1b[2J", "a\u202eb", "\x00", "{{.}}", "&lt;", "]]>",
	} {
		r := example()
		b := r.Backup
		b.VM, b.Session, b.Point, b.Base, b.Consistency, b.Bottleneck = evil, evil, evil, evil, evil, evil
		b.Disks[0].Key, b.Disks[0].Method = evil, job.Method(evil)
		b.Disks[0].Skipped[evil] = gib
		b.Volumes[0] = job.VolumeResult{Name: evil, Kind: evil, Label: evil, UUID: evil, Whole: evil, Parts: []job.VolumePart{{Disk: evil}}}
		b.Fallbacks[0].Reason, b.Fallbacks[0].Disk = evil, evil
		b.Warnings, b.Notes, r.Error = []string{evil}, []string{evil}, evil
		b.Stages[evil], b.Phases[evil] = 1, 1
		rep := New(r, earlier(3))
		text := page_(t, rep)
		for _, bad := range []string{"<script", "<img", "<b>", "onerror=alert(1)>", "' onload='"} {
			require.NotContains(t, text, bad, evil)
		}
		if !strings.ContainsAny(evil, "\x00\x1b\x07") {
			requireWellFormed(t, text)
		}
		var term bytes.Buffer
		require.NoError(t, rep.Text(&term))
		require.NotContains(t, term.String(), "\x1b")
		require.NotContains(t, term.String(), "\u202e")
		require.NotContains(t, term.String(), "\x00")
	}
}

func TestTrend(t *testing.T) {
	now := example()
	list := append([]job.Record{failed(), restored(), now}, earlier(40)...)
	other := example()
	other.Backup.VM, other.Backup.Session = "db1", "1-x"
	list = append(list, other)
	r := New(now, list)
	require.Len(t, r.Trend, maxTrend)
	require.Equal(t, now.Session(), r.Trend[maxTrend-1].Session)
	require.True(t, r.Trend[0].Time.Before(r.Trend[1].Time), "oldest first")
	require.Equal(t, int64(1_390_000_000), r.Trend[maxTrend-1].Stored)
	require.Len(t, New(other, list).Trend, 1)
	require.Empty(t, New(restored(), list).Trend)
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, New(example(), earlier(2)).JSON(&b))
	var back Report
	require.NoError(t, json.Unmarshal(b.Bytes(), &back))
	require.Equal(t, *New(example(), earlier(2)), back)
}

func TestUnits(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB", 100 << 20: "100 MiB", 1 << 40: "1.0 TiB", 1<<63 - 1: "8.0 EiB"} {
		require.Equal(t, want, size(n))
	}
	for s, want := range map[float64]string{0: "0 ms", 0.25: "250 ms", 1: "1.0 s", 59.94: "59.9 s", 100: "1:40 min", 86399: "23:59 h", 720000: "200 h"} {
		require.Equal(t, want, duration(s))
	}
	require.Equal(t, "–", ratio(0, 5))
	require.Equal(t, "2.00×", ratio(10, 5))
	require.Equal(t, "–", rate(10, 0))
}

func TestBottleneckIsAdvice(t *testing.T) {
	stages := example().Backup.Stages
	for side, word := range map[string]string{"source": "storage under the VM", "pipe": "cores", "target": "disk under the repository", "": "Nothing"} {
		require.Contains(t, bottleneck(side, stages, false), word)
	}
	for side, word := range map[string]string{"source": "disk under the repository", "target": "storage there"} {
		require.Contains(t, bottleneck(side, stages, true), word)
	}
}

// A disk that is written over has what it had where nothing was written, and no zeros; and a person finds the VM by its name.
func TestInPlace(t *testing.T) {
	r := restored()
	r.Restore.InPlace, r.Restore.Where = true, job.Where{Name: "web1", Host: "HV1", Folder: `C:\VMs\web1`}
	var b bytes.Buffer
	require.NoError(t, New(r, nil).Text(&b))
	require.NotContains(t, b.String(), "Left as zero")
	require.NotContains(t, b.String(), "holes")
	require.Contains(t, b.String(), "Left as it was")
	require.Contains(t, b.String(), `web1 on HV1, in C:\VMs\web1`)
}
