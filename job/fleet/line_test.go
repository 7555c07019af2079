package fleet_test

import (
	"context"
	"errors"
	"iter"
	"sync/atomic"
	"time"

	"github.com/hikae/hikae/job/queue"
)

// line is a worker's line to a queue. While it is cut every call fails, and what the queue says is not heard.
type line struct {
	queue.Queue
	cut atomic.Bool
}

var errCut = errors.New("the line is cut")

func (l *line) ok() error {
	if l.cut.Load() {
		return errCut
	}
	return nil
}

func (l *line) Put(ctx context.Context, m queue.Message) (bool, error) {
	if err := l.ok(); err != nil {
		return false, err
	}
	return l.Queue.Put(ctx, m)
}

func (l *line) Take(ctx context.Context, labels []string) (queue.Delivery, error) {
	if err := l.ok(); err != nil {
		return nil, err
	}
	d, err := l.Queue.Take(ctx, labels)
	if err != nil {
		return nil, err
	}
	return &lineDelivery{d, l}, nil
}

func (l *line) Table(ctx context.Context, name string) (queue.Table, error) {
	if err := l.ok(); err != nil {
		return nil, err
	}
	t, err := l.Queue.Table(ctx, name)
	return &lineTable{t, l}, err
}

type lineDelivery struct {
	queue.Delivery
	l *line
}

func (d *lineDelivery) Extend(ctx context.Context) error {
	return errors.Join(d.l.ok(), orNot(d.l, func() error { return d.Delivery.Extend(ctx) }))
}
func (d *lineDelivery) Done(ctx context.Context) error {
	return errors.Join(d.l.ok(), orNot(d.l, func() error { return d.Delivery.Done(ctx) }))
}
func (d *lineDelivery) Fail(ctx context.Context, wait time.Duration) error {
	return errors.Join(d.l.ok(), orNot(d.l, func() error { return d.Delivery.Fail(ctx, wait) }))
}
func (d *lineDelivery) Bury(ctx context.Context, why string) error {
	return errors.Join(d.l.ok(), orNot(d.l, func() error { return d.Delivery.Bury(ctx, why) }))
}

func orNot(l *line, f func() error) error {
	if l.cut.Load() {
		return nil
	}
	return f()
}

type lineTable struct {
	queue.Table
	l *line
}

func (t *lineTable) Get(ctx context.Context, key string) (queue.Entry, error) {
	if err := t.l.ok(); err != nil {
		return queue.Entry{}, err
	}
	return t.Table.Get(ctx, key)
}

func (t *lineTable) Create(ctx context.Context, key string, value []byte) (uint64, error) {
	if err := t.l.ok(); err != nil {
		return 0, err
	}
	return t.Table.Create(ctx, key, value)
}

func (t *lineTable) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	if err := t.l.ok(); err != nil {
		return 0, err
	}
	return t.Table.Update(ctx, key, value, revision)
}

func (t *lineTable) Delete(ctx context.Context, key string, revision uint64) error {
	if err := t.l.ok(); err != nil {
		return err
	}
	return t.Table.Delete(ctx, key, revision)
}

func (t *lineTable) Watch(ctx context.Context, prefix string) iter.Seq2[queue.Entry, error] {
	if err := t.l.ok(); err != nil {
		return func(yield func(queue.Entry, error) bool) { yield(queue.Entry{}, err) }
	}
	return t.Table.Watch(ctx, prefix)
}
