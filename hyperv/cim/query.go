package cim

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"
)

// Polymorphism says what of subclasses an enumeration of a class yields: DSP0227 8.1.
type Polymorphism int

const (
	Whole  Polymorphism = iota // instances of subclasses too, with all their properties
	AsBase                     // instances of subclasses too, with the properties of the class that was asked for
	Exact                      // instances of the class alone
)

var polymorphismNames = [...]string{"IncludeSubClassProperties", "ExcludeSubClassProperties", "None"}

// QueryOptions change how instances are asked for. Nil and zero fields are good defaults.
type QueryOptions struct {
	// Refs asks for each instance's reference too. Without, Instance.Ref is zero.
	Refs bool
	// Polymorphism is for Enumerate; a query says itself what it wants.
	Polymorphism Polymorphism
	// Page and MaxItems are those of [Options] where they are zero.
	Page, MaxItems int
}

const (
	maxQuery    = 16 << 10 // bytes
	releaseTime = 4 * time.Second
)

// Enumerate yields the instances of a class.
func (c *Client) Enumerate(ctx context.Context, namespace, class string, opts *QueryOptions) iter.Seq2[*Instance, error] {
	return c.sequence(ctx, Ref{Namespace: namespace, Class: class}, "", opts)
}

// Query yields what WQL finds: SELECT, ASSOCIATORS OF, REFERENCES OF. Values in it are the caller's to quote, by [Quote].
func (c *Client) Query(ctx context.Context, namespace, wql string, opts *QueryOptions) iter.Seq2[*Instance, error] {
	return c.sequence(ctx, Ref{Namespace: namespace, Class: "*"}, wql, opts)
}

// Hop is one step along an association.
type Hop struct {
	Association string // its class; empty: any
	Result      string // the class at the other end; empty: any
}

// Associators yields the instances at the other end of a hop. Without a Result it may be of several classes.
func (c *Client) Associators(ctx context.Context, from Ref, hop Hop, opts *QueryOptions) iter.Seq2[*Instance, error] {
	return associators(ctx, c, from, hop, opts)
}

// References yields the associations of an instance themselves.
func (c *Client) References(ctx context.Context, from Ref, class string, opts *QueryOptions) iter.Seq2[*Instance, error] {
	return references(ctx, c, from, class, opts)
}

func (h Hop) query(verb, word, class string, from Ref) string {
	q := verb + " OF {" + from.String() + "}"
	var where string
	if class != "" {
		where += " " + word + " = " + class
	}
	if h.Result != "" {
		where += " ResultClass = " + h.Result
	}
	if where != "" {
		q += " WHERE" + where
	}
	return q
}

// Quote makes a string of WQL of any text.
func Quote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// All collects a sequence. An error voids what came before it.
func All(seq iter.Seq2[*Instance, error]) ([]*Instance, error) {
	var list []*Instance
	for in, err := range seq {
		if err != nil {
			return nil, err
		}
		list = append(list, in)
	}
	return list, nil
}

// One is the only instance of a sequence. None is fs.ErrNotExist, several are ErrMalformed.
func One(seq iter.Seq2[*Instance, error]) (*Instance, error) {
	list, err := All(seq)
	switch {
	case err != nil:
		return nil, err
	case len(list) == 0:
		return nil, errNone
	case len(list) > 1:
		return nil, fmt.Errorf("%w: %d instances where there is one", ErrMalformed, len(list))
	}
	return list[0], nil
}

// enumeration is one that is under way.
type enumeration struct {
	c       *Client
	from    Ref
	wql     string
	opts    QueryOptions
	page    int
	context string
	done    bool
	items   []*Instance
	count   int
}

func (c *Client) sequence(ctx context.Context, from Ref, wql string, opts *QueryOptions) iter.Seq2[*Instance, error] {
	return func(yield func(*Instance, error) bool) {
		ctx, cancel := c.bounded(ctx)
		defer cancel()
		e := &enumeration{c: c, from: from, wql: wql}
		if opts != nil {
			e.opts = *opts
		}
		e.opts.MaxItems, e.page = or(e.opts.MaxItems, c.opts.MaxItems), or(e.opts.Page, c.opts.Page)
		name := wql
		if name == "" {
			name = from.String()
		}
		defer e.release(ctx)
		for err := e.start(ctx); ; err = e.pull(ctx) {
			if err != nil {
				yield(nil, about("Query", name, err))
				return
			}
			for _, in := range e.items {
				if !yield(in, nil) {
					return
				}
			}
			if e.done {
				return
			}
		}
	}
}

var errEndless = fmt.Errorf("%w: pages with nothing in them", ErrMalformed)

