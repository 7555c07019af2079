package sqlserver

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae/guest/agent"
	"github.com/hikae/hikae/guest/agent/wire"
)

// Limits of statements.
const (
	askLimit    = 30 * time.Second
	backupLimit = 30 * time.Minute
	maxWaiting  = 10000 // files that were not shipped, before no more are made
)

// Keeper is an [agent.LogKeeper] for the instances of SQL Server in this guest.
type Keeper struct {
	instances func() ([]string, error)
	open      func(instance string) (*client, error)
	now       func() time.Time
}

var _ agent.LogKeeper = (*Keeper)(nil)

// New finds instances and sqlcmd when it is asked something.
func New() *Keeper { return &Keeper{instances: instances, open: openClient, now: time.Now} }

// Database is one database of an instance.
type Database struct {
	Name string
	// Skip says why its log is not backed up; empty where it is.
	Skip string
}

// Find lists the instances.
func (k *Keeper) Find(ctx context.Context) ([]wire.Application, error) {
	names, err := k.instances()
	if err != nil {
		return nil, err
	}
	var all []wire.Application
	for _, name := range names {
		app := wire.Application{Kind: Kind, Name: name, State: "ready", Logs: "yes (" + Unverified + ")"}
		if s, err := k.server(ctx, name); err != nil {
			app.State, app.Logs = err.Error(), "no: it cannot be asked"
		} else {
			app.Version, app.Folders = s.version, []string{s.folder}
		}
		all = append(all, app)
	}
	return all, nil
}

// server is one instance that has answered.
type server struct {
	*client
	version string
	folder  string // for backups
}

func (k *Keeper) server(ctx context.Context, instance string) (*server, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	names, err := k.instances()
	if err != nil {
		return nil, err
	}
	if !slices.Contains(names, instance) {
		return nil, &wire.Failure{Code: wire.CodeMissing, Message: fmt.Sprintf("no instance %.100q of SQL Server", instance)}
	}
	c, err := k.open(instance)
	if err != nil {
		return nil, err
	}
	rows, err := c.query(ctx, serverFacts)
	if err != nil {
		return nil, rights(err)
	}
	if len(rows) != 1 || len(rows[0]) != 2 || !filepath.IsAbs(rows[0][1]) {
		return nil, fmt.Errorf("%w: no folder for backups", ErrOutput)
	}
	return &server{client: c, version: clean(rows[0][0]), folder: rows[0][1]}, nil
}

// rights tells refusals from other errors: 229, 262, 916 and 18456 are of permission or login.
func rights(err error) error {
	var e *Error
	if errors.As(err, &e) && slices.Contains([]int{229, 262, 916, 18456}, e.Number) {
		return &wire.Failure{Code: wire.CodeRights, Message: err.Error(),
			Hint: "give the component's account (LocalSystem: NT AUTHORITY\\SYSTEM) the server role sysadmin, or db_backupoperator in each database"}
	}
	return err
}

// Databases lists the databases of an instance, and why a log is left out.
func (k *Keeper) Databases(ctx context.Context, instance string) ([]Database, error) {
	s, err := k.server(ctx, instance)
	if err != nil {
		return nil, err
	}
	return s.databases(ctx)
}

func (s *server) databases(ctx context.Context) ([]Database, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	rows, err := s.query(ctx, listDatabases)
	if err != nil {
		return nil, rights(err)
	}
	var all []Database
	for _, r := range rows {
		if len(r) != 6 || r[0] == "" || len(units(r[0])) > 2*maxName {
			return nil, fmt.Errorf("%w: a database of %d columns", ErrOutput, len(r))
		}
		all = append(all, Database{Name: r[0], Skip: reason(r[1], r[2], r[3], r[4], r[5])})
	}
	return all, nil
}

// reason is why a log is not backed up, from the columns of listDatabases.
func reason(model, state, readOnly, chain, preferred string) string {
	switch {
	case model == "3":
		return "recovery model simple: it has no log to keep"
	case model != "1" && model != "2":
		return "unknown recovery model " + clean(model)
	case state != "0":
		return "not online"
	case readOnly == "1":
		return "read-only"
	case preferred == "0":
		return "another replica of its availability group is to be backed up"
	case chain != "1":
		return "it was never backed up in full: its logs would continue nothing"
	}
	return ""
}

// fileRule is how our files are called: hikae-<letters of the database>-<hash of its name>-<time>.trn.
var fileRule = regexp.MustCompile(`^hikae-[A-Za-z0-9_]{0,32}-[0-9a-f]{12}-\d{8}T\d{9}Z\.trn$`)

