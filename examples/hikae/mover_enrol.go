package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// careTime bounds what is a question and an answer: to enrol, to rotate, to ask how a mover is. There is nothing in it that
// a line which is cut would be waited for.
const careTime = time.Minute

func (t *tool) moverEnrolCommand() *cobra.Command {
	var file, writer string
	cmd := &cobra.Command{
		Use:   "enrol HOST[:PORT] --token-file FILE",
		Short: "Make this machine known to a mover",
		Long: text(`
Bring a token to a mover, and be known there from then on by a key that is made here and never leaves this machine. It
lies in HIKAE_STATE_DIR; whoever has that folder is this machine.

With --writer-key and no token, a machine that is enrolled at a blind target already is given its writer's key. Where it is
enrolled there under several names, write mover://HOST[:PORT]/NAME.`),
		Example: example(`
hikae mover enrol backup.example.org --token-file token && rm token
hikae mover enrol backup.example.org --writer-key site-a.key`),
		Args: want("HOST[:PORT]"),
	}
	cmd.Flags().StringVar(&file, "token-file", "", "`FILE` with the token, - for standard input")
	cmd.Flags().StringVar(&writer, "writer-key", "", "at a blind target: `FILE` with the key that hikae key writer made")
	cmd.MarkFlagsOneRequired("token-file", "writer-key")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.enrol(ctx, args[0], file, writer) })
	return cmd
}

// enrolDoc is what enrol prints for scripts.
type enrolDoc struct {
	URL  string `json:"url"`
	Name string `json:"name"`
	Role string `json:"role"`
	Mode string `json:"mode"`
}

func (t *tool) enrol(ctx context.Context, address, file, writer string) (*reply, error) {
	if strings.Contains(address, "@") { // what stands before it may be a password, and is not repeated
		return nil, outcome.Usage("Write HOST or HOST:PORT.", "a mover knows this machine by its key, not by a user or password")
	}
	ctx, cancel := context.WithTimeout(ctx, careTime)
	defer cancel()
	state, err := t.stateDir()
	if err != nil {
		return nil, err
	}
	var e enrolment
	if file == "" {
		e, err = giveWriterKey(ctx, state, address, writer)
	} else {
		e, err = t.enrolBy(ctx, state, address, file, writer)
	}
	if err != nil {
		return nil, err
	}
	url := farPlace{address: e.Address, name: e.Name}.String()
	doc := enrolDoc{URL: url, Name: e.Name, Role: e.Role, Mode: e.Mode}
	return &reply{doc: doc, text: func(w *show.Printer) error {
		if e.Mode == proxyMode {
			return w.Printf("enrolled as %s at a guest interaction proxy; commands for guests take --via-proxy %s\n", e.Name, url)
		}
		return w.Printf("enrolled as %s (%s, %s target); the place is called %s\n", e.Name, e.Role, e.Mode, url)
	}}, nil
}

// enrolBy enrols by the token in a file.
func (t *tool) enrolBy(ctx context.Context, state, address, file, writer string) (enrolment, error) {
	if rest, ok := strings.CutPrefix(address, moverScheme); ok { // the name is the token's to say
		address, _, _ = strings.Cut(rest, "/")
	}
	if strings.Contains(address, "/") || address == "" {
		return enrolment{}, outcome.Usage("For instance hikae mover enrol backup.example.org --token-file token.", "%s is not HOST or HOST:PORT", outcome.Redact(address))
	}
	token, err := t.readToken(file)
	if err != nil {
		return enrolment{}, err
	}
	return bringToken(ctx, withPort(address), token, state, writer)
}

func (t *tool) readToken(file string) (trust.Token, error) {
	data, err := t.readOr(file, 4<<10)
	if err != nil {
		return trust.Token{}, err
	}
	token, err := trust.ParseToken(string(data))
	if err != nil {
		return token, &outcome.Error{Kind: outcome.KindUsage, Object: file, Text: file, Err: err, Hint: "Copy the whole line that `hikae mover token` printed."}
	}
	return token, nil
}

