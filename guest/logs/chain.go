package logs

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"hash"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hikae/hikae/guest/agent/apps/record"
	"github.com/hikae/hikae/guest/agent/wire"
)

type hasher struct{ hash.Hash }

func newHasher() hasher { return hasher{sha256.New()} }

func (h hasher) sum() (s Sum) {
	h.Sum(s[:0])
	return s
}

// place is where a log stands in its chain: the number after which the next log's comes. ok is false for what is beside
// the chain, such as a timeline's history.
func place(name string, size int64) (n int64, ok bool) {
	if n, err := record.SegmentNumber(name, size); err == nil {
		return n, true
	}
	if _, n, ok := record.BinlogNumber(name); ok {
		return n, true
	}
	return 0, false
}

// continues reports whether a log comes right after another one, as far as names can tell.
func continues(before, after Log) bool {
	if before.Timeline != after.Timeline {
		return false
	}
	a, ok1 := place(before.Name, before.Size)
	b, ok2 := place(after.Name, after.Size)
	return !ok1 || !ok2 || b == a+1
}

// fit reports whether a log can be called that: names come from guests.
func fit(name string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	return name != "" && len(name) <= 200 && name[0] != '.' && strings.Trim(name, letters) == ""
}

// From is the first log that an image needs, as the records of one application tell it; empty where they do not.
func From(records []wire.Record) string {
	for _, r := range records {
		switch r.File {
		case "backup_label":
			if l, err := parseLabel(r.Content); err == nil {
				return l.segment
			}
		case "binlog.json":
			var at record.BinlogPosition
			if json.Unmarshal(r.Content, &at) == nil {
				return at.File
			}
		}
	}
	return ""
}

// Chain are the stored logs of a stream from one on, in the order in which they were stored, up to the first hole. The gap
// is nil where the chain goes to the end of what is stored of that timeline and life; a chain that lacks its first log is
// empty, and has a gap. So is one whose first log is stored in several lives with different content: [ChainSince] chooses.
func Chain(ctx context.Context, st Store, s Stream, timeline, from string) ([]Log, *GapError, error) {
	return ChainSince(ctx, st, s, timeline, from, time.Time{})
}

// ChainSince is Chain for an image that was begun at a moment of the guest's clock: the first log is the one that was
// complete after it. A VM that is put back to an image writes other logs under names that are stored already; those that
// were complete before the image was begun are of a life that the image did not see.
func ChainSince(ctx context.Context, st Store, s Stream, timeline, from string, since time.Time) ([]Log, *GapError, error) {
	w := &walk{s: s, timeline: timeline, from: from, since: since}
	for o, err := range st.Logs(ctx, s) {
		var damaged *BatchError
		switch {
		case errors.As(err, &damaged):
			w.damaged = damaged
		case err != nil:
			return nil, nil, err
		default:
			w.take(o)
		}
	}
	return w.end()
}

// walk makes a chain of logs as they come.
type walk struct {
	s              Stream
	timeline, from string
	since          time.Time

	chain   []Log
	first   int64 // number of its first log
	gap     *GapError
	damaged *BatchError // the last one since the chain's last log
	twice   bool
}

func (w *walk) take(o Log) {
	n, ok := place(o.Name, o.Size)
	if !ok || o.Timeline != w.timeline {
		return
	}
	if o.Name == w.from && !o.Time.Before(w.since) {
		if len(w.chain) == 0 {
			w.chain, w.first, w.damaged = []Log{o}, n, nil
			return
		}
		w.twice = w.twice || o.Life != w.chain[0].Life && o.SHA256 != w.chain[0].SHA256
	}
	if len(w.chain) == 0 || w.gap != nil {
		return
	}
	last := w.chain[len(w.chain)-1]
	at := n - w.first
	switch {
	case o.Life == last.Life && at >= 0 && at < int64(len(w.chain)) && o.SHA256 == w.chain[at].SHA256:
		// the same log once more
	case o.Life == last.Life && o.Gap == "" && at == int64(len(w.chain)):
		w.chain, w.damaged = append(w.chain, o), nil
	default:
		_, words, _ := strings.Cut(o.Gap, o.Name+": ")
		w.gap = &GapError{Stream: w.s, After: last.Name, Before: o.Name, Words: words}
	}
}

func (w *walk) end() ([]Log, *GapError, error) {
	switch {
	case len(w.chain) == 0:
		words := w.from + " is not stored"
		if w.damaged != nil {
			words += "; " + w.damaged.Error()
		}
		return nil, &GapError{Stream: w.s, Before: w.from, Words: words}, nil
	case w.twice && w.since.IsZero():
		return nil, &GapError{Stream: w.s, Before: w.from,
			Words: w.from + " is stored in several lives of this stream, and which of them the image saw, its time has to tell"}, nil
	case w.gap == nil && w.damaged != nil:
		w.gap = &GapError{Stream: w.s, After: w.chain[len(w.chain)-1].Name, Words: w.damaged.Error()}
	}
	return w.chain, w.gap, nil
}

// Fill writes logs into a folder, each under its name once it is whole and verified. Files get the folder's owner.
func Fill(ctx context.Context, st Store, s Stream, logs []Log, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, o := range logs {
		if err := fill(ctx, st, s, o, root); err != nil {
			return err
		}
	}
	return syncDir(dir)
}

// partial is put behind the name of a log that is being written.
const partial = ".partial"

func fill(ctx context.Context, st Store, s Stream, o Log, root *os.Root) error {
	if !fit(o.Name) {
		return &SumError{s, o.Name}
	}
	f, err := root.OpenFile(o.Name+partial, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = Read(ctx, st, s, o, f)
	if err == nil {
		err = errors.Join(f.Sync(), adopt(root, f))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, root.Remove(o.Name+partial))
	}
	return root.Rename(filepath.Base(f.Name()), o.Name)
}
