package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
)

// access is how a repository is reached: where it is, and what opens it.
type access struct {
	repo         string
	passwordFile string
	keyFile      string
	identity     string

	lock time.Duration // that new points are kept for by the store; 0: they are not

	line     *lineFlags // of a place behind a mover; nil: the defaults
	prefix   string     // of the flags: empty, or "from-"
	variable string     // the environment variable with the passphrase
}

// repoFlags adds --repo and the secret flags to a command.
func repoFlags(cmd *cobra.Command) *access {
	a := &access{variable: "HIKAE_PASSWORD"}
	cmd.Flags().StringVar(&a.repo, "repo", "", "`REPO`: the repository's folder, smb://HOST/SHARE/FOLDER, s3://HOST/BUCKET/PREFIX, or mover://HOST/NAME (required)")
	a.secretFlags(cmd)
	if err := cmd.MarkFlagRequired("repo"); err != nil {
		panic(err) // the flag is defined just above
	}
	return a
}

func (a *access) secretFlags(cmd *cobra.Command) {
	of := ""
	if a.prefix != "" {
		of = " of the other repository"
	}
	cmd.Flags().StringVar(&a.passwordFile, a.prefix+"password-file", "", "`FILE` whose first line is the passphrase"+of+"; see: hikae help secrets")
	cmd.Flags().StringVar(&a.keyFile, a.prefix+"key-file", "", "`FILE` with a key of 32 bytes"+of)
	cmd.Flags().StringVar(&a.identity, a.prefix+"identity", "", "`FILE` with age identities"+of)
	cmd.MarkFlagsMutuallyExclusive(a.prefix+"password-file", a.prefix+"key-file", a.prefix+"identity")
}

// place is where points live: a repository in a folder, or one behind a mover.
type place interface {
	pipe.Backend
	ID() string
	Close() error
}

// opened is an open place.
type opened struct {
	place
	local *repo.Repository // nil where the place is behind a mover
	store store.Store      // of local
	said  *said

	target string // a place behind a mover, in words for the report

	as     enrolment // as whom this machine is known to the mover; zero without one
	writes []string  // VMs that this machine's writer's key is for; nil: it has none
}

// Unwrap is the place: what it can do beyond a backend's work is found behind this.
func (o *opened) Unwrap() pipe.Backend { return o.place }

// Resolve finds a point by what a person writes.
func (o *opened) Resolve(ctx context.Context, spec string) (pipe.PointInfo, error) {
	if o.local != nil {
		return o.local.Resolve(ctx, spec)
	}
	return job.FindPoint(ctx, o, spec)
}

// params are a repository's fixed parameters as far as they are known: a mover tells none, and the defaults are used.
func (o *opened) params() repo.Params {
	if o.local != nil {
		return o.local.Params()
	}
	return repo.Params{}
}

// said keeps what the repository warned of while a command ran, for the command's result: it has been printed already.
type said struct {
	mu   sync.Mutex
	list []string
}

const maxSaid = 1000

func (s *said) add(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) < maxSaid && !slices.Contains(s.list, text) {
		s.list = append(s.list, text)
	}
}

// onto appends to a result's own warnings.
func (s *said) onto(warnings []string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append(slices.Clip(warnings), s.list...)
}

// Close closes the place and the store that it is in.
func (o *opened) Close() error {
	err := o.place.Close()
	if o.store != nil {
		err = errors.Join(err, o.store.Close())
	}
	return err
}

// open opens the place that --repo names.
func (t *tool) open(ctx context.Context, a *access, readOnly bool) (*opened, error) {
	if meantMover(a.repo) {
		return nil, notMover(a.repo)
	}
	if strings.HasPrefix(a.repo, moverScheme) {
		return t.openFar(ctx, a)
	}
	return t.openHere(ctx, a, readOnly)
}