// bringToken enrols this machine. One enrolment at an address goes on at a time: two that brought the same token at once
// would each make a key, and the one that the mover did not take could lie in the place of the other.
func bringToken(ctx context.Context, address string, token trust.Token, state, writer string) (e enrolment, err error) {
	once, err := token.Identity()
	if err != nil {
		return e, err
	}
	in := &incoming{address: address, at: addressDir(state, address), token: token, once: once.Pin(), writer: writer}
	if err := trust.MakeFolder(in.at); err != nil {
		return e, err
	}
	err = trust.LockFolder(ctx, in.at, func() (err error) {
		e, err = in.enrol(ctx)
		return err
	})
	return e, err
}

// incoming is an enrolment under way. Its folder has the token's name until the mover has told the machine's: a token
// whose answer was lost finds the same key there when it is brought again.
type incoming struct {
	address string
	at      string // the folder of all enrolments at the address, which is locked
	token   trust.Token
	once    trust.Pin // of the token
	writer  string    // file with a writer's key; empty: none
}

// Beginnings of the names of folders that are no enrolments. No name is written so: see folderName.
const (
	tokenFolder = "_token-"
	oldFolder   = "_old-"
)

func (in *incoming) enrol(ctx context.Context) (enrolment, error) {
	if err := in.tidy(); err != nil {
		return enrolment{}, err
	}
	if dir, e, ok := in.before(); ok {
		return e, in.still(ctx, dir, e)
	}
	dir := filepath.Join(in.at, tokenFolder+in.once.Short())
	if err := trust.MakeFolder(dir); err != nil {
		return enrolment{}, err
	}
	if in.writer != "" {
		if err := keepWriterKey(dir, in.writer); err != nil {
			return enrolment{}, err
		}
	}
	done, err := mover.Enrol(ctx, in.address, in.token, &mover.DialOptions{IdentityDir: dir})
	if err != nil {
		return enrolment{}, in.refused(err)
	}
	e := enrolment{Address: in.address, Name: done.Name, Role: string(done.Role), Mode: done.Mode, Server: done.Server.String(), Token: in.once.String()}
	if err := keepEnrolment(dir, e); err != nil {
		return e, err
	}
	return e, in.place(dir, e)
}

func (in *incoming) refused(err error) error {
	err = trust.Explain(err)
	if errors.Is(err, trust.ErrRefused) || errors.Is(err, trust.ErrWrongServer) { // what to do then is the same everywhere
		return &outcome.Error{Object: in.address, Text: "enrol at " + in.address, Err: err}
	}
	return &outcome.Error{Object: in.address, Err: err, Hint: "Is a mover running there, and is the address right?"}
}

// before finds the enrolment that this token brought about earlier.
func (in *incoming) before() (dir string, e enrolment, ok bool) {
	for dir, e := range enrolments(in.at) {
		if e.Token == in.once.String() {
			return dir, e, true
		}
	}
	return "", enrolment{}, false
}

// still sees that the mover knows this machine by an earlier enrolment, so that the token has nothing left to do.
func (in *incoming) still(ctx context.Context, dir string, e enrolment) error {
	c, err := mover.Dial(ctx, in.address, &mover.DialOptions{IdentityDir: dir, ServerPin: in.token.Server})
	if err == nil {
		_, err = c.Health(ctx)
		err = errors.Join(err, c.Close())
	}
	if err != nil {
		return in.refused(fmt.Errorf("the token was used by this machine, as %s: %w", e.Name, err))
	}
	if in.writer == "" {
		return nil
	}
	return keepWriterKey(dir, in.writer)
}

