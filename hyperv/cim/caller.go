package cim

import (
	"context"
	"iter"
)

// Core is what a route to a machine's classes has to have of its own; [Complete] makes a Caller of it. Methods may be called at
// once, end with their context, and have the errors that those of [Client] have.
type Core interface {
	Get(ctx context.Context, r Ref) (*Instance, error)
	Put(ctx context.Context, r Ref, in *Instance) (*Instance, error)
	Query(ctx context.Context, namespace, wql string, opts *QueryOptions) iter.Seq2[*Instance, error]
	Invoke(ctx context.Context, r Ref, method string, args []Property) (*Instance, error)
	Close() error
}

// Caller asks one machine, by whichever route. A [*Client] is one, by WS-Management.
type Caller interface {
	Core
	Associators(ctx context.Context, from Ref, hop Hop, opts *QueryOptions) iter.Seq2[*Instance, error]
	References(ctx context.Context, from Ref, class string, opts *QueryOptions) iter.Seq2[*Instance, error]
	Run(ctx context.Context, r Ref, method string, args []Property, opts *JobOptions) (*Outcome, error)
	Wait(ctx context.Context, job Ref, opts *JobOptions) (*Job, error)
}

var _ Caller = (*Client)(nil)

// Complete adds to a route what is the same for all: associations are queries, and jobs are looked at.
func Complete(c Core) Caller { return completed{c} }

type completed struct{ Core }

func (c completed) Associators(ctx context.Context, from Ref, hop Hop, opts *QueryOptions) iter.Seq2[*Instance, error] {
	return associators(ctx, c, from, hop, opts)
}

func (c completed) References(ctx context.Context, from Ref, class string, opts *QueryOptions) iter.Seq2[*Instance, error] {
	return references(ctx, c, from, class, opts)
}

func (c completed) Run(ctx context.Context, r Ref, method string, args []Property, opts *JobOptions) (*Outcome, error) {
	return run(ctx, c, r, method, args, opts)
}

func (c completed) Wait(ctx context.Context, job Ref, opts *JobOptions) (*Job, error) {
	return wait(ctx, c, job, opts)
}

func associators(ctx context.Context, c Core, from Ref, hop Hop, opts *QueryOptions) iter.Seq2[*Instance, error] {
	return c.Query(ctx, from.Namespace, hop.query("ASSOCIATORS", "AssocClass", hop.Association, from), opts)
}

func references(ctx context.Context, c Core, from Ref, class string, opts *QueryOptions) iter.Seq2[*Instance, error] {
	return c.Query(ctx, from.Namespace, Hop{Result: class}.query("REFERENCES", "", "", from), opts)
}