// fileName is for a log of a database that is backed up now.
func fileName(database string, now time.Time) string {
	letters := strings.Map(func(r rune) rune {
		if r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return -1
	}, database)
	hash := sha256.Sum256([]byte(database))
	return fmt.Sprintf("hikae-%s-%x-%s.trn", letters[:min(len(letters), 32)], hash[:6],
		strings.Replace(now.UTC().Format("20060102T150405.000Z"), ".", "", 1))
}

// Logs backs up the log of each database that has one, and lists what was not shipped yet, oldest first. What could not
// be backed up is in Gap: an administrator has to know, and the other databases go on. With End, what waits is deleted.
func (k *Keeper) Logs(ctx context.Context, args wire.LogsArgs) (a wire.LogsAnswer, err error) {
	if args.End && args.Kind == "" && args.Name == "" {
		return a, k.endAll(ctx)
	}
	if err := check(args.Kind); err != nil {
		return a, err
	}
	s, err := k.server(ctx, args.Name)
	if err != nil {
		return a, err
	}
	root, err := os.OpenRoot(s.folder)
	if err != nil {
		return a, err
	}
	defer root.Close()
	if args.End {
		return a, discardFiles(root)
	}
	unclear, err := k.settle(ctx, s, root)
	if err != nil {
		return a, err
	}
	waiting, err := list(root)
	if err != nil {
		return a, err
	}
	var gaps []string
	if len(waiting) >= maxWaiting {
		gaps = append(gaps, fmt.Sprintf("%d logs wait to be shipped: no more are made", len(waiting)))
	} else if gaps, err = k.backup(ctx, s, root); err != nil {
		return a, err
	}
	a.Gap = strings.Join(append(gaps, unclear...), "; ")
	a.Gap = strings.ToValidUTF8(a.Gap[:min(len(a.Gap), maxGap)], "")
	a.Logs, err = list(root)
	a.Logs = fitting(a.Logs)
	return a, err
}

// Bounds of an answer, which is one message.
const (
	maxGap    = 64 << 10
	maxListed = wire.MaxMessage - 4*maxGap // a message may need several bytes for one of a gap's
)

// fitting are the oldest logs, as many as an answer has room for: the rest comes when these are shipped.
func fitting(logs []wire.Log) []wire.Log {
	var bytes int
	for i, l := range logs {
		if bytes += len(l.Name) + len(l.Time) + 80; bytes > maxListed { // with the names of its fields
			return logs[:i]
		}
	}
	return logs
}

// endAll deletes what waits of every instance.
func (k *Keeper) endAll(ctx context.Context) error {
	names, err := k.instances()
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, e := k.Logs(ctx, wire.LogsArgs{Kind: Kind, Name: name, End: true}); e != nil {
			err = errors.Join(err, fmt.Errorf("%s/%s: %w", Kind, name, e))
		}
	}
	return err
}

// backup makes one file for each database. Those that fail are told of in words.
func (k *Keeper) backup(ctx context.Context, s *server, root *os.Root) (gaps []string, err error) {
	all, err := s.databases(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		if d.Skip != "" {
			continue
		}
		if err := k.backupOne(ctx, s, root, d.Name); err != nil {
			if ctx.Err() != nil {
				return gaps, err
			}
			gaps = append(gaps, fmt.Sprintf("database %s: %v", clean(d.Name), err))
		}
	}
	return gaps, nil
}

func (k *Keeper) backupOne(ctx context.Context, s *server, root *os.Root, database string) error {
	ctx, cancel := context.WithTimeout(ctx, backupLimit)
	defer cancel()
	name := fileName(database, k.now())
	part := name + ".part"
	_, err := s.query(ctx, func(string) string { return backupLog(database, filepath.Join(s.folder, part)) })
	var refused *Error
	if errors.As(err, &refused) {
		root.Remove(part) // it may never have been made: a server that says no has kept its log
		return rights(err)
	}
	if err != nil {
		return fmt.Errorf("no answer, and the server may have cut its log already: what it has written is kept, and looked at in the next round: %w", err)
	}
	return root.Rename(part, name)
}

// partAge is when a file that the server does not take for a backup was given up: no backup takes as long.
const partAge = 2 * backupLimit

