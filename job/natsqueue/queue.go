package natsqueue

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hikae/hikae/job/queue"
)

// Put publishes a message. Its subject takes one at a time. The id of the publication is one for all tries of this call, so that a try
// whose answer was lost is known to the server.
func (q *Queue) Put(ctx context.Context, m queue.Message) (bool, error) {
	b, err := m.Encode()
	if err != nil {
		return false, err
	}
	try := rand.Text()
	for {
		_, err := q.js.Publish(ctx, subjects+queue.Key(m.Label, m.ID), b, jetstream.WithMsgID(try))
		switch {
		case err == nil:
			return true, nil
		case isThere(err):
			return false, nil
		case !passing(err):
			return false, fmt.Errorf("message %q: %w", m.ID, err)
		}
		if pause(ctx, 200*time.Millisecond) != nil {
			return false, fmt.Errorf("message %q: %w", m.ID, err)
		}
	}
}

// isThere reports the refusal of a second message of a subject. The server's code for it is that of any failed store.
func isThere(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && strings.Contains(api.Description, "maximum messages per subject")
}

// passing reports errors that are over when the connection is back or a leader is found.
func passing(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.Code == 503 && !errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrConnectionReconnecting) || errors.Is(err, context.DeadlineExceeded)
}

// labels are the consumers that were found or made, and whose turn it is.
type labels struct {
	mu    sync.Mutex
	found map[string]jetstream.Consumer
	turn  int
}

const (
	eachFetch = time.Second
	backOff   = 500 * time.Millisecond
)

// Take asks label after label, and then waits at one after the other, a second at most: a fetch is never left behind, for what the
// server sends into it would be nobody's until the lease ends.
func (q *Queue) Take(ctx context.Context, list []string) (queue.Delivery, error) {
	if len(list) == 0 {
		return nil, fmt.Errorf("no label to take from: %w", queue.ErrInvalid)
	}
	for {
		q.own.mu.Lock()
		q.own.turn++
		turn := q.own.turn
		q.own.mu.Unlock()
		for k := range list {
			wait := time.Duration(0)
			if k == len(list)-1 {
				wait = eachFetch
			}
			if err := q.usable(ctx); err != nil {
				return nil, err
			}
			d, err := q.fetch(ctx, list[(turn+k)%len(list)], wait)
			if err == nil && d != nil {
				return d, nil
			}
			if err != nil && pause(ctx, backOff) != nil {
				return nil, errors.Join(ctx.Err(), err)
			}
		}
	}
}

func (q *Queue) usable(ctx context.Context) error {
	if q.nc.IsClosed() {
		return queue.ErrClosed
	}
	return ctx.Err()
}

// fetch takes one message of a label, or none.
func (q *Queue) fetch(ctx context.Context, label string, wait time.Duration) (queue.Delivery, error) {
	c, err := q.consumer(ctx, label)
	if err != nil {
		return nil, err
	}
	var batch jetstream.MessageBatch
	begun := time.Now()
	if wait == 0 {
		batch, err = c.FetchNoWait(1)
	} else {
		batch, err = c.Fetch(1, jetstream.FetchMaxWait(wait))
	}
	if err != nil {
		q.forget(label)
		return nil, err
	}
	if msg, ok := <-batch.Messages(); ok {
		d, err := q.delivery(ctx, msg, begun)
		switch {
		case err != nil:
			return nil, err
		case ctx.Err() != nil:
			return nil, errors.Join(ctx.Err(), msg.Nak())
		}
		return d, nil
	}
	if err := batch.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, jetstream.ErrNoMessages) {
		q.forget(label)
		return nil, err
	}
	return nil, nil
}

// consumer is that of a label. All workers share it, whoever makes it first.
func (q *Queue) consumer(ctx context.Context, label string) (jetstream.Consumer, error) {
	q.own.mu.Lock()
	c := q.own.found[label]
	q.own.mu.Unlock()
	if c != nil {
		return c, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	sum := sha256.Sum256([]byte(label))
	c, err := q.js.CreateOrUpdateConsumer(ctx, streamName, jetstream.ConsumerConfig{
		Durable: "label-" + hex.EncodeToString(sum[:10]), Description: "workers that reach " + label,
		FilterSubject: subjects + queue.Key(label) + ".>", AckPolicy: jetstream.AckExplicitPolicy, AckWait: q.lease,
		MaxDeliver: -1, MaxAckPending: -1, Metadata: map[string]string{"hikae-label": label},
	})
	if err != nil {
		return nil, fmt.Errorf("label %q: %w", label, err)
	}
	q.own.mu.Lock()
	defer q.own.mu.Unlock()
	if q.own.found == nil {
		q.own.found = map[string]jetstream.Consumer{}
	}
	q.own.found[label] = c
	return c, nil
}

// forget makes the next one look for the consumer again: it may have been removed with the stream, and made anew.
func (q *Queue) forget(label string) {
	q.own.mu.Lock()
	defer q.own.mu.Unlock()
	delete(q.own.found, label)
}

// delivery makes one of a message. What this program cannot read is a dead letter if it is broken, and left to newer programs if it is
// of a newer version.
func (q *Queue) delivery(ctx context.Context, msg jetstream.Msg, taken time.Time) (*delivery, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return nil, err
	}
	d := &delivery{q: q, msg: msg, number: int(meta.NumDelivered), sign: taken}
	d.m, err = queue.Decode(msg.Data())
	if newer, ok := errors.AsType[*queue.VersionError](err); ok {
		return nil, errors.Join(newer, msg.NakWithDelay(q.lease))
	}
	if err != nil {
		d.m = queue.Message{ID: msg.Subject()[:min(len(msg.Subject()), queue.MaxID)], Label: "broken", Body: json.RawMessage("{}")}
		return nil, errors.Join(err, d.Bury(ctx, err.Error()))
	}
	return d, nil
}

