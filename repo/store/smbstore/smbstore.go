// Package smbstore keeps a repository's objects in a folder of an SMB 2 or 3 share, spoken to directly: nothing is
// mounted, and no privilege is needed. Reach for it on the gateway of a shared-folder repository; where the share is
// mounted already, dirstore serves too, for one writer.
//
//	creds := func(context.Context) (smbstore.Credentials, error) {
//		return smbstore.Credentials{User: "backup", Domain: "CORP", Password: password}, nil
//	}
//	st, err := smbstore.Open(ctx, smbstore.Address{Host: "nas", Share: "backup", Folder: "hikae"}, creds, nil)
//
// # Layout
//
// The same as dirstore's, whose rules this package follows with SMB's means: an object is one file, written under a
// temporary name, flushed, closed, and then renamed. A repository can be moved from one to the other by copying it. Do
// not write to one folder through both at once: they exclude each other's writers by different means.
//
// # How a name is given to one writer
//
// The client library renames only with replacing, so a name is claimed first: the file ".tmp/claim-<hash of the name>"
// is created exclusively (FILE_CREATE) and kept open without sharing deletion, the name is looked up, the file renamed,
// the claim closed and removed, all on one connection.
//
//	writer A                                  server                      writer B
//	CREATE claim, FILE_CREATE, no delete  ──▶ made, open
//	mark it, read the mark by name        ──▶ nobody else's
//	                                          name collision    ◀── CREATE claim, FILE_CREATE
//	CREATE name, FILE_OPEN                ──▶ not there
//	RENAME temp to name                   ──▶ done              ◀── is the name there? It waits
//	CLOSE claim, delete it                ──▶ gone
//
// A claim that does not change for a moment may be a dead writer's; B tries to delete it, and a sharing violation says
// that A lives. A server closes what a connection had open when the connection is gone. So a claim ends with its writer,
// and a writer that was cut off cannot rename any more: its requests were on the connection that held the claim.
// [Store.Probe] tries it with two connections. A writer that vanishes without a word between claim and rename (its power
// fails, a line swallows everything, it is stopped) leaves that one name claimed until the server notices; let it look:
// Samba's "socket options = TCP_NODELAY SO_KEEPALIVE TCP_KEEPIDLE=30 TCP_KEEPINTVL=10 TCP_KEEPCNT=3". Until then the
// name gives [ErrBusy]. Only this package knows of claims: whoever else writes to the folder is not kept out by them.
//
// # Durability
//
// FLUSH on the file before it is closed, and FLUSH on the folder after a rename. Samba does an fsync for each ("strict
// sync = yes", its default). Where a server refuses to flush folders, Probe says so and the repository has one writer.
//
// # Freshness
//
// No oplock and no lease is asked for: every look-up, listing and read is answered by the server.
//
// # Connections that are lost
//
// Calls go on over a new connection, for up to [Options.GiveUp], with credentials asked for anew; a file that was being
// written is written again under another temporary name; a rename whose answer was lost is settled by reading. The
// caller sees nothing of it but time.
//
// # Security
//
// Messages are signed, always: guests and anonymous users cannot sign and are refused. They are encrypted where server
// or share ask for it; [Options.RequireEncryption] refuses others. Logging on is NTLMv2, or Kerberos with an initiator
// of the caller's.
package smbstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// Options change how a share is used. Nil and zero fields are good defaults.
type Options struct {
	// Dial makes the connection that SMB runs on. Nil: TCP with keep-alive.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Connections is how many connections are used at once, at most 16. Zero: 4.
	Connections int
	// Timeout is how long one request, of at most 1 MiB, and one logon may take. A connection that takes longer is
	// given up. Zero: 60 s.
	Timeout time.Duration
	// GiveUp is how long a call waits for a server that is away. Zero: 10 minutes; negative: not at all.
	GiveUp time.Duration
	// BusyWait is how long a file that somebody else has open, and a name that another writer is about to make, are
	// waited for. Zero: 30 s.
	BusyWait time.Duration
	// KeepOpen is how long an object stays open after it was read. Nobody can remove it meanwhile. Zero: 2 s.
	KeepOpen time.Duration
	// SeveralWriters lets Probe say that several processes may write, where it finds so. The client library renames only
	// with replacing; claims keep two writers from one name, and in a stress test an older form of them once did not.
	// Without this a repository on a share has one process that writes, such as its gateway's mover.
	SeveralWriters bool
	// RequireEncryption refuses a share whose traffic would only be signed.
	RequireEncryption bool
}

