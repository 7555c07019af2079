package natsqueue

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hikae/hikae/job/queue"
)

// Options change how a queue is opened. Nil and zero fields are good defaults, but for Credentials, which must be there.
type Options struct {
	Credentials *Credentials
	TLS         *tls.Config // nil: the system's authorities, where the address is not this machine's
	// Plain allows a connection to another machine without TLS, where the network itself keeps others out and is encrypted.
	Plain bool
	Name  string // of this client, for whoever looks at the server; empty: hikae

	// Replicas are on how many servers everything lies. It counts when the queue is made, and not afterwards. Zero: 1.
	Replicas int
	// Lease is how long a worker may be silent. It counts when the queue is made, and not afterwards. Zero: 60 s.
	Lease time.Duration
	// Patience is how long Open waits for a server that does not answer, or a cluster that has no leader yet. Zero: 30 s.
	Patience time.Duration
	Warn     func(string) // hears of lost connections and the like; nil: nobody does
}

// ErrNoJetStream says that the server is there and keeps nothing: JetStream is off, for it or for this account.
var ErrNoJetStream = errors.New("JetStream is not enabled: the server needs a jetstream block in its configuration, and the account a share of it")

const (
	streamName = "HIKAE-TASKS"
	bucketName = "hikae"
	subjects   = "hikae.task."
	leaseKey   = "hikae-lease"
	callLimit  = 5 * time.Second
)

// Queue is a queue.Queue on JetStream.
type Queue struct {
	opts  Options
	nc    *nats.Conn
	js    jetstream.JetStream
	lease time.Duration
	kv    jetstream.KeyValue
	own   labels
}

var _ queue.Queue = (*Queue)(nil)

// Open connects to servers, nats://HOST:PORT or tls://HOST:PORT, several with commas, and makes what is missing of the queue there.
// Errors: ErrNoCredentials, ErrNoJetStream, *InsecureError, and those of nats.go.
func Open(ctx context.Context, address string, opts *Options) (*Queue, error) {
	q := &Queue{}
	if opts != nil {
		q.opts = *opts
	}
	q.opts.Replicas = cmp.Or(q.opts.Replicas, 1)
	q.opts.Lease = cmp.Or(q.opts.Lease, time.Minute)
	if q.opts.Warn == nil {
		q.opts.Warn = func(string) {}
	}
	q.opts.Patience = cmp.Or(q.opts.Patience, 30*time.Second)
	ctx, cancel := context.WithTimeout(ctx, q.opts.Patience)
	defer cancel()
	if err := q.connect(ctx, address); err != nil {
		return nil, fmt.Errorf("queue %s: %w", hosts(address), err)
	}
	if err := q.prepare(ctx); err != nil {
		q.nc.Close()
		return nil, fmt.Errorf("queue %s: %w", hosts(address), err)
	}
	return q, nil
}

// hosts is an address without what may be secret in it.
func hosts(address string) string {
	var out []string
	for one := range strings.SplitSeq(address, ",") {
		if u, err := url.Parse(strings.TrimSpace(one)); err == nil {
			out = append(out, u.Host)
		}
	}
	return strings.Join(out, ",")
}

// InsecureError says that credentials and work would go over a network in the clear.
type InsecureError struct{ Host string }

func (e *InsecureError) Error() string {
	return fmt.Sprintf("%s is another machine, and the address is without TLS: use tls://", e.Host)
}

func (q *Queue) connect(ctx context.Context, address string) error {
	login, err := q.opts.Credentials.option()
	if err != nil {
		return err
	}
	secure, err := q.security(address)
	if err != nil {
		return err
	}
	options := append(secure, login, nats.Name(cmp.Or(q.opts.Name, "hikae")), nats.Timeout(5*time.Second),
		nats.MaxReconnects(-1), nats.ReconnectWait(500*time.Millisecond), nats.ReconnectJitter(250*time.Millisecond, time.Second),
		nats.PingInterval(10*time.Second), nats.MaxPingsOutstanding(2), nats.IgnoreAuthErrorAbort(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				q.opts.Warn(fmt.Sprintf("the queue is away: %v", err))
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { q.opts.Warn("the queue is back: " + nc.ConnectedServerName()) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { q.opts.Warn("queue: " + err.Error()) }))
	for {
		if q.nc, err = nats.Connect(address, options...); err == nil {
			break
		}
		if !errors.Is(err, nats.ErrNoServers) && !errors.Is(err, nats.ErrTimeout) {
			return err
		}
		if pause(ctx, 250*time.Millisecond) != nil {
			return err
		}
	}
	q.js, err = jetstream.New(q.nc, jetstream.WithDefaultTimeout(callLimit))
	return err
}

// security holds the address to TLS wherever it leaves this machine.
func (q *Queue) security(address string) (out []nats.Option, err error) {
	encrypted := q.opts.TLS != nil
	for one := range strings.SplitSeq(address, ",") {
		u, err := url.Parse(strings.TrimSpace(one))
		if err != nil || u.Host == "" || u.Scheme != "nats" && u.Scheme != "tls" {
			return nil, errors.New("an address is nats://HOST:PORT or tls://HOST:PORT")
		}
		if u.User != nil {
			return nil, errors.New("an address has no user or password in it: they come in a file")
		}
		here := u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback()
		if !here && u.Scheme != "tls" && q.opts.TLS == nil && !q.opts.Plain {
			return nil, &InsecureError{u.Host}
		}
		encrypted = encrypted || u.Scheme == "tls"
	}
	if !encrypted {
		return nil, nil
	}
	config := &tls.Config{}
	if q.opts.TLS != nil {
		config = q.opts.TLS.Clone()
	}
	config.MinVersion = tls.VersionTLS13
	return []nats.Option{nats.Secure(config)}, nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// patiently tries until it succeeds, or what is wrong does not pass. A request that no leader heard is answered by nobody, so each try
// has an end of its own.
func (q *Queue) patiently(ctx context.Context, do func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, q.opts.Patience)
	defer cancel()
	for {
		try, cancel := context.WithTimeout(ctx, callLimit)
		err := do(try)
		cancel()
		if err == nil || !passing(err) || q.nc.IsClosed() || pause(ctx, 250*time.Millisecond) != nil {
			return err
		}
	}
}

// prepare finds or makes the stream and the bucket.
func (q *Queue) prepare(ctx context.Context) error {
	err := q.patiently(ctx, func(ctx context.Context) error {
		_, err := q.js.AccountInfo(ctx)
		return err
	})
	if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
		return fmt.Errorf("%w (%w)", ErrNoJetStream, err)
	}
	if err == nil {
		err = q.patiently(ctx, q.stream)
	}
	if err == nil {
		err = q.patiently(ctx, q.bucket)
	}
	return err
}

