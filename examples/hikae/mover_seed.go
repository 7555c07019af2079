package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// landing is where copied points go: a place as it is, or the part of it that belongs to an enrolled machine.
type landing struct {
	pipe.Backend
	seeding *mover.Seeding
}

// vm is the name that a VM gets there.
func (l *landing) vm(name string) (string, error) {
	if l.seeding == nil {
		return name, nil
	}
	return l.seeding.VM(name)
}

// fact is the one by which a copy is known there.
func (l *landing) fact() string {
	if l.seeding == nil {
		return job.CopiedFrom
	}
	return mover.SeedFact
}

// landingFor takes points in for an enrolled machine; empty: as they are.
func (t *tool) landingFor(ctx context.Context, peer string, to *opened, repo string) (*landing, error) {
	if peer == "" {
		return &landing{Backend: to}, nil
	}
	if to.local == nil {
		return nil, outcome.Usage("Run it on the repository's machine, with the repository's folder.", "--for is for a repository of this machine")
	}
	what := served{repo: repo, open: to}
	_, book, err := what.book(ctx, t)
	if err != nil {
		return nil, err
	}
	peers, err := book.Peers()
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(peers, func(p trust.Peer) bool { return p.Name == peer && p.Role == trust.Append && !p.Token }) {
		return nil, &outcome.Error{Kind: outcome.KindNotFound, Object: peer, Text: fmt.Sprintf("no machine is enrolled as %s with the role append", peer),
			Hint: "`hikae mover list --repo " + repo + "` shows who is."}
	}
	dir, err := what.dir(ctx, t)
	if err != nil {
		return nil, err
	}
	s, err := mover.NewSeeding(dir, peer, to)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("take points in for %s", peer), err)
	}
	return &landing{Backend: s, seeding: s}, nil
}
