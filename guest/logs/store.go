package logs

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"time"
)

// Stream is the log of one application of one VM.
type Stream struct {
	VM   string `json:"vm"`
	Kind string `json:"kind"` // of application: postgresql, mariadb, mysql
	Name string `json:"name"` // instance
}

func (s Stream) String() string { return fmt.Sprintf("%s: %s/%s", s.VM, s.Kind, s.Name) }

// Sum is a SHA-256. It reads and writes itself as hexadecimal digits.
type Sum [32]byte

// MarshalText is the digits.
func (s Sum) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, s[:]), nil }

// UnmarshalText takes 64 digits.
func (s *Sum) UnmarshalText(b []byte) error {
	if len(b) != hex.EncodedLen(len(s)) {
		return fmt.Errorf("a SHA-256 of %d digits: %w", len(b), fs.ErrInvalid)
	}
	_, err := hex.Decode(s[:], b)
	return err
}

// Log is one transaction log that is stored.
type Log struct {
	Name     string    `json:"name"`
	Timeline string    `json:"timeline"`
	Size     int64     `json:"size"`
	SHA256   Sum       `json:"sha256"`
	Time     time.Time `json:"time"`          // when it was complete, by the guest's clock
	Mark     bool      `json:"mark"`          // a restore to any moment up to Time ends within it
	Gap      string    `json:"gap,omitempty"` // what is missing before it, in words
	// Life counts how often the stream has begun anew, because its VM was put back to an image or its logs were reset.
	// Logs of two lives are two histories, even where they share names.
	Life int64 `json:"life,omitempty"`

	Container string `json:"-"` // id of the image point that it follows
	Batch     string `json:"-"` // what it was stored with
	// Stored is when, by the clock of whoever keeps the batch; zero where that is not known.
	Stored time.Time `json:"-"`
}

// Store is a place for logs. Its methods may be called by several goroutines; a stream has one writer at a time.
type Store interface {
	// Begin starts a batch of logs of a stream. container is the id of the image point that they follow.
	Begin(ctx context.Context, s Stream, container string) (Batch, error)
	// Logs yields what is stored of a stream, in the order in which it was. A *BatchError stands for a batch that cannot be
	// read: what follows is yielded all the same. Any other error says that what is stored is not known.
	Logs(ctx context.Context, s Stream) iter.Seq2[Log, error]
	// Open reads a log that Logs has yielded. It does not verify the sum: [Read] does.
	Open(ctx context.Context, s Stream, l Log) (io.ReadCloser, error)
}

// Lister is a [Store] that knows its streams.
type Lister interface {
	// Streams yields each stream of a VM of which something is stored, once.
	Streams(ctx context.Context, vm string) iter.Seq2[Stream, error]
}

// Batch is written at once or not at all.
type Batch interface {
	// Put stores a log. Its SHA256 is computed; an error of the reader fails the batch. l.Size is what must come.
	Put(ctx context.Context, l Log, r io.Reader) error
	// Commit makes the batch durable and visible.
	Commit(ctx context.Context) error
	// Close releases it. Without a Commit before, nothing of it remains visible.
	Close() error
}

// Read writes a log to w and verifies it. What was written counts only where the error is nil; a *SumError says that
// the log is damaged.
func Read(ctx context.Context, st Store, s Stream, l Log, w io.Writer) error {
	r, err := st.Open(ctx, s, l)
	if err != nil {
		return err
	}
	defer r.Close()
	h := newHasher()
	n, err := io.Copy(io.MultiWriter(w, h), io.LimitReader(r, l.Size+1))
	if err != nil {
		return fmt.Errorf("%s: log %s: %w", s, l.Name, err)
	}
	if n != l.Size || h.sum() != l.SHA256 {
		return &SumError{s, l.Name}
	}
	return nil
}