// stream finds or makes the stream of tasks.
func (q *Queue) stream(ctx context.Context) error {
	found, err := q.found(ctx, jetstream.StreamConfig{
		Name: streamName, Subjects: []string{subjects + ">"}, Description: "work of a fleet, one message a subject",
		Retention: jetstream.WorkQueuePolicy, Storage: jetstream.FileStorage, Replicas: q.opts.Replicas,
		Discard: jetstream.DiscardNew, DiscardNewPerSubject: true, MaxMsgsPerSubject: 1, MaxMsgSize: queue.MaxDocument,
		Duplicates: 2 * time.Minute, Metadata: map[string]string{leaseKey: q.opts.Lease.String()},
	})
	if err != nil {
		return err
	}
	if q.lease, err = time.ParseDuration(found.Metadata[leaseKey]); err != nil || found.MaxMsgsPerSubject != 1 || !found.DiscardNewPerSubject {
		return fmt.Errorf("stream %s was not made by this program: %w", streamName, queue.ErrInvalid)
	}
	return nil
}

// bucket finds or makes the bucket of all tables. Followers do not answer for it (AllowDirect is off): a claim must not be judged by
// what was true a moment ago.
func (q *Queue) bucket(ctx context.Context) error {
	found, err := q.found(ctx, jetstream.StreamConfig{
		Name: "KV_" + bucketName, Subjects: []string{"$KV." + bucketName + ".>"}, Description: "tables of a fleet",
		Storage: jetstream.FileStorage, Replicas: q.opts.Replicas, MaxMsgsPerSubject: 1, MaxMsgSize: queue.MaxDocument,
		Discard: jetstream.DiscardNew, DenyDelete: true, AllowRollup: true, AllowMsgTTL: true, SubjectDeleteMarkerTTL: markers,
		Duplicates: 2 * time.Minute, MaxConsumers: -1, MaxMsgs: -1, MaxBytes: -1,
	})
	if err != nil {
		return err
	}
	if found.AllowDirect || found.MaxMsgsPerSubject != 1 {
		return fmt.Errorf("bucket %s was not made by this program: %w", bucketName, queue.ErrInvalid)
	}
	q.kv, err = q.js.KeyValue(ctx, bucketName)
	return err
}

// found is the configuration of a stream that is there now.
func (q *Queue) found(ctx context.Context, want jetstream.StreamConfig) (jetstream.StreamConfig, error) {
	stream, err := q.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = q.js.CreateStream(ctx, want)
	}
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		stream, err = q.js.Stream(ctx, want.Name)
	}
	if err != nil {
		return jetstream.StreamConfig{}, err
	}
	return stream.CachedInfo().Config, nil
}

// markers is how long it stays known that a key was removed, for those who watch and were away.
const markers = time.Hour

// Lease is how long a message is its taker's.
func (q *Queue) Lease() time.Duration { return q.lease }

// Close closes the connection.
func (q *Queue) Close() error {
	q.nc.Close()
	return nil
}

// Traffic is what went over this client's connection since Open.
type Traffic struct {
	SentMessages, SentBytes, ReceivedMessages, ReceivedBytes uint64
	Reconnects                                               uint64
}

// Traffic tells what the queue costs on the network.
func (q *Queue) Traffic() Traffic {
	s := q.nc.Stats()
	return Traffic{s.OutMsgs, s.OutBytes, s.InMsgs, s.InBytes, s.Reconnects}
}
