//go:build linux

package apps

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/guest/agent/wire"
)

// maxLogs bounds one listing: the rest comes when these are shipped.
const maxLogs = 4096

// listing is what an instance listed last, and where the files are.
type listing struct {
	answer wire.LogsAnswer
	folder string
	uid    int // whose files they are
	// check looks at the first bytes of a file: that it is what its name says.
	check func(name string, head []byte) error
	// A cluster's, the size of its segments, and whether its archive queue keeps them (pglogs.go).
	system  string
	segment int64
	queue   bool
}

// find finds an instance that runs.
func (a *Apps) find(kind, name string) (server, error) {
	all, err := a.servers()
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		if s.key() == (key{kind, name}) {
			return s, nil
		}
	}
	return nil, missing("%s is not running", clean(kind+"/"+name, 200))
}

func missing(format string, args ...any) error {
	return &wire.Failure{Code: wire.CodeMissing, Message: fmt.Sprintf(format, args...)}
}

// logLimit bounds listing, and telling what was shipped.
const logLimit = time.Minute

// Logs lists an instance's complete logs.
func (a *Apps) Logs(ctx context.Context, args wire.LogsArgs) (wire.LogsAnswer, error) {
	if args.Begin && args.End {
		return wire.LogsAnswer{}, &wire.Failure{Code: wire.CodeInvalid, Message: "begin and end at once"}
	}
	if args.End && args.Kind == "" && args.Name == "" {
		return wire.LogsAnswer{Logs: []wire.Log{}}, a.endAll(ctx)
	}
	s, err := a.find(args.Kind, args.Name)
	if err != nil {
		return wire.LogsAnswer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, logLimit)
	defer cancel()
	l, err := s.logs(ctx, args)
	if err != nil {
		return wire.LogsAnswer{}, fmt.Errorf("%s: logs: %w", s.key(), err)
	}
	if l.answer.Logs == nil {
		l.answer.Logs = []wire.Log{}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.listed[s.key().String()] = l
	return l.answer, nil
}

// endAll makes every instance stop keeping logs for us, for whoever does not know which ones do.
func (a *Apps) endAll(ctx context.Context) error {
	all, err := a.servers()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, logLimit)
	defer cancel()
	problems := make([]error, len(all))
	each(all, func(i int, s server) {
		if _, err := s.logs(ctx, wire.LogsArgs{End: true}); err != nil {
			problems[i] = fmt.Errorf("%s: logs: %w", s.key(), err)
		}
	})
	return errors.Join(problems...)
}

// lastListed is what Logs has listed last.
func (a *Apps) lastListed(kind, name string) (*listing, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.listed[key{kind, name}.String()]
	if l == nil {
		return nil, &wire.Failure{Code: wire.CodeState, Message: "the logs of " + clean(kind+"/"+name, 200) + " were not listed"}
	}
	return l, nil
}

// Fetch writes one log that was listed. What was written counts only where the answer comes: a file that changes while
// it is read is an error.
func (a *Apps) Fetch(ctx context.Context, args wire.FetchArgs, to io.Writer) (wire.FetchAnswer, error) {
	l, err := a.lastListed(args.Kind, args.Name)
	if err != nil {
		return wire.FetchAnswer{}, err
	}
	at := slices.IndexFunc(l.answer.Logs, func(o wire.Log) bool { return o.Name == args.Log })
	if at < 0 {
		return wire.FetchAnswer{}, missing("%q was not listed", clean(args.Log, 200))
	}
	answer, err := l.fetch(ctx, l.answer.Logs[at], to)
	if err != nil {
		err = fmt.Errorf("%s/%s: log %s: %w", args.Kind, args.Name, args.Log, err)
	}
	return answer, err
}

// errStale says that a log is not what was listed.
var errStale = errors.New("it is not what was listed any more")

// open opens a log. The folder belongs to the server's account: a name leads to a plain file of that account below it,
// or nowhere.
func (l *listing) open(name string) (*os.Root, *os.File, error) {
	root, err := os.OpenRoot(l.folder)
	if err != nil {
		return nil, nil, err
	}
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		err = missing("%s is gone", clean(name, 200))
	}
	if err != nil {
		return nil, nil, errors.Join(err, root.Close())
	}
	info, err := f.Stat()
	if err == nil && !l.plain(info) {
		err = errStale
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close(), root.Close())
	}
	return root, f, nil
}

// plain reports whether a file is a plain one of the server's account.
func (l *listing) plain(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode().IsRegular() && int(st.Uid) == l.uid
}

func (l *listing) fetch(ctx context.Context, log wire.Log, to io.Writer) (wire.FetchAnswer, error) {
	root, f, err := l.open(log.Name)
	if err != nil {
		return wire.FetchAnswer{}, err
	}
	defer root.Close()
	defer f.Close()
	head := make([]byte, 64)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return wire.FetchAnswer{}, err
	}
	if err := l.check(log.Name, head[:n]); err != nil {
		return wire.FetchAnswer{}, err
	}
	sum := sha256.New()
	written, err := io.CopyN(io.MultiWriter(sum, to), &reader{ctx, f}, log.Size)
	if err == io.EOF {
		err = errStale
	}
	if err != nil {
		return wire.FetchAnswer{Bytes: written}, err
	}
	// A server renames a file that it needs no more and writes it anew: what has kept its name has kept its content.
	before, err := f.Stat()
	if err != nil {
		return wire.FetchAnswer{}, err
	}
	after, err := root.Lstat(log.Name)
	if err != nil || !os.SameFile(before, after) || after.Size() != log.Size {
		return wire.FetchAnswer{}, errStale
	}
	return wire.FetchAnswer{Bytes: written, SHA256: sum.Sum(nil)}, nil
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// Shipped lets an instance go on without logs that are stored safely. Names that were not listed are an error.
func (a *Apps) Shipped(ctx context.Context, args wire.ShippedArgs) error {
	l, err := a.lastListed(args.Kind, args.Name)
	if err != nil {
		return err
	}
	known := make(map[string]bool, len(l.answer.Logs))
	for _, o := range l.answer.Logs {
		known[o.Name] = true
	}
	for _, n := range args.Logs {
		if !known[n] {
			return missing("%q was not listed", clean(n, 200))
		}
	}
	s, err := a.find(args.Kind, args.Name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, logLimit)
	defer cancel()
	if err := s.shipped(ctx, l, args.Logs); err != nil {
		return fmt.Errorf("%s: shipped: %w", s.key(), err)
	}
	return nil
}

// stamp is a file's time as a log has it.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
