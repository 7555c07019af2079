package queue

import (
	"context"
	"errors"
	"iter"
	"time"
)

// Queue gives work to workers. All methods may be called by several goroutines at once.
type Queue interface {
	// Put adds a message, which is durable on return. It reports false where a message of that id waits or is being worked on.
	Put(ctx context.Context, m Message) (added bool, err error)

	// Take waits for a message under one of the labels, and takes it for the time of a lease. Labels have turns, so that none
	// waits behind another for ever. It waits as long as the context lets it, also while the servers are away.
	Take(ctx context.Context, labels []string) (Delivery, error)

	// Dead yields the dead letters.
	Dead(ctx context.Context) iter.Seq2[DeadLetter, error]

	// Revive puts a dead letter back among the messages. fs.ErrNotExist: there is none of that id.
	Revive(ctx context.Context, id string) error

	// Counts are how many messages there are.
	Counts(ctx context.Context) (Counts, error)

	// Table opens a table, and makes it where there is none. Names are letters and digits.
	Table(ctx context.Context, name string) (Table, error)

	// Lease is how long a message is its taker's without a sign of life.
	Lease() time.Duration

	// Close lets go of the queue. What was taken is given to others when its lease ends.
	Close() error
}

// Delivery is a message in the hands of one worker.
type Delivery interface {
	Message() Message
	Number() int // of this delivery of the message, from 1

	// Extend begins the lease anew. ErrLost: it ran out, and somebody else may have the message.
	Extend(ctx context.Context) error

	// Done removes the message. It is for whoever knows that the work is finished, whoever did it.
	Done(ctx context.Context) error

	// Fail gives the message back; nobody gets it before the delay is over.
	Fail(ctx context.Context, delay time.Duration) error

	// Bury makes the message a dead letter.
	Bury(ctx context.Context, why string) error
}

// DeadLetter is a message that nobody is given any more.
type DeadLetter struct {
	Message Message   `json:"message"`
	Why     string    `json:"why"`
	Time    time.Time `json:"time"`
}

// Counts are how many messages a queue has.
type Counts struct {
	Waiting int `json:"waiting"` // also those that wait for a delay to end
	Taken   int `json:"taken"`
	Dead    int `json:"dead"`
}

// ErrLost says that what was held has run out: somebody else may hold it.
var ErrLost = errors.New("the lease has run out")

// ErrClosed says that the queue was closed.
var ErrClosed = errors.New("the queue is closed")
