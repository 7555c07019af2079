package natsqueue

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"regexp"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hikae/hikae/job/queue"
)

// table is the part of the bucket under a name: one bucket is one group of servers to agree, however many tables there are.
type table struct {
	q    *Queue
	name string
}

var tableName = regexp.MustCompile(`^[a-zA-Z0-9]{1,32}$`)

// Table is there at once: a table is nothing but the first word of its keys.
func (q *Queue) Table(ctx context.Context, name string) (queue.Table, error) {
	if !tableName.MatchString(name) || name == "dead" {
		return nil, fmt.Errorf("table %q: %w", name, queue.ErrInvalid)
	}
	return &table{q, name}, q.usable(ctx)
}

// full is a key in the bucket.
func (t *table) full(key string) string { return t.name + "." + key }

func (t *table) entry(e jetstream.KeyValueEntry) queue.Entry {
	return queue.Entry{Key: e.Key()[len(t.name)+1:], Value: e.Value(), Revision: e.Revision(), Gone: e.Operation() != jetstream.KeyValuePut}
}

// told gives an error the word of package queue.
func told(key string, err error) error {
	api, _ := errors.AsType[*jetstream.APIError](err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrKeyNotFound):
		err = fs.ErrNotExist
	case errors.Is(err, jetstream.ErrKeyExists), errors.Is(err, jetstream.ErrKeyRevisionMismatch),
		api != nil && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence:
		err = queue.ErrConflict
	}
	return fmt.Errorf("key %q: %w", key, err)
}

func (t *table) Get(ctx context.Context, key string) (queue.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	e, err := t.q.kv.Get(ctx, t.full(key))
	if err != nil {
		return queue.Entry{}, told(key, err)
	}
	return t.entry(e), nil
}

func (t *table) Create(ctx context.Context, key string, value []byte) (uint64, error) {
	if err := queue.CheckEntry(key, value); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	rev, err := t.q.kv.Create(ctx, t.full(key), value)
	return rev, told(key, err)
}

func (t *table) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	if err := queue.CheckEntry(key, value); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	rev, err := t.q.kv.Update(ctx, t.full(key), value, revision)
	return rev, told(key, err)
}

func (t *table) Delete(ctx context.Context, key string, revision uint64) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	err := told(key, t.q.kv.Purge(ctx, t.full(key), jetstream.LastRevision(revision), jetstream.PurgeTTL(markers)))
	if errors.Is(err, queue.ErrConflict) {
		if _, getErr := t.Get(ctx, key); errors.Is(getErr, fs.ErrNotExist) {
			return nil
		}
	}
	return err
}

func (t *table) List(ctx context.Context, prefix string) iter.Seq2[queue.Entry, error] {
	return func(yield func(queue.Entry, error) bool) {
		t.watch(ctx, prefix, true, yield)
	}
}

func (t *table) Watch(ctx context.Context, prefix string) iter.Seq2[queue.Entry, error] {
	return func(yield func(queue.Entry, error) bool) {
		t.watch(ctx, prefix, false, yield)
	}
}

// watch yields what is there, and then what changes unless once is said.
func (t *table) watch(ctx context.Context, prefix string, once bool, yield func(queue.Entry, error) bool) {
	keys := []string{t.full(">")}
	if prefix != "" {
		keys = []string{t.full(prefix), t.full(prefix + ".>")}
	}
	w, err := t.watcher(ctx, keys)
	if err != nil {
		yield(queue.Entry{}, fmt.Errorf("watching %q: %w", prefix, err))
		return
	}
	defer func() { _ = w.Stop() }() // it ends with the connection at the latest
	closed := t.q.nc.StatusChanged(nats.CLOSED)
	defer t.q.nc.RemoveStatusListener(closed)
	for first := true; ; {
		select {
		case <-ctx.Done():
			yield(queue.Entry{}, ctx.Err())
			return
		case <-closed:
			yield(queue.Entry{}, queue.ErrClosed)
			return
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				yield(queue.Entry{}, fmt.Errorf("watching %q: it has ended: %w", prefix, errors.Join(ctx.Err(), queue.ErrClosed)))
				return
			case e == nil && once:
				return
			case e == nil:
				first = false
				continue
			}
			entry := t.entry(e)
			if entry.Gone && first {
				continue
			}
			if !yield(entry, nil) {
				return
			}
		}
	}
}

// watcher begins to watch, which a server that went away at that moment answers never.
func (t *table) watcher(ctx context.Context, keys []string) (jetstream.KeyWatcher, error) {
	life, end := context.WithCancel(ctx)
	late := time.AfterFunc(callLimit, end)
	w, err := t.q.kv.WatchFiltered(life, keys)
	if !late.Stop() && err != nil && ctx.Err() == nil {
		err = nats.ErrTimeout
	}
	if err != nil {
		end()
		return nil, err
	}
	return endedWatcher{w, end}, nil
}

// endedWatcher lets go of its context when it stops.
type endedWatcher struct {
	jetstream.KeyWatcher
	end context.CancelFunc
}

func (w endedWatcher) Stop() error {
	defer w.end()
	return w.KeyWatcher.Stop()
}