// delivery is a message that this client has taken.
type delivery struct {
	q      *Queue
	msg    jetstream.Msg
	m      queue.Message
	number int

	mu   sync.Mutex
	sign time.Time // when the last sign of life that reached the server was begun
}

func (d *delivery) Message() queue.Message { return d.m }
func (d *delivery) Number() int            { return d.number }

// Extend says that the work goes on, and waits for the server to have heard it. The server does not say whose the message is, so
// the lease is measured here, from before the call.
func (d *delivery) Extend(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	begun := time.Now()
	if begun.Sub(d.sign) >= d.q.lease {
		return fmt.Errorf("message %q: %w", d.m.ID, queue.ErrLost)
	}
	ctx, cancel := context.WithTimeout(ctx, d.q.lease-begun.Sub(d.sign))
	defer cancel()
	err := d.msg.InProgress()
	if err == nil {
		err = d.q.nc.FlushWithContext(ctx)
	}
	if err != nil {
		return fmt.Errorf("message %q: %w", d.m.ID, err)
	}
	d.sign = begun
	return nil
}

func (d *delivery) Done(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if err := d.msg.DoubleAck(ctx); err != nil && !errors.Is(err, jetstream.ErrMsgAlreadyAckd) {
		return fmt.Errorf("message %q: %w", d.m.ID, err)
	}
	return nil
}

func (d *delivery) Fail(ctx context.Context, delay time.Duration) error {
	if err := d.msg.NakWithDelay(max(delay, time.Millisecond)); err != nil {
		return fmt.Errorf("message %q: %w", d.m.ID, err)
	}
	return d.q.flush(ctx)
}

func (q *Queue) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return q.nc.FlushWithContext(ctx)
}

// dead is the table of dead letters.
func (q *Queue) dead() *table { return &table{q, "dead"} }

type deadDoc struct {
	Version int `json:"version"`
	queue.DeadLetter
}

func decodeDead(b []byte) (queue.DeadLetter, error) {
	var doc deadDoc
	if err := queue.CheckVersion("dead letter", b); err != nil {
		return doc.DeadLetter, err
	}
	if err := queue.Strict(b, &doc); err != nil {
		return queue.DeadLetter{}, fmt.Errorf("dead letter: %w", err)
	}
	return doc.DeadLetter, doc.Message.Check()
}

func (d *delivery) Bury(ctx context.Context, why string) error {
	b, err := queue.Marshal(deadDoc{1, queue.DeadLetter{Message: d.m, Why: queue.Reason(why), Time: time.Now().UTC()}})
	if err != nil {
		return err
	}
	if _, err := d.q.kv.Put(ctx, d.q.dead().full(queue.Key(d.m.ID)), b); err != nil {
		return fmt.Errorf("dead letter %q: %w", d.m.ID, err)
	}
	if err := d.msg.Term(); err != nil {
		return fmt.Errorf("message %q: %w", d.m.ID, err)
	}
	return d.q.flush(ctx)
}

// Dead yields the dead letters.
func (q *Queue) Dead(ctx context.Context) iter.Seq2[queue.DeadLetter, error] {
	return func(yield func(queue.DeadLetter, error) bool) {
		for e, err := range q.dead().List(ctx, "") {
			var letter queue.DeadLetter
			if err == nil {
				letter, err = decodeDead(e.Value)
			}
			if !yield(letter, err) {
				return
			}
		}
	}
}

// Revive puts a dead letter back. That it was terminated may take the server a moment to say.
func (q *Queue) Revive(ctx context.Context, id string) error {
	e, err := q.dead().Get(ctx, queue.Key(id))
	if err != nil {
		return fmt.Errorf("dead letter %q: %w", id, err)
	}
	letter, err := decodeDead(e.Value)
	if err != nil {
		return err
	}
	for range 25 {
		added, err := q.Put(ctx, letter.Message)
		if err != nil {
			return err
		}
		if added {
			return q.dead().Delete(ctx, e.Key, e.Revision)
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("message %q is in the queue already: %w", id, fs.ErrExist)
}

// Counts asks the stream and its consumers.
func (q *Queue) Counts(ctx context.Context) (c queue.Counts, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*callLimit)
	defer cancel()
	s, err := q.js.Stream(ctx, streamName)
	if err != nil {
		return c, err
	}
	list := s.ListConsumers(ctx)
	for info := range list.Info() {
		c.Taken += info.NumAckPending
	}
	if err := list.Err(); err != nil {
		return c, err
	}
	c.Waiting = max(int(s.CachedInfo().State.Msgs)-c.Taken, 0)
	for _, err := range q.dead().List(ctx, "") {
		if err != nil {
			return c, err
		}
		c.Dead++
	}
	return c, nil
}