func (e *enumeration) start(ctx context.Context) error {
	if len(e.wql) > maxQuery || e.from.Class != "*" && !isName(e.from.Class) || !isNamespace(e.from.Namespace) {
		return fmt.Errorf("%w: the class, or a query of %d bytes", ErrArgument, len(e.wql))
	}
	for {
		m := &message{action: actionEnumerate, resource: e.from.resource()}
		fmt.Fprintf(&m.body, `<n:Enumerate><w:OptimizeEnumeration/><w:MaxElements>%d</w:MaxElements>`, e.page)
		if e.opts.Refs {
			m.body.WriteString(`<w:EnumerationMode>EnumerateObjectAndEPR</w:EnumerationMode>`)
		}
		if e.wql != "" {
			fmt.Fprintf(&m.body, `<w:Filter Dialect="%s">%s</w:Filter>`, dialectWQL, escape(e.wql))
		} else if p := e.opts.Polymorphism; p > 0 && int(p) < len(polymorphismNames) {
			fmt.Fprintf(&m.body, `<b:PolymorphismMode>%s</b:PolymorphismMode>`, polymorphismNames[p])
		}
		m.body.WriteString(`</n:Enumerate>`)
		body, err := e.c.read(ctx, m)
		if e.smaller(err) {
			continue
		}
		if err != nil {
			return err
		}
		return e.take(body.child(nsEnum, "EnumerateResponse"))
	}
}

// smaller says whether to ask again for fewer at once: they did not fit.
func (e *enumeration) smaller(err error) bool {
	if !errors.Is(err, ErrTooLarge) || e.page == 1 {
		return false
	}
	e.page = max(1, e.page/4)
	return true
}

// pull asks for the next page. A context of which an answer was lost has moved on, so that asking again would leave a gap:
// only what the service itself says to repeat is repeated. DSP0226 8.4.
func (e *enumeration) pull(ctx context.Context) error {
	const maxEmpty = 100
	for range maxEmpty {
		m := &message{action: actionPull, resource: e.from.resource()}
		fmt.Fprintf(&m.body, `<n:Pull><n:EnumerationContext>%s</n:EnumerationContext><n:MaxElements>%d</n:MaxElements></n:Pull>`,
			escape(e.context), e.page)
		body, err := e.c.exchange(ctx, m)
		if e.smaller(err) {
			continue
		}
		if errors.Is(err, ErrTimedOut) && ctx.Err() == nil {
			if err := pause(ctx, retryWait/10); err != nil {
				return err
			}
			continue // the time of one message is over, not that of the query
		}
		if err != nil {
			return err
		}
		if err := e.take(body.child(nsEnum, "PullResponse")); err != nil || len(e.items) > 0 || e.done {
			return err
		}
	}
	return errEndless
}

// take reads a page. An answer without a context keeps the one there was: DSP0226 8.4.
func (e *enumeration) take(n *node) error {
	if n == nil {
		return fmt.Errorf("%w: no page", ErrMalformed)
	}
	e.items = e.items[:0]
	for _, k := range n.kids {
		switch {
		case k.name == "EnumerationContext":
			e.context = k.words()
		case k.name == "EndOfSequence":
			e.done = true
		case k.name == "Items":
			if err := e.takeItems(k); err != nil {
				return err
			}
		}
	}
	if !e.done && (e.context == "" || len(e.context) > 1024) {
		return fmt.Errorf("%w: an enumeration without a context or an end", ErrMalformed)
	}
	if e.count += len(e.items); e.count > e.opts.MaxItems {
		return fmt.Errorf("%w: more than %d instances", ErrTooLarge, e.opts.MaxItems)
	}
	return nil
}

func (e *enumeration) takeItems(n *node) error {
	for _, k := range n.kids {
		obj, epr := k, (*node)(nil)
		if k.is(nsMan, "Item") {
			if len(k.kids) != 2 {
				return fmt.Errorf("%w: an item of %d parts", ErrMalformed, len(k.kids))
			}
			obj, epr = k.kids[0], k.kids[1]
			if obj.name == "EndpointReference" {
				obj, epr = epr, obj
			}
		}
		in, err := readInstance(obj)
		if err != nil {
			return err
		}
		if epr != nil {
			if in.Ref, err = readReference(epr); err != nil {
				return err
			}
		}
		e.items = append(e.items, in)
	}
	return nil
}

// release lets the service forget what is not read to its end. It would by itself, later.
func (e *enumeration) release(ctx context.Context) {
	if e.done || e.context == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime+2*time.Second)
	defer cancel()
	m := &message{action: actionRelease, resource: e.from.resource(), atMost: releaseTime}
	fmt.Fprintf(&m.body, `<n:Release><n:EnumerationContext>%s</n:EnumerationContext></n:Release>`, escape(e.context))
	e.c.exchange(ctx, m) // nothing is lost with it
}
