package hostfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// Login is who logs on to a server. Its fields are those of cim.Login, so that one converts to the other.
type Login struct {
	User, Password string   // user, user@realm or DOMAIN\user
	Realm          string   // for Kerberos; empty: as the user's name says
	Krb5Config     string   // the text of a krb5.conf
	KDCs           []string // host or host:port; empty: asked of DNS
}

// Options say whose files they are, and how they are reached. Machine and Login are needed; zero fields are good defaults.
type Options struct {
	// Machine is the host whose drives are meant: C:\x is \\Machine\C$\x.
	Machine string
	// Login is asked when a connection to a server is made, Machine or another. An error refuses the server: answer for those that
	// are known, since disk files may name any.
	Login func(ctx context.Context, server string) (Login, error)
	// Address is where a server is reached, as HOST or HOST:PORT. Nil or an empty answer: by its name, at port 445.
	Address func(server string) string
	// Dial makes the connection that SMB runs on. Nil: TCP with keep-alive.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Connections is how many connections to one share are used at once, at most 16. Zero: 4.
	Connections int
	// Timeout is how long one request, of at most 1 MiB, and one logon may take. A connection that takes longer is given up.
	// Zero: 60 s.
	Timeout time.Duration
	// GiveUp is how long a read waits for a server that was there and is away. Zero: 5 minutes; negative: not at all.
	GiveUp time.Duration
	// BusyWait is how long a file that somebody else has open is waited for. Zero: 10 s; negative: not at all.
	BusyWait time.Duration
	// RequireEncryption refuses a share whose traffic would only be signed.
	RequireEncryption bool
}

const (
	maxConnections = 16
	maxShares      = 256
	maxList        = 100_000
)

func (o *Options) setDefaults() {
	if o.Dial == nil {
		keep := net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4}
		o.Dial = (&net.Dialer{KeepAliveConfig: keep}).DialContext
	}
	if o.Connections <= 0 {
		o.Connections = 4
	}
	o.Connections = min(o.Connections, maxConnections)
	if o.Timeout <= 0 {
		o.Timeout = time.Minute
	}
	if o.GiveUp == 0 {
		o.GiveUp = 5 * time.Minute
	}
	if o.BusyWait == 0 {
		o.BusyWait = 10 * time.Second
	}
}

// Store is the files of one machine, and those of the shares that it names. Its methods may be called at once.
type Store struct {
	opts Options

	mu      sync.Mutex
	closed  bool
	shares  map[string]*share // by \\server\share in small letters
	writing map[string]bool   // files that are written to, likewise
}

var _ vhdx.Files = (*Store)(nil)

// New sets a store up. Nothing is connected yet. A machine's name that is none, and no Login, are fs.ErrInvalid.
func New(opts Options) (*Store, error) {
	if opts.Login == nil {
		return nil, fmt.Errorf("files of %q: nobody to log on as: %w", opts.Machine, fs.ErrInvalid)
	}
	root := `\\` + opts.Machine + `\C$\`
	if clean, err := vhdx.WindowsPath(root); err != nil || clean != root {
		return nil, fmt.Errorf("files of %q: no name of a machine: %w", opts.Machine, fs.ErrInvalid)
	}
	opts.setDefaults()
	return &Store{opts: opts, shares: map[string]*share{}, writing: map[string]bool{}}, nil
}

// Encrypted reports whether all connections that there are encrypt, and not only sign.
func (s *Store) Encrypted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sh := range s.shares {
		if !sh.encrypted() {
			return false
		}
	}
	return len(s.shares) > 0
}

// spot is a file by its name: a share, and the path in it. The share's root has an empty path.
type spot struct {
	name string // as the host says it
	*share
	path string
}

func (p spot) fail(op string, off int64, err error) error {
	if err == nil {
		return nil
	}
	var known *diskfile.ChangedError
	if errors.As(err, &known) {
		return err
	}
	return &diskfile.Error{Op: op, Path: p.name, Off: off, Err: translate(err)}
}

// key names a file for whoever compares.
func (p spot) key() string { return strings.ToLower(p.share.unc() + `\` + p.path) }

// find is where a name leads.
func (s *Store) find(op, name string) (spot, error) {
	clean, err := vhdx.WindowsPath(name)
	if err != nil {
		return spot{}, &diskfile.Error{Op: op, Path: fmt.Sprintf("%.300q", name), Off: -1, Err: err}
	}
	unc, ok := strings.CutPrefix(clean, `\\`)
	if !ok {
		unc = s.opts.Machine + `\` + clean[:1] + `$\` + clean[3:]
	}
	words := strings.SplitN(unc, `\`, 3)
	sh, err := s.share(words[0], words[1])
	if err != nil {
		return spot{}, &diskfile.Error{Op: op, Path: clean, Off: -1, Err: err}
	}
	return spot{clean, sh, words[2]}, nil
}

func (s *Store) share(server, name string) (*share, error) {
	key := strings.ToLower(server + `\` + name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fs.ErrClosed
	}
	if sh := s.shares[key]; sh != nil {
		return sh, nil
	}
	if len(s.shares) >= maxShares {
		return nil, fmt.Errorf("more than %d shares: %w", maxShares, fs.ErrInvalid)
	}
	sh := newShare(server, name, s.opts)
	s.shares[key] = sh
	return sh, nil
}

// Open opens a file for reading, as it is now: one moment of it, as [pipe.Image] wants, is for who asks to see to. None is
// fs.ErrNotExist, a folder is diskfile.ErrNotDisk, one that somebody shares with nobody is [ErrBusy].
func (s *Store) Open(ctx context.Context, name string) (pipe.Image, error) {
	p, err := s.find("open", name)
	if err != nil {
		return nil, err
	}
	img, err := openImage(ctx, p)
	if err != nil {
		return nil, p.fail("open", -1, err)
	}
	return img, nil
}

// Close ends all connections. Images and files that are open end with them.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	all := s.shares
	s.shares = map[string]*share{}
	s.mu.Unlock()
	var ending sync.WaitGroup
	for _, sh := range all {
		ending.Go(sh.close)
	}
	ending.Wait()
	return nil
}