// place makes the folder of a new enrolment that of its name. An older one under the name is good for nothing any more:
// the mover gives a name once, and again only after it was taken back. It is removed when the new one is durable.
func (in *incoming) place(dir string, e enrolment) error {
	last := filepath.Join(in.at, folderName(e.Name))
	aside := filepath.Join(in.at, oldFolder+folderName(e.Name))
	was, err := readEnrolment(last)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil || was.Server != e.Server:
		return &outcome.Error{Kind: outcome.KindExists, Object: last, Err: err,
			Text: fmt.Sprintf("this machine is enrolled as %s at another mover that had this address", e.Name),
			Hint: fmt.Sprintf("If that mover is gone for good, remove the folder %s, and bring the same token again.", last)}
	default:
		if err := in.inherit(last, dir); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	if err := os.Rename(last, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(dir, last); err != nil {
		if back := os.Rename(aside, last); !errors.Is(back, fs.ErrNotExist) {
			err = errors.Join(err, back)
		}
		return err
	}
	if err := trust.SyncFolder(in.at); err != nil {
		return err
	}
	return os.RemoveAll(aside)
}

// inherit carries the writer's key of an older enrolment over where no new one was given: it is for the repository, not
// for the mover.
func (in *incoming) inherit(last, dir string) error {
	if in.writer != "" {
		return nil
	}
	data, err := readSmall(filepath.Join(last, writerKeyFile), maxWriterKey)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return trust.WriteFile(dir, writerKeyFile, data)
}

// tidy removes what enrolments left that never came to an end: those of tokens that are good no more, and older ones
// whose place has been taken.
func (in *incoming) tidy() error {
	entries, err := os.ReadDir(in.at)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(in.at, entry.Name())
		ended := false
		if name, ok := strings.CutPrefix(entry.Name(), oldFolder); ok {
			_, err := os.Stat(filepath.Join(in.at, name))
			ended = err == nil
		} else if name, ok := strings.CutPrefix(entry.Name(), tokenFolder); ok && name != in.once.Short() {
			fi, err := entry.Info()
			ended = err == nil && time.Since(fi.ModTime()) > trust.MaxTokenLife
		}
		if ended {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// giveWriterKey adds a writer's key to an enrolment that is there. The place is HOST[:PORT] or mover://HOST[:PORT]/NAME.
func giveWriterKey(ctx context.Context, state, place, writer string) (e enrolment, err error) {
	name, address := "", withPort(place)
	if strings.HasPrefix(place, moverScheme) {
		p, err := parseFar(place)
		if err != nil {
			return e, err
		}
		name, address = p.name, p.address
	} else if strings.Contains(place, "/") {
		return e, outcome.Usage("For instance hikae mover enrol backup.example.org --writer-key FILE.", "%s is not HOST or HOST:PORT", outcome.Redact(place))
	}
	at := addressDir(state, address)
	if _, err := os.Stat(at); errors.Is(err, fs.ErrNotExist) {
		return e, notEnrolled(address)
	}
	err = trust.LockFolder(ctx, at, func() error {
		var dir string
		if dir, e, err = blindAppender(at, address, name); err != nil {
			return err
		}
		return keepWriterKey(dir, writer)
	})
	return e, err
}

func notEnrolled(address string) error {
	return &outcome.Error{Kind: outcome.KindUsage, Object: address, Text: fmt.Sprintf("this machine is not enrolled at %s as one that adds points to a blind target", address),
		Hint: "Give the token beside the key: hikae mover enrol " + address + " --token-file FILE --writer-key FILE."}
}

// blindAppender is the one enrolment at an address that has use for a writer's key, or the one of that name.
func blindAppender(at, address, name string) (dir string, e enrolment, err error) {
	found := map[string]enrolment{}
	var names []string
	for dir, e := range enrolments(at) {
		if e.Mode == blindMode && trust.Role(e.Role) == trust.Append && (name == "" || e.Name == name) {
			found[dir] = e
			names = append(names, e.Name)
		}
	}
	slices.Sort(names)
	switch len(found) {
	case 0:
		return "", e, notEnrolled(address)
	case 1:
		for dir, e = range found {
			return dir, e, nil
		}
	}
	return "", e, &outcome.Error{Kind: outcome.KindAmbiguous, Object: address, Text: fmt.Sprintf("this machine is enrolled at %s as %s", address, strings.Join(names, ", ")),
		Hint: "Say which: hikae mover enrol mover://" + address + "/" + names[0] + " --writer-key FILE."}
}
