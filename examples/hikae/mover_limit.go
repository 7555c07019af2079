package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/pipe/mover/bandwidth"
)

// limitWords are the part of a help text that says how limits are written.
const limitWords = `
RULES are one rate, as in 20MB/s, and others for some times, with ; in between: '20MB/s; mon-fri 08:00-18:00 2MB/s'. Days
are mon, sat,sun, mon-fri or daily, times are local, rates are in B/s kB/s MB/s GB/s KiB/s MiB/s GiB/s kbit/s Mbit/s
Gbit/s, and off means no limit. Before a rate may stand what it limits: total (the default), session or connection.`

// maxLimitFile bounds the file of --limit-file, in bytes.
const maxLimitFile = 64 << 10

// shaper limits the lines by the rules of --limit, or by those that stand in --limit-file at the time. Nil is no limit,
// once and for all.
func (f *moverServeFlags) shaper(ctx context.Context, beside *sync.WaitGroup, log *slog.Logger) (*bandwidth.Shaper, error) {
	if f.limit == "" && f.limitFile == "" {
		return nil, nil
	}
	text, flag, parse := f.limit, "--limit", bandwidth.ParseRules
	if f.limitFile != "" {
		data, err := readSmall(f.limitFile, maxLimitFile)
		if err != nil {
			return nil, err
		}
		text, flag, parse = string(data), "--limit-file", bandwidth.ParseFile
	}
	rules, err := parse(text)
	if err != nil {
		return nil, &outcome.Error{Kind: outcome.KindUsage, Object: f.limitFile, Text: flag, Err: err}
	}
	s := bandwidth.New(rules)
	f.rules = rules.String()
	if f.limitFile != "" {
		beside.Go(func() { f.follow(ctx, s, text, log) })
	}
	return s, nil
}

// follow looks at the file of rules every second. Rules that make no sense change nothing, nor does a file that is empty
// or gone: whoever saves a file may do that for a moment.
func (f *moverServeFlags) follow(ctx context.Context, s *bandwidth.Shaper, text string, log *slog.Logger) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	gone := false // and that was told
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		data, err := readSmall(f.limitFile, maxLimitFile)
		if err != nil && !gone {
			log.Warn("the file of the limits cannot be read; they stay as they were", "file", f.limitFile, "error", err)
		}
		if gone = err != nil; gone || string(data) == text {
			continue
		}
		text = string(data)
		rules, err := bandwidth.ParseFile(text)
		if err != nil {
			log.Warn("the limits stay as they were", "file", f.limitFile, "error", err)
			continue
		}
		s.Set(rules)
		log.Info("limits changed", "rules", rules.String())
	}
}

// checkListen finds out early that an address to listen at is none.
func (f *moverServeFlags) checkListen() error {
	_, port, err := net.SplitHostPort(f.listen)
	if err == nil && port != "" {
		return nil
	}
	example := ":" + moverPort
	if strings.Trim(f.listen, "0123456789") == "" && f.listen != "" {
		example = ":" + f.listen
	}
	return outcome.Usage("For instance --listen "+example+", which is all of this machine's addresses.", "--listen %s is not HOST:PORT or :PORT", f.listen)
}

// announce tells people what the mover does from now on.
func (t *tool) announce(f *moverServeFlags, address string, log *slog.Logger) {
	what, as := outcome.Redact(f.repo), "trusted target"
	switch {
	case f.repo == "":
		what, as = strings.Join(f.sources, ", "), "source"
	case f.blind:
		as = "blind target"
	case len(f.sources) > 0:
		as = "trusted target, and source of " + strings.Join(f.sources, ", ")
	}
	limit := f.rules
	if limit == "" {
		limit = "off"
	}
	if f.log == "json" { // nothing else may stand between its lines
		log.Info("serving", "repo", what, "as", as, "address", address, "limit", limit)
		return
	}
	t.tell("serving %s as %s at %s; limit %s", what, as, address, limit)
}

// markServed notes in the folder of the mover's book that a mover runs with it; where it cannot, `hikae mover token` warns
// too much, and nothing else is wrong.
func (r *running) markServed(log *slog.Logger) {
	if err := markServed(r.opts.StateDir); err != nil && !errors.Is(err, fs.ErrExist) {
		log.Warn("that a mover runs with this state folder could not be noted", "error", err)
	}
}
