package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/pipe/mover/trust"
)

func (t *tool) moverTokenCommand() *cobra.Command {
	var s served
	var role, out string
	var valid time.Duration
	cmd := &cobra.Command{
		Use:   "token --repo REPO NAME",
		Short: "Make a token by which one machine can enrol",
		Long: text(`
Print a token. The first machine that brings it is enrolled as NAME, and the token is used up. It is a secret: bring it by
a way that you trust, and not in the arguments of a command. --out keeps it from the eyes of others on this machine.

The book of who may come lies in HIKAE_STATE_DIR. It has to be the one that the mover runs with: a service has a state
folder of its own, which hikae mover install names.

  append   may make points of its own VMs, and nothing else: it can neither read back what is stored nor delete it. Its
           VMs are called NAME/VM in the repository. This is the role for machines that are backed up.
  full     may read and write everything that the repository holds: for restores.

With --sources NAME is the machine that may collect the disks that this one serves.`),
		Example: example(`
hikae mover token --repo /srv/hikae site-a --out token
hikae mover token --repo /srv/hikae restore-desk --role full --valid 15m`),
		Args: want("NAME"),
	}
	s.flags(cmd)
	cmd.Flags().StringVar(&role, "role", "", "`ROLE`: append or full (default append, with --sources full, with --proxy guest)")
	cmd.Flags().DurationVar(&valid, "valid", trust.DefaultTokenLife, "how long the token is good for, at most 720h")
	cmd.Flags().StringVar(&out, "out", "", "write the token to a new `FILE` that this user alone may read")
	completeWith(cmd, "role", "append", "full")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		return t.moverToken(ctx, &s, args[0], role, out, valid)
	})
	return cmd
}

// tokenDoc is what token prints for scripts.
type tokenDoc struct {
	Token   string    `json:"token"` // empty with --out
	Name    string    `json:"name"`
	Role    string    `json:"role"`
	Expires time.Time `json:"expires"`
	File    string    `json:"file,omitempty"` // with --out
	State   string    `json:"state"`          // the state folder whose book knows the token
}

func (t *tool) moverToken(ctx context.Context, s *served, name, roleText, out string, valid time.Duration) (*reply, error) {
	if roleText == "" {
		roleText = string(trust.Append)
		switch {
		case s.sources:
			roleText = string(trust.Full)
		case s.proxy:
			roleText = string(trust.Guest)
		}
	}
	role, err := trust.ParseRole(roleText)
	if err != nil {
		return nil, &outcome.Error{Kind: outcome.KindUsage, Text: "--role", Err: err, Hint: "Write append or full."}
	}
	if s.proxy && role == trust.Append || !s.proxy && role == trust.Guest {
		return nil, outcome.Usage("The role for a guest interaction proxy is guest, and full; the others are for repositories.", "--role %s is of no use with %s", role, s)
	}
	if s.sources && role != trust.Full {
		return nil, outcome.Usage("", "who collects disks reads them: --role %s is of no use with --sources", role)
	}
	if err := trust.CheckName(name); err != nil {
		return nil, &outcome.Error{Kind: outcome.KindUsage, Object: name, Err: err}
	}
	if valid < time.Second || valid > trust.MaxTokenLife {
		return nil, outcome.Usage("For instance --valid 2h.", "--valid %s is not between a second and %s", valid, trust.MaxTokenLife)
	}
	id, book, err := s.peersBook(ctx, t)
	if err != nil {
		return nil, err
	}
	expires := time.Now().Add(valid)
	token, err := book.AddToken(id.Pin(), name, role, valid)
	if errors.Is(err, trust.ErrNameTaken) {
		return nil, &outcome.Error{Kind: outcome.KindExists, Object: name, Text: fmt.Sprintf("the name %s is taken", name),
			Hint: fmt.Sprintf("Let that machine in no more first: hikae mover revoke %s %s. Or choose another name.", s, name)}
	}
	if err != nil {
		return nil, about(name, "", err)
	}
	doc := tokenDoc{Token: token.String(), Name: name, Role: string(role), Expires: expires.UTC().Truncate(time.Second)}
	left := &reply{doc: &doc, loud: true, text: func(w *show.Printer) error { return w.Printf("%s\n", doc.Token) }}
	if out != "" {
		if err := keepToken(out, doc.Token); err != nil {
			return nil, errors.Join(err, book.Revoke(name))
		}
		doc.Token, doc.File = "", out
		left.text, left.loud = func(w *show.Printer) error { return w.Printf("the token is in %s\n", outcome.Clean(out)) }, false
	}
	doc.State, left.notes, left.warnings = s.where(ctx, t)
	left.notes = append(left.notes, fmt.Sprintf("good for one machine, as %s (%s), until %s; there: hikae mover enrol HOST --token-file FILE",
		name, role, expires.Local().Format(time.DateTime)))
	return left, nil
}