// settle looks at what backups without an answer have left. One that the server finds whole is a log like any other; it
// may be the only copy there is. One that it does not is deleted when nobody can be writing it any more, which is told.
func (k *Keeper) settle(ctx context.Context, s *server, root *os.Root) (unclear []string, err error) {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".part")
		info, err := e.Info()
		if !ok || !fileRule.MatchString(name) || err != nil || !info.Mode().IsRegular() {
			continue
		}
		err = s.verify(ctx, filepath.Join(s.folder, e.Name()))
		var refused *Error
		switch {
		case err == nil:
			err = root.Rename(e.Name(), name)
		case ctx.Err() != nil:
			return unclear, err
		case errors.As(err, &refused) && k.now().Sub(info.ModTime()) > partAge:
			unclear = append(unclear, fmt.Sprintf("%s was never whole and is deleted: %v", name, err))
			err = root.Remove(e.Name())
		}
		if err != nil {
			unclear = append(unclear, fmt.Sprintf("%s: %v", e.Name(), err))
		}
	}
	return unclear, nil
}

// verify has the server read a backup.
func (s *server) verify(ctx context.Context, file string) error {
	ctx, cancel := context.WithTimeout(ctx, backupLimit)
	defer cancel()
	_, err := s.query(ctx, func(string) string { return verifyBackup(file) })
	return err
}

// list is what waits in a folder.
func list(root *os.Root) ([]wire.Log, error) {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, err
	}
	var logs []wire.Log
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || !fileRule.MatchString(e.Name()) {
			continue
		}
		logs = append(logs, wire.Log{Name: e.Name(), Size: info.Size(), Time: info.ModTime().UTC().Format(time.RFC3339)})
	}
	slices.SortStableFunc(logs, func(a, b wire.Log) int { return strings.Compare(stamp(a.Name), stamp(b.Name)) })
	return logs, nil
}

// stamp is the time in a name that fileRule allows.
func stamp(name string) string { return name[len(name)-len("20060102T150405000Z.trn"):] }

// discardFiles deletes what waits, and what was never whole.
func discardFiles(root *os.Root) error {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	var problems []error
	for _, e := range entries {
		if fileRule.MatchString(strings.TrimSuffix(e.Name(), ".part")) {
			problems = append(problems, root.Remove(e.Name()))
		}
	}
	return errors.Join(problems...)
}

func check(kind string) error {
	if kind != Kind {
		return &wire.Failure{Code: wire.CodeMissing, Message: fmt.Sprintf("no logs of %.40q here", kind)}
	}
	return nil
}

// Fetch writes one log.
func (k *Keeper) Fetch(ctx context.Context, args wire.FetchArgs, to io.Writer) (a wire.FetchAnswer, err error) {
	root, err := k.place(ctx, args.Kind, args.Name, args.Log)
	if err != nil {
		return a, err
	}
	defer root.Close()
	f, err := root.Open(args.Log)
	if err != nil {
		return a, err
	}
	defer f.Close()
	hash := sha256.New()
	a.Bytes, err = io.Copy(io.MultiWriter(to, hash), f)
	a.SHA256 = hash.Sum(nil)
	return a, err
}

// Shipped deletes logs. One that is gone already is no error.
func (k *Keeper) Shipped(ctx context.Context, args wire.ShippedArgs) error {
	root, err := k.place(ctx, args.Kind, args.Name, args.Logs...)
	if err != nil {
		return err
	}
	defer root.Close()
	var problems []error
	for _, name := range args.Logs {
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// place opens the folder that an instance's logs are in, for names that are ours.
func (k *Keeper) place(ctx context.Context, kind, instance string, logs ...string) (*os.Root, error) {
	if err := check(kind); err != nil {
		return nil, err
	}
	for _, name := range logs {
		if !fileRule.MatchString(name) {
			return nil, &wire.Failure{Code: wire.CodeMissing, Message: fmt.Sprintf("no log %.100q", name)}
		}
	}
	s, err := k.server(ctx, instance)
	if err != nil {
		return nil, err
	}
	return os.OpenRoot(s.folder)
}

// Discard throws away the logs of an instance's databases, and with them the possibility to go back to a moment between
// backups. Databases without a log in use, or without a full backup, are left alone. There is one outcome for each.
func (k *Keeper) Discard(ctx context.Context, instance string) ([]wire.Outcome, error) {
	s, err := k.server(ctx, instance)
	if err != nil {
		return nil, err
	}
	all, err := s.databases(ctx)
	if err != nil {
		return nil, err
	}
	var out []wire.Outcome
	for _, d := range all {
		o := wire.Outcome{Kind: Kind, Name: clean(instance + "/" + d.Name), OK: true, Problem: d.Skip}
		if d.Skip == "" {
			began := time.Now()
			_, err := s.query(ctx, func(string) string { return discardLog(d.Name) })
			if err != nil {
				o.OK, o.Problem = false, clean(err.Error())
			}
			o.Millis = time.Since(began).Milliseconds()
		}
		out = append(out, o)
	}
	return out, nil
}
