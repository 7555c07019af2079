package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/engine"
)

// run is a run of many VMs: most are well, one warned, one failed after three tries, one was cancelled before it was begun.
func run(n int) *engine.Result {
	res := &engine.Result{Job: "nightly", Run: "20260328T023000Z-k7q2m9", State: engine.Failed, Started: at(28), Seconds: 640}
	for i := range n {
		r := example()
		b := r.Backup
		b.VM, b.Session = fmt.Sprintf("web%d", i), fmt.Sprintf("%d-k7q2m9ax", 100+i)
		b.Started, b.Seconds = at(28).Add(time.Duration(i*20)*time.Second), 40+float64(i*37%90)
		b.Bottleneck = []string{"pipe", "source", "source"}[i%3]
		b.Phases["copy"] = b.Seconds - 5
		t := engine.TaskResult{ID: b.VM, VM: b.VM, Kind: "backup", State: engine.Done, Attempts: 1, Waited: float64(i * 20), Seconds: b.Seconds,
			Outcome: engine.Outcome{Record: &r, Point: b.Point}}
		switch i {
		case 1:
			b.Warnings, t.State = []string{"the guest's agent did not answer, so its file systems were not frozen"}, engine.Warned
			t.Warnings = append([]string{"the claim on vm/web1 was not given back: it is away"}, b.Warnings...)
		case 2:
			f := failed()
			f.Backup.VM, f.Backup.Bottleneck, t.Record, t.Point = "web2", "", &f, ""
			t.State, t.Attempts, t.Error, t.Err = engine.Failed, 3, f.Error, errors.New(f.Error)
		case 3:
			t = engine.TaskResult{ID: b.VM, VM: b.VM, Kind: "backup", State: engine.Cancelled, Error: "it was cancelled", Err: engine.ErrCancelled}
		}
		res.Tasks = append(res.Tasks, t)
	}
	return res
}

func jobs() map[string]*Job {
	usual := earlier(9)
	for i := range usual {
		usual[i].Backup.VM = "web0"
	}
	nightly := NewJob(run(8), usual)
	nightly.VMs[2].Hint = "Look at the host's log: the disk under the VM could not be read."
	nightly.Error = "2 of 8 VMs failed"
	nightly.Steps = []JobStep{
		{What: "copy", Where: "mover://offsite.example.org/hikae", State: "done", Begun: at(28).Add(300 * time.Second), Seconds: 210, Text: "6 points, 7.8 GiB stored"},
		{What: "verify", Where: "/backup/hikae", State: "failed", Begun: at(28).Add(510 * time.Second), Seconds: 120, Text: "2 places are damaged: `hikae verify --repair` mends what can be mended"},
	}
	nightly.Hooks = []JobHook{{When: "after-job", What: "https://hooks.example.org/backup", Seconds: 0.4, Result: "well"}, {When: "before-vm", VM: "web1", What: "/usr/local/bin/quiet", Result: "exit status 1", Output: "no such unit"}}
	nightly.Notes = []string{"nothing was forgotten, as 2 VMs have no new point"}
	return map[string]*Job{
		"job": nightly, "jobempty": {Name: "new", Run: "1", State: "cancelled", Error: "interrupted"},
		"jobmany": NewJob(run(260), nil),
	}
}

func jobPage_(t *testing.T, j *Job) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, j.HTML(&b))
	require.NotContains(t, b.String(), "ZgotmplZ", "the template let something through that had to be blanked")
	return b.String()
}

func TestJobTextIsAsReviewed(t *testing.T) {
	for name, j := range jobs() {
		if name == "jobmany" {
			continue
		}
		var b bytes.Buffer
		require.NoError(t, j.Text(&b))
		golden := filepath.Join("testdata", name+".txt")
		if *update {
			require.NoError(t, os.WriteFile(golden, b.Bytes(), 0o644))
		}
		want, err := os.ReadFile(golden)
		require.NoError(t, err)
		require.Equal(t, string(want), b.String())
	}
}

// The page of a job says all that a person needs, each VM's own page is folded into it, and it needs nothing else.
func TestJobPage(t *testing.T) {
	for name, j := range jobs() {
		text := jobPage_(t, j)
		requireWellFormed(t, text)
		for _, bad := range []string{"<script", "<link", "@import", "url(", "src=\"h", "href=\"h"} {
			require.NotContains(t, text, bad, name)
		}
		if dir := os.Getenv("HIKAE_TEST_REPORT_DIR"); dir != "" { // to look at
			require.NoError(t, os.WriteFile(filepath.Join(dir, name+".html"), []byte(text), 0o600))
		}
	}
	text := jobPage_(t, jobs()["job"])
	for _, part := range []string{
		"Failed</span>", "6 of 8", "web2", "input/output error", "Look at the host&#39;s log", "web1: the guest&#39;s agent did not answer", "web1: the claim on",
		`<a href="#vm-0">web0</a>`, `<details id="vm-0">`, "This VM's last points", "2 places are damaged", "The source set the pace", "no such unit", "nothing was forgotten",
	} {
		require.True(t, strings.Contains(text, part), part)
	}
	require.Equal(t, 1, strings.Count(text, "<li>web1: the guest&#39;s agent did not answer"), "a warning is told once")
	require.NotContains(t, text, `href="#vm-3"`, "what was never begun has no session")
}

