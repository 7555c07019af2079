package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/diskvm"
	jobfleet "github.com/hikae/hikae/job/fleet"
	"github.com/hikae/hikae/job/natsqueue"
	"github.com/hikae/hikae/job/natsqueue/natsserver"
	jobqueue "github.com/hikae/hikae/job/queue"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/memstore"
)

// The page has what the program prints.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/fleet.md")
	require.NoError(t, err)
	require.Contains(t, string(page), "```\n"+defaults().sums().text()+"```\n")
}

func TestSimulation(t *testing.T) {
	f := defaults()
	f.VMs, f.Petabytes, f.Workers, f.Hosts, f.Repositories = 400, 0.04, 1, 100, 1
	f.Overhead, f.Read, f.Store = 0, 1e6, 1e6 // its own link is each worker's limit
	one := f.sums()
	f.Workers = 4
	four := f.sums()
	require.Equal(t, "the workers' links", one.Nightly.Limit)
	require.InDelta(t, 3.8, one.Nightly.Seconds/four.Nightly.Seconds, 0.25, "the largest VM ends alone")
	require.InEpsilon(t, one.Nightly.Read*8/1e10, one.Nightly.Seconds, 0.01, "one worker reads all at the rate of its link")

	f.Store = 10
	require.Equal(t, "the stores", f.sums().First.Limit)
	f.Hosts, f.PerHost, f.Store, f.Read, f.Overhead = 1, 1, 1e6, 1e6, time.Minute
	require.GreaterOrEqual(t, f.sums().Nightly.Seconds, 400*60.0, "one VM at once: a minute each")
}

func TestBadFleets(t *testing.T) {
	for _, change := range []func(*fleet){
		func(f *fleet) { f.VMs = 0 }, func(f *fleet) { f.Unique = 1.5 }, func(f *fleet) { f.Link = 0 }, func(f *fleet) { f.Lease = 0 },
		func(f *fleet) { f.Repositories = f.VMs + 1 },
	} {
		f := defaults()
		change(f)
		require.Error(t, f.check())
	}
	require.NoError(t, defaults().check())
}