// checkFolder tells folders from the other kinds of places.
func checkFolder(place string) error {
	if place == "" {
		return outcome.Usage("Name the repository's folder.", "the repository has no name")
	}
	scheme, rest, ok := strings.Cut(place, "://")
	switch {
	case meantMover(place):
		return notMover(place)
	case isBucket(place):
		_, err := parseBucket(place)
		return err
	case !ok || isShare(place):
		return nil
	case scheme+"://" == moverScheme && rest != "":
		return &outcome.Error{Kind: outcome.KindUsage, Object: place, Text: "this cannot be done through a mover",
			Hint: "Run it on the repository's machine, with the repository's folder."}
	}
	return &outcome.Error{Kind: outcome.KindUsage, Object: place,
		Text: fmt.Sprintf("repositories at %s:// are not there yet", scheme), Hint: "Use a folder, smb://HOST/SHARE/FOLDER, s3://HOST/BUCKET/PREFIX, or mover://HOST:PORT/NAME."}
}

// openHere opens a repository in a folder of this machine.
func (t *tool) openHere(ctx context.Context, a *access, readOnly bool) (*opened, error) {
	if err := checkFolder(a.repo); err != nil {
		return nil, err
	}
	heard := new(said)
	opts, err := t.openOptions(readOnly, heard)
	if err != nil {
		return nil, err
	}
	opts.LockFor = a.lock
	secret, err := t.secret(a)
	if err != nil {
		return nil, err
	}
	r, err := t.openWith(ctx, a.repo, secret, opts)
	if secret == nil && errors.Is(err, repo.ErrSecret) {
		if secret, err = t.ask(ctx, a, "Passphrase of "+a.repo); err != nil {
			return nil, err
		}
		r, err = t.openWith(ctx, a.repo, secret, opts)
	}
	if err != nil {
		return nil, about(a.repo, "open repository "+a.repo, err)
	}
	r.said = heard
	return r, nil
}

func (t *tool) openWith(ctx context.Context, place string, secret repo.Secret, opts *repo.OpenOptions) (*opened, error) {
	st, err := t.openStore(ctx, place)
	if err != nil {
		return nil, noRepository(err)
	}
	r, err := repo.Open(ctx, st, secret, opts)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return &opened{place: r, local: r, store: st}, nil
}

// noRepository says of a folder that is not there what it was looked for as.
func noRepository(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", repo.ErrNotRepository, err)
	}
	return err
}

// about names the repository where an error names no object of its own.
func about(place, what string, err error) error {
	return &outcome.Error{Text: what, Place: place, Err: err}
}

func (t *tool) openOptions(readOnly bool, heard *said) (*repo.OpenOptions, error) {
	state, err := t.stateDir()
	if err != nil {
		return nil, err
	}
	cache, err := t.cacheDir()
	if err != nil {
		return nil, err
	}
	return &repo.OpenOptions{StateDir: state, CacheDir: cache, ReadOnly: readOnly,
		Warn: func(s string) {
			heard.add(s)
			fmt.Fprintf(t.stderr, "%s %s\n", t.printer(t.stderr).Yellow("warning:"), outcome.Clean(s))
		}}, nil
}

// stateDir is where high-water marks, keys and sessions are kept.
func (t *tool) stateDir() (string, error) {
	if dir := t.env("HIKAE_STATE_DIR"); dir != "" {
		return dir, nil
	}
	if dir := t.env("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "hikae"), nil
	}
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" {
		dir, err := os.UserConfigDir()
		return filepath.Join(dir, "hikae", "state"), noPlace("HIKAE_STATE_DIR", err)
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".local", "state", "hikae"), noPlace("HIKAE_STATE_DIR", err)
}

// cacheDir is where indexes are kept. It is made here, for this user alone.
func (t *tool) cacheDir() (string, error) {
	dir := t.env("HIKAE_CACHE_DIR")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", noPlace("HIKAE_CACHE_DIR", err)
		}
		dir = filepath.Join(user, "hikae")
	}
	return dir, os.MkdirAll(dir, 0o700)
}

func noPlace(variable string, err error) error {
	if err == nil {
		return nil
	}
	return &outcome.Error{Kind: outcome.KindUsage, Text: "there is no place for Hikae's own files", Err: err,
		Hint: "Set " + variable + " to a folder."}
}

