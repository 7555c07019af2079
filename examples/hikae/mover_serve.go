package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/metrics"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/service"
	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
)

// moverServeFlags are what a mover serves, and how.
type moverServeFlags struct {
	access
	listen    string
	blind     bool
	sources   []string
	limit     string
	limitFile string
	rules     string // that hold, once they were read
	writers   int
	linger    time.Duration
	log       string

	metrics, metricsFile, metricsToken string
}

const moverService = "hikae-mover"

func (t *tool) moverServeCommand() *cobra.Command {
	f := &moverServeFlags{access: access{variable: "HIKAE_PASSWORD"}}
	cmd := &cobra.Command{
		Use:   "serve --listen HOST:PORT --repo REPO | --source NAME=FILE…",
		Short: "Let enrolled machines bring their backups, or collect disks",
		Long: text(`
Serve a repository to the machines that are enrolled (hikae mover token), until SIGTERM. Nobody else gets an answer: a machine that is
not in the book fails in the TLS handshake.

With --blind the mover needs no secret of the repository: it keeps objects that it cannot read, and checks what can be
checked without keys. With --source it lets other machines collect disks of this one; what is swap, free space or excluded
is left out here, and what is known there is not sent.

The command stays in the foreground. When it is ready it prints one JSON line with its address and the pin of its key, and
says so in words on stderr. On SIGTERM it tells its peers, makes durable what has arrived, and ends; they wait, and go on when it is back.
` + limitWords + `
In the file of --limit-file each may have a line of its own, and # begins a comment. A file that is empty, gone or wrong changes
nothing, and the log says so.

Keys and the book of who may come lie in HIKAE_STATE_DIR: hikae mover token, list and revoke have to use the same one.`),
		Example: example(`
hikae mover serve --repo /srv/hikae --listen :7420
hikae mover serve --repo /srv/hikae --listen :7420 --limit '20MB/s; mon-fri 08:00-18:00 2MB/s'
hikae mover serve --source web1=/vm/web1.qcow2 --listen :7420`),
		Args: want(),
	}
	f.flags(cmd)
	cmd.RunE = t.act(func(ctx context.Context, _ []string) (*reply, error) {
		return nil, service.Run(ctx, moverService, func(ctx context.Context) error { return t.moverServe(ctx, f) })
	})
	return cmd
}

func (f *moverServeFlags) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.repo, "repo", "", "`REPO` to serve")
	f.secretFlags(cmd)
	flags.StringVar(&f.listen, "listen", "", "`HOST:PORT` to listen at, with port 0 for a free one (required)")
	flags.BoolVar(&f.blind, "blind", false, "keep objects without being able to read them")
	flags.StringArrayVar(&f.sources, "source", nil, "`NAME=FILE`: a disk image that may be collected; may repeat")
	flags.StringVar(&f.limit, "limit", "", "limit all lines together by `RULES` such as '20MB/s; mon-fri 08:00-18:00 2MB/s'; off: none")
	flags.StringVar(&f.limitFile, "limit-file", "", "take the rules from `FILE`, one or more lines, and again whenever it changes")
	flags.IntVar(&f.writers, "writers", 16, "write `N` points at once; others wait for their turn")
	flags.DurationVar(&f.linger, "linger", 30*time.Minute, "how long a session whose line is cut is kept")
	flags.StringVar(&f.log, "log", "text", "write logs to stderr as `FORMAT`: text or json")
	flags.StringVar(&f.metrics, "metrics", "", "show metrics for Prometheus at `ADDRESS`, on this machine only")
	flags.StringVar(&f.metricsToken, "metrics-token-file", "", "`FILE` with the token that the metrics page asks for")
	flags.StringVar(&f.metricsFile, "metrics-file", "", "write metrics to `FILE` every 15 s, for a textfile collector")
	completeWith(cmd, "log", "text", "json")
	cmd.MarkFlagsOneRequired("repo", "source")
	cmd.MarkFlagsMutuallyExclusive("limit", "limit-file")
	cmd.MarkFlagsRequiredTogether("metrics", "metrics-token-file")
	if err := cmd.MarkFlagRequired("listen"); err != nil {
		panic(err) // the flag is defined just above
	}
}

// running is a mover with all that has to be closed behind it.
type running struct {
	opts  mover.ServerOptions
	close []func() error
}

func (r *running) later(f func() error) { r.close = append(r.close, f) }

func (r *running) Close() (err error) {
	for i := len(r.close) - 1; i >= 0; i-- {
		err = errors.Join(err, r.close[i]())
	}
	return err
}

