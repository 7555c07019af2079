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

// Chain are the stored logs of a stream from one on, without a hole. The gap is nil where the chain goes to the end of
// what is stored on that timeline; a chain that lacks its first log is empty, and has a gap.
func Chain(ctx context.Context, st Store, s Stream, timeline, from string) ([]Log, *GapError, error) {
	at := map[int64]Log{}
	begin, end := int64(-1), int64(-1)
	for o, err := range st.Logs(ctx, s) {
		if err != nil {
			return nil, nil, err
		}
		n, ok := place(o.Name, o.Size)
		if !ok || o.Timeline != timeline {
			continue
		}
		if at[n] = o; o.Name == from {
			begin = n
		}
		end = max(end, n)
	}
	if begin < 0 {
		return nil, &GapError{Stream: s, Before: from, Words: from + " is not stored"}, nil
	}
	var chain []Log
	for n := begin; n <= end; n++ {
		o, ok := at[n]
		if !ok {
			return chain, &GapError{Stream: s, After: chain[len(chain)-1].Name, Before: at[end].Name}, nil
		}
		chain = append(chain, o)
	}
	return chain, nil, nil
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