const (
	maxPassphrase = 4 << 10
	maxIdentities = 64 << 10
	maxKeyFile    = 4 << 10 // a recovery sheet, with whatever else was typed
)

// secret is what flags and environment give; nil where they give nothing.
func (t *tool) secret(a *access) (repo.Secret, error) {
	switch {
	case a.keyFile != "":
		return a.readKey()
	case a.identity != "":
		data, err := readSmall(a.identity, maxIdentities)
		if err != nil {
			return nil, err
		}
		secret, err := repo.AgeIdentities(bytes.NewReader(data))
		if err != nil {
			return nil, &outcome.Error{Kind: outcome.KindUsage, Object: a.identity, Text: "identity file", Err: err,
				Hint: "The file must hold age identities, as age-keygen makes them."}
		}
		return secret, nil
	case a.passwordFile != "":
		line, err := firstLine(a.passwordFile)
		if err != nil {
			return nil, err
		}
		return repo.Passphrase(line), nil
	}
	if p := t.env(a.variable); p != "" {
		return repo.Passphrase(p), nil
	}
	return nil, nil
}

func (a *access) readKey() (repo.Secret, error) {
	data, err := readSmall(a.keyFile, maxKeyFile)
	if err != nil {
		return nil, err
	}
	secret, err := repo.ParseKeyFile(data)
	if err != nil {
		return nil, &outcome.Error{Kind: outcome.KindUsage, Object: a.keyFile, Text: a.keyFile, Err: err,
			Hint: "Make a key file with: head -c 32 /dev/urandom > FILE"}
	}
	return secret, nil
}

// firstLine reads a secret that is the first line of a file.
func firstLine(path string) (string, error) {
	data, err := readSmall(path, maxPassphrase)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" {
		return "", &outcome.Error{Kind: outcome.KindUsage, Object: path, Text: "the first line of " + path + " is empty"}
	}
	return line, nil
}

// readOr reads a file of at most max bytes; - is standard input.
func (t *tool) readOr(path string, max int64) ([]byte, error) {
	if path != "-" {
		return readSmall(path, max)
	}
	data, err := io.ReadAll(io.LimitReader(t.stdin, max+1))
	if err == nil && int64(len(data)) > max {
		err = fmt.Errorf("standard input is longer than %d bytes", max)
	}
	return data, err
}

// readSmall reads a file of at most max bytes.
func readSmall(path string, max int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > max {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("it is larger than %d bytes", max)}
	}
	return data, nil
}

var errNoSecret = errors.New("the repository is encrypted, and no secret was given")

// ask asks for a passphrase on the terminal. Where there is none, the command line was incomplete.
func (t *tool) ask(ctx context.Context, a *access, prompt string) (repo.Secret, error) {
	p, err := t.askText(ctx, a, prompt)
	if err != nil {
		return nil, err
	}
	return repo.Passphrase(p), nil
}

func (t *tool) askText(ctx context.Context, a *access, prompt string) (string, error) {
	if !isTerminal(t.stdin) {
		return "", &outcome.Error{Kind: outcome.KindUsage, Object: a.repo, Err: errNoSecret,
			Hint: fmt.Sprintf("Set %s, or give --%[2]spassword-file, --%[2]skey-file or --%[2]sidentity.", a.variable, a.prefix)}
	}
	f := t.stdin.(*os.File)
	before, err := term.GetState(int(f.Fd()))
	if err != nil {
		return "", err
	}
	fmt.Fprintf(t.stderr, "%s: ", prompt)
	type answer struct {
		p   []byte
		err error
	}
	got := make(chan answer, 1)
	go func() { // reading from a terminal cannot be interrupted; after Ctrl-C the process ends soon
		p, err := term.ReadPassword(int(f.Fd()))
		got <- answer{p, err}
	}()
	select {
	case <-ctx.Done():
		return "", errors.Join(ctx.Err(), term.Restore(int(f.Fd()), before))
	case a := <-got:
		fmt.Fprintln(t.stderr)
		if a.err == nil && len(a.p) == 0 {
			return "", outcome.Usage("", "the passphrase is empty")
		}
		return string(a.p), a.err
	}
}