func (t *tool) moverServe(ctx context.Context, f *moverServeFlags) (err error) {
	log, err := t.logger(f.log)
	if err != nil {
		return err
	}
	if f.writers < 1 || f.linger < time.Second {
		return outcome.Usage("", "--writers is at least 1, --linger at least 1s")
	}
	if err := f.checkListen(); err != nil {
		return err
	}
	var r running
	defer func() { err = errors.Join(err, r.Close()) }()
	r.opts = mover.ServerOptions{MaxWriters: f.writers, Linger: f.linger, Log: log, Version: thisVersion().Version, Classify: classify}
	if err := t.serveWhat(ctx, f, &r); err != nil {
		return err
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	var beside sync.WaitGroup
	defer beside.Wait()
	defer stop()
	if r.opts.Shaper, err = f.shaper(work, &beside, log); err != nil {
		return err
	}
	if r.opts.Observer, err = f.observer(work, &beside, log); err != nil {
		return err
	}
	server, err := mover.NewServer(&r.opts)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", f.listen)
	if err != nil {
		return errors.Join(&outcome.Error{Object: f.listen, Text: "--listen", Err: err}, server.Shutdown(ctx))
	}
	if err := json.NewEncoder(t.stdout).Encode(map[string]string{"listening": l.Addr().String(), "key": r.opts.Identity.Pin().String()}); err != nil {
		return errors.Join(err, l.Close(), server.Shutdown(ctx))
	}
	t.announce(f, l.Addr().String(), log)
	r.markServed(log)
	service.Ready()
	beside.Go(func() { service.Alive(work, server.Alive) })
	served := make(chan error, 1)
	go func() { served <- server.Serve(work, l) }()
	select {
	case err = <-served:
	case <-ctx.Done():
	}
	service.Stopping()
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), service.StopSeconds*time.Second)
	defer cancel()
	return errors.Join(err, server.Shutdown(bounded))
}

// serveWhat opens what is served, and the book of who may come.
func (t *tool) serveWhat(ctx context.Context, f *moverServeFlags, r *running) error {
	what := served{repo: f.repo, sources: f.repo == "", blind: f.blind}
	if err := what.checkMode(ctx, t); err != nil { // before a secret is asked for that a blind mover has not
		return err
	}
	if f.repo != "" && !f.blind {
		o, err := t.openHere(ctx, &f.access, false)
		if err != nil {
			return err
		}
		r.later(o.Close)
		r.opts.Backend, r.opts.Free, what.open = o.local, freeOf(o.store), o
	}
	dir, err := what.dir(ctx, t)
	if err != nil {
		return err
	}
	if r.opts.Identity, r.opts.Book, err = what.book(ctx, t); err != nil {
		return err
	}
	r.opts.StateDir = dir
	if len(f.sources) > 0 {
		files, err := parseImages(f.sources)
		if err != nil {
			return err
		}
		sessions, err := t.sessions()
		if err != nil {
			return err
		}
		source := &images{files: files, sessions: sessions}
		if _, err := source.Images(ctx); err != nil {
			return err
		}
		r.opts.Source = source
	}
	if f.blind {
		return t.serveBlind(ctx, f, r, dir)
	}
	return nil
}

// freeOf tells how much room a store has left, where it knows.
func freeOf(st store.Store) func(context.Context) (int64, error) {
	spacer, ok := store.As[store.Spacer](st)
	if !ok {
		return nil
	}
	return spacer.Free
}

// classify gives the repository's own errors the codes that a mover has for them.
func classify(err error) *mover.Error {
	if e, ok := errors.AsType[*repo.ErrCorrupt](err); ok {
		return &mover.Error{Code: wire.CodeCorrupt, Text: err.Error(), Object: e.Object, Offset: e.Offset, Length: e.Length}
	}
	for _, c := range []struct {
		is   error
		code wire.Code
	}{
		{repo.ErrForgotten, wire.CodeForgotten}, {repo.ErrRevoked, wire.CodeRevoked}, {repo.ErrNoBase, wire.CodeNoBase},
		{repo.ErrIncomplete, wire.CodeIncomplete}, {repo.ErrReadOnly, wire.CodeReadOnly}, {store.ErrNotDurable, wire.CodeNotDurable},
		{store.ErrForeign, wire.CodeForeign},
	} {
		if errors.Is(err, c.is) {
			return &mover.Error{Code: c.code, Text: err.Error()}
		}
	}
	if e, ok := errors.AsType[*repo.ErrRollback](err); ok {
		return &mover.Error{Code: wire.CodeReadOnly, Text: e.Error()}
	}
	return nil
}

// logger writes structured logs to stderr.
func (t *tool) logger(format string) (*slog.Logger, error) {
	level := slog.LevelInfo
	if t.quiet {
		level = slog.LevelWarn
	}
	opts := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(t.stderr, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(t.stderr, opts)), nil
	}
	return nil, outcome.Usage("Write text or json.", "--log %s is not a format", format)
}

// observer counts for Prometheus, where that is asked for.
func (f *moverServeFlags) observer(ctx context.Context, beside *sync.WaitGroup, log *slog.Logger) (mover.Observer, error) {
	if f.metrics == "" && f.metricsFile == "" {
		return nil, nil
	}
	m := metrics.New()
	if f.metricsFile != "" {
		if _, err := os.Stat(filepath.Dir(f.metricsFile)); errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		beside.Go(func() { m.Write(ctx, f.metricsFile, log) })
	}
	if f.metrics == "" {
		return m, nil
	}
	token, err := firstLine(f.metricsToken)
	if err != nil {
		return nil, err
	}
	l, err := metrics.Listen(f.metrics)
	if err != nil {
		return nil, &outcome.Error{Kind: outcome.KindUsage, Object: f.metrics, Text: "--metrics", Err: err}
	}
	log.Info("metrics", "url", fmt.Sprintf("http://%s/metrics", l.Addr()))
	beside.Go(func() {
		if err := m.Serve(ctx, l, token); err != nil {
			log.Error("metrics are shown no more", "error", err)
		}
	})
	return m, nil
}