// What a repository needs for each block and point is what the sums are made of.
func TestFiguresOfARepository(t *testing.T) {
	st := memstore.New(nil)
	r, err := repo.Init(t.Context(), st, nil, &repo.InitOptions{BlockSize: 64 << 10, NoEncryption: true}, &repo.OpenOptions{StateDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	const points, blocks = 2, 2048
	chacha := rand.NewChaCha8([32]byte{1})
	base := sizes(t, st)
	for i := range points {
		w, err := r.Begin(t.Context(), fmt.Sprintf("vm%d", i), &pipe.PointOptions{Facts: map[string]string{"os": "Debian GNU/Linux 12", jobfleet.RunFact: "nightly/1/vm"}})
		require.NoError(t, err)
		d, err := w.Disk(t.Context(), "scsi0-0", blocks*64<<10)
		require.NoError(t, err)
		data := make([]byte, 64<<10)
		for k := range int64(blocks) {
			_, _ = chacha.Read(data[:16]) // small once it is compressed, and different
			_, err := d.WriteAt(t.Context(), data, k*64<<10)
			require.NoError(t, err)
		}
		require.NoError(t, d.Commit(t.Context()))
		_, err = w.Commit(t.Context(), nil)
		require.NoError(t, err)
		require.NoError(t, w.Close())
	}
	now := sizes(t, st)
	t.Logf("%v", now)
	part := func(kind string) (n, bytes float64) {
		return float64(now[kind].n - base[kind].n), float64(now[kind].bytes - base[kind].bytes)
	}
	records, bytes := part("log")
	require.InDelta(t, recordsPoint, records/points, 0.6)
	require.InEpsilon(t, recordBytes, bytes/records, 0.3)
	_, bytes = part("index")
	require.InEpsilon(t, indexPerBlock, bytes/points/blocks, 0.3)
	_, bytes = part("manifest")
	require.InEpsilon(t, pointBytes, bytes/points, 0.3)
}

type kindSize struct{ n, bytes int64 }

// sizes are objects by the first word of their names.
func sizes(t *testing.T, st *memstore.Store) map[string]kindSize {
	out := map[string]kindSize{}
	for info, err := range st.List(t.Context(), "") {
		require.NoError(t, err)
		kind, _, _ := strings.Cut(info.Name, "/")
		k := out[kind]
		out[kind] = kindSize{k.n + 1, k.bytes + info.Size}
	}
	return out
}

// What a task costs on the wire is what the sums are made of.
func TestFiguresOfAQueue(t *testing.T) {
	login := &natsqueue.Credentials{User: "u", Password: "correct horse"}
	s, err := natsserver.Start(t.Context(), natsserver.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Credentials: login})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	short := traffic(t, s.URL(), login, "short", 60, 0)
	long := traffic(t, s.URL(), login, "long", 12, 3500*time.Millisecond)
	t.Logf("short: %+v, long: %+v", short, long)
	require.InEpsilon(t, taskMessages, short.messages, 0.35)
	require.InEpsilon(t, taskBytes, short.bytes, 0.35)
	const beats = 10 // thirds of the lease
	require.InEpsilon(t, beatMessages, (long.messages-short.messages)/beats, 0.5)
	require.InEpsilon(t, outcomeBytes, short.outcome, 0.5)
	require.InEpsilon(t, beatBytes, (long.bytes-short.bytes)/beats, 0.5)
}

type perTask struct{ messages, bytes, outcome float64 }

// effectsOfTask are the effects that a backup of a VM of a vSphere notes: its snapshot, and what holds the VM where it is meanwhile.
const effectsOfTask = 2

// backupFor is a handler that does what a backup does to the queue, and nothing else: it enters a repository, notes effects and a lease, and takes its time.
func backupFor(r *repo.Repository, journal hikae.Journal, takes time.Duration, detail any) jobfleet.Handler {
	return func(ctx context.Context, w *jobfleet.Work) (jobfleet.Report, error) {
		b, err := w.Fence(ctx, "repository/"+r.ID(), r)
		if err != nil {
			return jobfleet.Report{}, err
		}
		if _, err := w.Sweep(ctx, r.ID(), nil, nil); err != nil {
			return jobfleet.Report{}, err
		}
		for i := range effectsOfTask {
			done, err := w.Journal(journal).Intend(ctx, hikae.Effect{Kind: "vmware.snapshot", VM: "vm-4711",
				Facts: map[string]string{"server": "vcenter.example.org", "mark": strings.Repeat("m", 26), "uuid": strings.Repeat("u", 36), "n": fmt.Sprint(i)}})
			if err != nil {
				return jobfleet.Report{}, err
			}
			defer func() { _ = done(ctx) }()
		}
		pw, err := b.Begin(ctx, w.VM, nil)
		if err != nil {
			return jobfleet.Report{}, err
		}
		defer pw.Close()
		select {
		case <-time.After(takes):
		case <-ctx.Done():
		}
		return jobfleet.Report{Point: strings.Repeat("0", 32), Detail: detail}, w.Confirm(ctx) // as before a commit
	}
}

// resultOf is what a backup of one disk says of itself, which is what outcomes consist of.
func resultOf(t *testing.T) job.Result {
	r, err := repo.Init(t.Context(), memstore.New(nil), nil, &repo.InitOptions{BlockSize: 64 << 10, NoEncryption: true}, &repo.OpenOptions{StateDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	disk := t.TempDir() + "/disk.raw"
	require.NoError(t, os.WriteFile(disk, make([]byte, 1<<20), 0o600))
	vm, err := diskvm.Open(t.Context(), "vm00001", []diskvm.File{{Key: "disk0", Path: disk}}, nil)
	require.NoError(t, err)
	res, err := job.Backup(t.Context(), vm, "", r, &job.BackupOptions{})
	require.NoError(t, err)
	return res
}

// traffic runs tasks through a queue, twelve at once, and tells what went over the wire for each.
func traffic(t *testing.T, url string, login *natsqueue.Credentials, name string, tasks int, takes time.Duration) (per perTask) {
	r, err := repo.Init(t.Context(), memstore.New(nil), nil, &repo.InitOptions{BlockSize: 64 << 10, NoEncryption: true}, &repo.OpenOptions{StateDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	journal, err := hikae.OpenFileJournal(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, journal.Close()) })
	open := func() *natsqueue.Queue {
		q, err := natsqueue.Open(t.Context(), url, &natsqueue.Options{Credentials: login, Lease: time.Second})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, q.Close()) })
		return q
	}
	front, back := open(), open()
	ctx, cancel := context.WithCancel(t.Context())
	w := jobfleet.NewWorker(back, []string{"site"}, map[string]jobfleet.Handler{"backup": backupFor(r, journal, takes, resultOf(t))}, &jobfleet.WorkerOptions{Slots: 12})
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	run := jobfleet.Run{Job: "nightly", Run: name}
	for i := range tasks {
		id := fmt.Sprintf("vm%05d", i)
		run.Tasks = append(run.Tasks, jobfleet.Task{ID: id, VM: id, Kind: "backup", Claim: "vm/host/" + id, Label: "site"})
	}
	_, err = jobfleet.Dispatch(t.Context(), front, run, nil)
	require.NoError(t, err)
	cancel()
	require.NoError(t, <-done)
	for _, q := range []*natsqueue.Queue{front, back} {
		n := q.Traffic()
		per.messages += float64(n.SentMessages+n.ReceivedMessages) / float64(tasks)
		per.bytes += float64(n.SentBytes+n.ReceivedBytes) / float64(tasks)
	}
	table, err := front.Table(t.Context(), "outcomes")
	require.NoError(t, err)
	for e, err := range table.List(t.Context(), jobqueue.Key("nightly", name)) {
		require.NoError(t, err)
		per.outcome += float64(len(e.Key)+len(e.Value)) / float64(tasks)
	}
	return per
}
