package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/pipe/mover/trust"
)

func (t *tool) moverTokenCommand() *cobra.Command {
	var s served
	var role string
	var valid time.Duration
	cmd := &cobra.Command{
		Use:   "token --repo REPO NAME",
		Short: "Make a token by which one machine can enrol",
		Long: text(`
Print a token. The first machine that brings it is enrolled as NAME, and the token is used up. It is a secret: bring it by
a way that you trust, and not in the arguments of a command.

  append   may make points of its own VMs, and nothing else: it can neither read back what is stored nor delete it. Its
           VMs are called NAME/VM in the repository. This is the role for machines that are backed up.
  full     may read and write everything that the repository holds: for restores.

With --sources NAME is the machine that may collect the disks that this one serves.`),
		Example: example(`
hikae mover token --repo /srv/hikae site-a > token
hikae mover token --repo /srv/hikae restore-desk --role full --valid 15m`),
		Args: want("NAME"),
	}
	s.flags(cmd)
	cmd.Flags().StringVar(&role, "role", "", "`ROLE`: append or full (default append, with --sources full)")
	cmd.Flags().DurationVar(&valid, "valid", trust.DefaultTokenLife, "how long the token is good for, at most 720h")
	completeWith(cmd, "role", "append", "full")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		return t.moverToken(ctx, &s, args[0], role, valid)
	})
	return cmd
}

// tokenDoc is what token prints for scripts.
type tokenDoc struct {
	Token   string    `json:"token"`
	Name    string    `json:"name"`
	Role    string    `json:"role"`
	Expires time.Time `json:"expires"`
}

func (t *tool) moverToken(ctx context.Context, s *served, name, roleText string, valid time.Duration) (*reply, error) {
	if roleText == "" {
		roleText = string(trust.Append)
		if s.sources {
			roleText = string(trust.Full)
		}
	}
	role, err := trust.ParseRole(roleText)
	if err != nil {
		return nil, &outcome.Error{Kind: outcome.KindUsage, Text: "--role", Err: err, Hint: "Write append or full."}
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
	id, book, err := s.book(ctx, t)
	if err != nil {
		return nil, err
	}
	expires := time.Now().Add(valid)
	token, err := book.AddToken(id.Pin(), name, role, valid)
	if err != nil {
		return nil, about(name, "", err)
	}
	doc := tokenDoc{Token: token.String(), Name: name, Role: string(role), Expires: expires.UTC().Truncate(time.Second)}
	return &reply{doc: doc, loud: true,
		text: func(w *show.Printer) error { return w.Printf("%s\n", doc.Token) },
		notes: []string{fmt.Sprintf("good for one machine, as %s (%s), until %s; there: hikae mover enrol HOST --token-file FILE",
			name, role, expires.Local().Format(time.DateTime))}}, nil
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
	Key   string    `json:"key"` // the mover's own
	Peers []peerDoc `json:"peers"`
}

func (t *tool) moverList(ctx context.Context, s *served) (*reply, error) {
	id, book, err := s.book(ctx, t)
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
	return &reply{doc: doc, loud: true, text: doc.print}, nil
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
		_, book, err := s.book(ctx, t)
		if err != nil {
			return nil, err
		}
		if err := book.Revoke(args[0]); err != nil {
			return nil, about(args[0], "", err)
		}
		return &reply{doc: map[string]string{"revoked": args[0]},
			text: func(w *show.Printer) error { return w.Printf("%s is let in no more\n", outcome.Clean(args[0])) }}, nil
	})
	return cmd
}