// alreadyThere refuses to write a secret over a file.
func alreadyThere(path string) error {
	return &outcome.Error{Kind: outcome.KindExists, Object: path, Text: "there is a file " + path + " already", Hint: "Name one that is not there yet: nothing is written over."}
}

// keepToken writes a token for this user alone. A file that is there is left as it is.
func keepToken(path, token string) error {
	err := createWhole(path, func() ([]byte, error) { return []byte(token + "\n"), nil })
	if errors.Is(err, fs.ErrExist) {
		return alreadyThere(path)
	}
	return err
}

func (t *tool) moverListCommand() *cobra.Command {
	var s served
	cmd := &cobra.Command{
		Use:     "list --repo REPO",
		Short:   "List the machines that are enrolled, and the tokens that are out",
		Example: example(`hikae mover list --repo /srv/hikae`),
		Args:    want(),
	}
	s.flags(cmd)
	cmd.RunE = t.act(func(ctx context.Context, _ []string) (*reply, error) { return t.moverList(ctx, &s) })
	return cmd
}

// peerDoc is one machine or token for scripts.
type peerDoc struct {
	Name    string     `json:"name"`
	Role    string     `json:"role"`
	Host    string     `json:"host"`
	Key     string     `json:"key"`
	Since   time.Time  `json:"since"`
	Token   bool       `json:"token"` // not enrolled yet
	Expires *time.Time `json:"expires,omitempty"`
	Expired bool       `json:"expired,omitempty"`
}

type peersDoc struct {
	Key   string    `json:"key"`   // the mover's own
	State string    `json:"state"` // the state folder with the book
	Peers []peerDoc `json:"peers"`
}

func (t *tool) moverList(ctx context.Context, s *served) (*reply, error) {
	id, book, err := s.peersBook(ctx, t)
	if err != nil {
		return nil, err
	}
	peers, err := book.Peers()
	if err != nil {
		return nil, err
	}
	doc := peersDoc{Key: id.Pin().String(), Peers: []peerDoc{}}
	for _, p := range peers {
		d := peerDoc{Name: p.Name, Role: string(p.Role), Host: p.Host, Key: p.Pin.String(), Since: p.Since.UTC(), Token: p.Token}
		if p.Token {
			at := p.Expires.UTC()
			d.Expires, d.Expired = &at, time.Now().After(at)
		}
		doc.Peers = append(doc.Peers, d)
	}
	left := &reply{loud: true, text: doc.print}
	doc.State, left.notes, left.warnings = s.where(ctx, t)
	left.doc = doc
	return left, nil
}

func (d peersDoc) print(w *show.Printer) error {
	if len(d.Peers) == 0 {
		return w.Printf("no machine is enrolled\n")
	}
	table := show.NewTable("NAME", "ROLE", "MACHINE", "KEY", "SINCE")
	for _, p := range d.Peers {
		machine := outcome.Clean(p.Host)
		switch {
		case p.Expired:
			machine = "a token that has expired"
		case p.Token:
			machine = "a token, good until " + p.Expires.Local().Format(time.DateTime)
		}
		table.Row(p.Name, p.Role, machine, short(p.Key), p.Since.Local().Format(time.DateTime))
	}
	return table.Print(w)
}

func (t *tool) moverRevokeCommand() *cobra.Command {
	var s served
	cmd := &cobra.Command{
		Use:   "revoke --repo REPO NAME",
		Short: "Let a machine in no more, or take a token back",
		Long: text(`
Take a machine out of the book. What it has open with a running mover ends within seconds; its points stay. The name can be
given again by a new token.`),
		Example: example(`hikae mover revoke --repo /srv/hikae site-a`),
		Args:    want("NAME"),
	}
	s.flags(cmd)
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		_, book, err := s.peersBook(ctx, t)
		if err != nil {
			return nil, err
		}
		err = book.Revoke(args[0])
		if errors.Is(err, fs.ErrNotExist) {
			state, _, _ := s.where(ctx, t)
			return nil, &outcome.Error{Kind: outcome.KindNotFound, Object: args[0], Text: fmt.Sprintf("no machine and no token is called %s in the book in %s", args[0], state),
				Hint: fmt.Sprintf("`hikae mover list %s` shows who is there. The book is that of HIKAE_STATE_DIR: it has to be the one that the mover runs with.", &s)}
		}
		if err != nil {
			return nil, about(args[0], "", err)
		}
		state, notes, warnings := s.where(ctx, t)
		return &reply{doc: map[string]string{"revoked": args[0], "state": state}, notes: notes, warnings: warnings,
			text: func(w *show.Printer) error { return w.Printf("%s is let in no more\n", outcome.Clean(args[0])) }}, nil
	})
	return cmd
}