// A page of very many VMs stays one that a browser shows: all stand in its table, the sessions that went wrong come first, and it says how many it left out.
func TestJobPageOfManyVMs(t *testing.T) {
	j := jobs()["jobmany"]
	for i := range 5 {
		vm := &j.VMs[255+i]
		vm.State, vm.Error = "failed", "no room"
	}
	v := j.view()
	require.Len(t, v.VMs.Rows, 260)
	require.Len(t, v.Sessions, maxFolded)
	require.Equal(t, 259-maxFolded, v.Left)
	require.Len(t, v.Lines, maxLines)
	require.Equal(t, "vm-259", v.VMs.Refs[259])
	require.Empty(t, v.VMs.Refs[254])
	require.Less(t, len(jobPage_(t, j)), 8<<20)
}

func TestJobJSON(t *testing.T) {
	j := jobs()["job"]
	var b bytes.Buffer
	require.NoError(t, j.JSON(&b))
	var back Job
	require.NoError(t, json.Unmarshal(b.Bytes(), &back))
	require.Equal(t, *j, back)
}

// What waited and what ran stand where they were in the run's time, and none leaves the chart, whatever clocks did.
func TestJobLines(t *testing.T) {
	j := &Job{Started: at(1), Seconds: 100, VMs: []JobVM{
		{VM: "short", Begun: at(1).Add(50 * time.Second), Seconds: 10, State: "done"}, {VM: "long", Begun: at(1), Seconds: 80, State: "done"},
		{VM: "before", Begun: at(1).Add(-time.Hour), Seconds: 1, State: "odd"}, {VM: "never"},
	}, Steps: []JobStep{{What: "copy", Begun: at(1).Add(80 * time.Second), Seconds: 120}}}
	v := j.view()
	require.Equal(t, []bar{
		{Name: "long", Value: "80.0 s", Class: "at-good", From: 0, Share: 0.4}, {Name: "short", Value: "10.0 s", Class: "at-good", From: 0.25, Share: 0.05},
		{Name: "before", Value: "1.0 s", Class: "at-warn", From: 0, Share: 0.005}, {Name: "copy", Value: "2:00 min", Class: "at-step", From: 0.4, Share: 0.6},
	}, v.Lines, "the longest VM first; the run took 200 s with what came after it")
	require.Equal(t, "3:20 min", v.End)
}

// The pace of a job is that of most of its copying time, not of most of its VMs.
func TestJobPace(t *testing.T) {
	one := func(side, stage string, copied float64) *job.Result {
		return &job.Result{Bottleneck: side, Stages: map[string]float64{stage: 0.9}, Phases: map[string]float64{"copy": copied}}
	}
	words, stages := pace([]*job.Result{one("source", "read", 1), one("source", "read", 1), one("target", "write", 8), {}})
	require.Contains(t, words, "The repository set the pace")
	require.Contains(t, words, "So it was for 1 of 3 VMs, which had 80 % of the copying time.")
	require.Len(t, stages, 2)
	require.InDelta(t, 0.18, stages[0].Share, 1e-9)
	require.InDelta(t, 0.72, stages[1].Share, 1e-9)
	words, stages = pace([]*job.Result{{}})
	require.Contains(t, words, "Nothing had to be copied")
	require.Empty(t, stages)
}

// Whoever names a VM or answers a hook does not write the page, nor steer the terminal.
func TestHostileNamesInAJob(t *testing.T) {
	for _, evil := range []string{`</title><script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onload='alert(1)`, `</style><script>`, "\x1b]0;owned\x07\x1b[2J", "a\u202eb", "{{.}}", "]]>"} {
		j := jobs()["job"]
		j.Name, j.Run, j.Error, j.State = evil, evil, evil, evil
		j.Warnings, j.Notes = []string{evil}, []string{evil}
		j.VMs[0] = JobVM{VM: evil, State: evil, Point: evil, Error: evil, Hint: evil, Warnings: []string{evil}, Session: j.VMs[0].Session, Begun: at(28), Seconds: 3}
		j.VMs[0].Session.Backup.Fallbacks[0].Reason = evil
		j.Steps[0] = JobStep{What: evil, Where: evil, State: evil, Text: evil}
		j.Hooks[0] = JobHook{When: evil, VM: evil, What: evil, Result: evil, Output: evil}
		text := jobPage_(t, j)
		for _, bad := range []string{"<script", "<img", "onerror=alert(1)>", "' onload='"} {
			require.NotContains(t, text, bad, evil)
		}
		if !strings.ContainsAny(evil, "\x1b\x07") {
			requireWellFormed(t, text)
		}
		var term bytes.Buffer
		require.NoError(t, j.Text(&term))
		require.NotContains(t, term.String(), "\x1b")
		require.NotContains(t, term.String(), "\u202e")
	}
}