const maxConnections = 16

func (o *Options) withDefaults() Options {
	var d Options
	if o != nil {
		d = *o
	}
	if d.Dial == nil {
		keep := net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4}
		d.Dial = (&net.Dialer{KeepAliveConfig: keep}).DialContext
	}
	if d.Connections <= 0 {
		d.Connections = 4
	}
	d.Connections = min(d.Connections, maxConnections)
	d.Timeout = orElse(d.Timeout, time.Minute)
	d.GiveUp = orElse(d.GiveUp, 10*time.Minute)
	d.BusyWait = orElse(d.BusyWait, 30*time.Second)
	d.KeepOpen = orElse(d.KeepOpen, 2*time.Second)
	return d
}

func orElse(d, zero time.Duration) time.Duration {
	if d == 0 {
		return zero
	}
	return d
}

// Store is a folder on a share. It has all optional abilities: [store.Prober], [store.Settler], [store.Spacer] and
// [store.Sweeper].
type Store struct {
	*dirstore.Store
	share *share
}

var (
	_ store.Store   = (*Store)(nil)
	_ store.Prober  = (*Store)(nil)
	_ store.Settler = (*Store)(nil)
	_ store.Spacer  = (*Store)(nil)
	_ store.Sweeper = (*Store)(nil)
)

// Init makes the folder where it does not exist, and opens it. The share has to be there.
func Init(ctx context.Context, at Address, creds CredentialsFunc, opts *Options) (*Store, error) {
	return start(ctx, "init", at, creds, opts, (*share).makeRoot)
}

// Open opens a folder. It makes and removes nothing. A folder that is not there is fs.ErrNotExist; a server that is
// away is an error at once, GiveUp is for later.
func Open(ctx context.Context, at Address, creds CredentialsFunc, opts *Options) (*Store, error) {
	return start(ctx, "open", at, creds, opts, (*share).findRoot)
}

func start(ctx context.Context, op string, at Address, creds CredentialsFunc, opts *Options, first func(*share) error) (*Store, error) {
	if err := at.check(); err != nil {
		return nil, fmt.Errorf("%s store: %w", op, err)
	}
	if creds == nil {
		return nil, fmt.Errorf("%s store on %s: no credentials: %w", op, at, fs.ErrInvalid)
	}
	s := newShare(at, creds, opts.withDefaults())
	err := s.pool.warm(ctx)
	if err == nil {
		err = first(s.bind(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("%s store on %s: %w", op, at, errors.Join(err, s.Close()))
	}
	return &Store{Store: dirstore.OpenFS(s, nil), share: s}, nil
}

// Encrypted reports whether what was sent last was encrypted and not only signed.
func (s *Store) Encrypted() bool { return s.share.pool.encrypted() }

// Probe tries what [dirstore.Store.Probe] tries, and with a second connection whether a claim that is open on the first
// can be taken away, and whether the second sees what the first has made.
func (s *Store) Probe(ctx context.Context) (store.Abilities, error) {
	found, err := s.Store.Probe(ctx)
	if err != nil {
		return store.Abilities{}, err
	}
	exclusive, fresh, err := s.share.bind(ctx).probe(ctx)
	if err != nil {
		return store.Abilities{}, &fs.PathError{Op: "probe", Path: tempDir, Err: err}
	}
	found.ExclusiveCreate = found.ExclusiveCreate && exclusive && s.share.opts.SeveralWriters
	found.FreshReads = found.FreshReads && fresh
	return found, nil
}

// Sweep removes the unfinished files of dead writers, and their claims. The server knows who lives, from whatever
// machine: a writer whose connection is gone has nothing open.
func (s *Store) Sweep(ctx context.Context, alone bool) (store.Swept, error) {
	swept, err := s.Store.Sweep(ctx, alone)
	if err != nil {
		return swept, err
	}
	if err := s.share.bind(ctx).sweepClaims(&swept); err != nil {
		return swept, &fs.PathError{Op: "sweep", Path: tempDir, Err: err}
	}
	return swept, nil
}
