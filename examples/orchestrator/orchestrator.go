package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/engine"
	"github.com/hikae/hikae/job/metrics"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/vmware"
)

// orchestrator takes requests from a queue and has them worked on, all that wait together.
type orchestrator struct {
	out      io.Writer
	client   *vmware.Client
	repo     *repo.Repository
	journal  *hikae.FileJournal // what is done on hosts, so that the next start can undo what this one leaves
	claims   *hikae.FileClaims  // one session at a VM, whichever program it is of
	sessions *job.Sessions
	metrics  *metrics.Metrics
	series   *prometheus.Registry
	waiting  prometheus.Gauge
	queue    chan string // names of VMs; a real one is a table, a topic, an HTTP handler

	mu      sync.Mutex
	control *engine.Control // of the run under way
}

func newOrchestrator(dir string, out io.Writer, client *vmware.Client, r *repo.Repository) (o *orchestrator, err error) {
	o = &orchestrator{out: out, client: client, repo: r, queue: make(chan string, 1000), control: &engine.Control{},
		metrics: metrics.New(nil), series: prometheus.NewRegistry(),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{Name: "orchestrator_waiting", Help: "Requests that wait."})}
	o.series.MustRegister(o.metrics, o.waiting)
	if o.sessions, err = job.OpenSessions(filepath.Join(dir, "sessions")); err != nil {
		return nil, err
	}
	if o.claims, err = hikae.OpenFileClaims(filepath.Join(dir, "claims")); err != nil {
		return nil, err
	}
	o.journal, err = hikae.OpenFileJournal(filepath.Join(dir, "journal"))
	return o, err
}

func (o *orchestrator) close() error { return o.journal.Close() }

// listen is the cancel button.
func (o *orchestrator) listen(commands io.Reader, buttons <-chan os.Signal) {
	go func() {
		for range buttons {
			o.steer((*engine.Control).Cancel)
		}
	}()
	for lines := bufio.NewScanner(commands); lines.Scan(); {
		word, name, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		switch word {
		case "cancel":
			o.steer(func(c *engine.Control) { c.CancelTask(name) })
		case "pause":
			o.steer(func(c *engine.Control) { c.Pause(false) })
		case "resume":
			o.steer((*engine.Control).Resume)
		}
	}
}

func (o *orchestrator) steer(do func(*engine.Control)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	do(o.control)
}

// requests are all that wait, each VM once.
func (o *orchestrator) requests() (names []string) {
	seen := map[string]bool{}
	for {
		select {
		case name := <-o.queue:
			if !seen[name] {
				names = append(names, name)
			}
			seen[name] = true
		default:
			return names
		}
	}
}

// work backs up what waits in the queue.
func (o *orchestrator) work(ctx context.Context) (err error) {
	names := o.requests()
	o.waiting.Set(float64(len(names)))
	found, err := o.client.Find(ctx, vmware.Selection{VMs: names})
	if err != nil {
		return err
	}
	provider, err := vmware.New(o.client, vmware.Refs(found), nil)
	if err != nil {
		return err
	}
	tasks, release, err := engine.Backups(ctx, provider, nil, o.repo, &engine.BackupsOptions{
		Each: func(hikae.VM) *job.BackupOptions {
			return &job.BackupOptions{Journal: o.journal, Sessions: o.sessions, Events: o.metrics.Session("backup")}
		},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release(context.WithoutCancel(ctx))) }()
	for i := range tasks {
		tasks[i].ID = tasks[i].VM // people cancel by names, and the names of one request differ
	}
	result, err := engine.Run(ctx, "orchestrator", tasks, &engine.Options{
		Limits:  map[string]int{"tasks": 3, "host/*": 2},
		Retry:   engine.Retry{First: 200 * time.Millisecond, Most: 5 * time.Second},
		Control: o.control,
		Claims:  o.claims,
		Events:  o.event,
	})
	fmt.Fprintln(o.out, result.String())
	o.mu.Lock()
	o.control = &engine.Control{} // one belongs to one run
	o.mu.Unlock()
	if result.State == engine.Cancelled || result.State == engine.Warned {
		return nil // somebody wished it so, or is told already
	}
	return err
}

// event shows a run to people. A session's own events come through it too.
func (o *orchestrator) event(e engine.Event) {
	switch e.What {
	case engine.Begun:
		o.waiting.Dec()
		o.say(e.VM, "begun, try %d", e.Attempt)
	case engine.Retried:
		o.waiting.Inc()
		line, _, _ := strings.Cut(e.Err.Error(), "\n")
		o.say(e.VM, "again in %s: %.110s", e.Wait.Round(10*time.Millisecond), line)
	case engine.Told:
		if p, ok := e.Session.(job.PhaseStarted); ok && p.Phase == job.PhaseCopy {
			o.say(e.VM, "snapshot taken, copying")
		}
	case engine.Paused, engine.Resumed:
		fmt.Fprintln(o.out, " ", e.What)
	case engine.Ended:
		if e.Result.Attempts == 0 { // cancelled while it waited
			o.waiting.Dec()
		}
		if e.Result.Record != nil && e.Result.Point != "" {
			b := e.Result.Record.Backup
			o.say(e.VM, "%s: point %.12s, of %s blocks %d KiB read, %d KiB stored", e.Result.State, b.Point, b.Disks[0].Method, b.Disks[0].Read>>10, b.Stored>>10)
		} else {
			o.say(e.VM, "%s: %v", e.Result.State, e.Err)
		}
		for _, w := range e.Result.Warnings {
			o.say(e.VM, "look at this: %s", w)
		}
	}
}

func (o *orchestrator) say(vm, format string, args ...any) {
	fmt.Fprintf(o.out, "  %-6s "+format+"\n", append([]any{vm}, args...)...)
}

// figures shows a few of the metrics, as Prometheus would collect them.
func (o *orchestrator) figures(dir string) error {
	path := filepath.Join(dir, "metrics.prom")
	if err := prometheus.WriteToTextfile(path, o.series); err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	fmt.Fprintln(o.out, "\nSome of the metrics:")
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "orchestrator_") || strings.HasPrefix(line, "hikae_sessions_total") || strings.HasPrefix(line, "hikae_bytes_total") {
			fmt.Fprint(o.out, "  ", line)
		}
	}
	return nil
}
