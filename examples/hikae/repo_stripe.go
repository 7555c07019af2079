package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/stripe"
)

func (t *tool) stripeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stripe",
		Short: "Keep a repository in several places, so that any few of them may be lost",
		Long: text(`
A striped set is several stores (folders, shares, buckets) of which any M may be lost, and nothing is. A file lists them,
one a line, with a name and a place; the repository is then REPO = stripe:FILE.

  # six places, of which any two may be lost
  nas1   smb://nas1/backup/hikae
  disk1  /mnt/disk1/hikae
  …
  degraded

The last line, which may be missing, allows writing while members are away: what they miss is recorded, and they are
rebuilt afterwards. One member, the arbiter, decides who writes what. Without it there is nothing but reading until it is
back or another one is promoted.`),
		Example: example(`
hikae repo stripe create set.txt --data 4 --parity 2
hikae init stripe:set.txt
hikae repo stripe status set.txt`),
	}
	cmd.AddCommand(t.stripeCreateCommand(), t.stripeStatusCommand(), t.stripeRebuildCommand(), t.stripePromoteCommand(), t.stripeScrubCommand())
	return cmd
}

func (t *tool) stripeCreateCommand() *cobra.Command {
	var data, parity int
	var arbiter string
	cmd := &cobra.Command{Use: "create FILE --data K --parity M", Short: "Make a set of the empty places that FILE names",
		Example: example("hikae repo stripe create set.txt --data 4 --parity 2 --arbiter nas1"), Args: want("FILE")}
	cmd.Flags().IntVar(&data, "data", 0, "`K` shards of each object, which any K places can give back")
	cmd.Flags().IntVar(&parity, "parity", 0, "`M` shards more: so many places may be lost")
	cmd.Flags().StringVar(&arbiter, "arbiter", "", "`NAME` of the member that decides; the first one without it. Take the most reliable")
	for _, flag := range []string{"data", "parity"} {
		if err := cmd.MarkFlagRequired(flag); err != nil {
			panic(err) // the flag is defined just above
		}
	}
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		f, err := readStripe(args[0])
		if err != nil {
			return nil, err
		}
		at := max(f.find(arbiter), 0)
		if arbiter != "" && f.find(arbiter) < 0 {
			return nil, noMember(f, arbiter)
		}
		list, errs := f.stores(ctx, -1, t.initStore)
		if err := errors.Join(errs...); err != nil {
			return nil, errors.Join(err, closeStores(list))
		}
		st, err := stripe.Init(ctx, list, stripe.InitOptions{Data: data, Parity: parity, Labels: f.names, Arbiter: at}, f.options())
		if err != nil {
			return nil, errors.Join(&outcome.Error{Object: f.path, Err: err}, closeStores(list))
		}
		defer st.Close()
		return stripeReply(st), nil
	})
	return cmd
}

func noMember(f *stripeFile, name string) error {
	return &outcome.Error{Kind: outcome.KindNotFound, Object: f.path, Text: fmt.Sprintf("no member is called %q", name)}
}

// stripeDoc is what a set's state is for scripts.
type stripeDoc struct {
	Set        string         `json:"set"`
	Generation uint64         `json:"generation"`
	Data       int            `json:"data"`
	Parity     int            `json:"parity"`
	Members    []stripeMember `json:"members"`
	Odd        []string       `json:"odd"` // places that are no members, and why
}

type stripeMember struct {
	Name     string          `json:"name"`
	ID       string          `json:"id"`
	Here     bool            `json:"here"`
	Standing stripe.Standing `json:"standing"`
	Arbiter  bool            `json:"arbiter"`
}

func stripeReply(st *stripe.Store) *reply {
	state := st.State()
	doc := stripeDoc{Set: state.Set, Generation: state.Generation, Data: state.Data, Parity: state.Parity, Odd: []string{}}
	seats, odd := st.Seats()
	status := outcome.Done
	for _, s := range seats {
		doc.Members = append(doc.Members, stripeMember{s.Label, s.ID, s.Here, s.Standing, s.Arbiter})
		if !s.Here || s.Standing != stripe.Current {
			status = outcome.Warned
		}
	}
	for _, err := range odd {
		doc.Odd = append(doc.Odd, err.Error())
	}
	return &reply{doc: doc, loud: true, status: status, warnings: doc.Odd, text: func(w *show.Printer) error {
		if err := w.Facts("set", doc.Set, "shards", fmt.Sprintf("%d+%d on %d members: any %d may be lost", doc.Data, doc.Parity, len(doc.Members), doc.Parity),
			"generation", fmt.Sprint(doc.Generation)); err != nil {
			return err
		}
		table := show.NewTable("MEMBER", "STANDING", "")
		for _, m := range doc.Members {
			standing, what := string(m.Standing), ""
			if !m.Here {
				standing = "not there"
			}
			if m.Arbiter {
				what = "arbiter"
			}
			table.Row(m.Name, standing, what)
		}
		return table.Print(w)
	}}
}

// anyStripe opens a set that may be in a bad state.
func (t *tool) anyStripe(ctx context.Context, path string, without string) (*stripe.Store, *stripeFile, error) {
	f, err := readStripe(path)
	if err != nil {
		return nil, nil, err
	}
	list, errs := f.stores(ctx, f.find(without), t.openStore)
	st, err := stripe.OpenAnyway(ctx, list, f.options())
	if err != nil {
		return nil, nil, &outcome.Error{Object: f.path, Text: stripeWhy(errs), Err: errors.Join(err, closeStores(list))}
	}
	return st, f, nil
}

func (t *tool) stripeStatusCommand() *cobra.Command {
	return &cobra.Command{Use: "status FILE", Short: "Show which members are there, and how they stand",
		Example: example("hikae repo stripe status set.txt --json | jq .members"), Args: want("FILE"),
		RunE: t.act(func(ctx context.Context, args []string) (*reply, error) {
			st, _, err := t.anyStripe(ctx, args[0], "")
			if err != nil {
				return nil, err
			}
			defer st.Close()
			return stripeReply(st), nil
		})}
}

func (t *tool) stripePromoteCommand() *cobra.Command {
	var vouched bool
	cmd := &cobra.Command{Use: "promote FILE NAME", Short: "Make another member decide",
		Long: text(`
The member NAME becomes the arbiter. Whoever still has the old one cannot write any more, and the old one, when it comes
back, is behind and has to be rebuilt. More than half of the members must take part, unless --vouched says that those which
do not answer are lost or switched off: two halves that do not see each other must not both go on.`),
		Example: example("hikae repo stripe promote set.txt nas2"), Args: want("FILE", "NAME")}
	cmd.Flags().BoolVar(&vouched, "vouched", false, "the members that do not answer are lost or switched off: I have looked")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		st, f, err := t.anyStripe(ctx, args[0], "")
		if err != nil {
			return nil, err
		}
		defer st.Close()
		if err := st.Promote(ctx, args[1], &stripe.PromoteOptions{Vouched: vouched}); err != nil {
			return nil, &outcome.Error{Object: f.path, Err: err}
		}
		left := stripeReply(st)
		left.status = outcome.Done
		return left, nil
	})
	return cmd
}

// rebuiltDoc is what rebuild prints for scripts.
type rebuiltDoc struct {
	Objects int      `json:"objects"`
	Records int      `json:"records"` // written
	Shards  int      `json:"shards"`  // written
	Right   int      `json:"right"`   // shards that were there
	Bytes   int64    `json:"bytes"`   // of shards written
	Removed int      `json:"removed"` // leftovers
	Lost    []string `json:"lost"`    // objects that cannot be made again
}

func (t *tool) stripeRebuildCommand() *cobra.Command {
	var limit string
	var alone bool
	cmd := &cobra.Command{Use: "rebuild FILE NAME", Short: "Bring a member up to date, or fill an empty place that FILE names for it",
		Long: text(`
The member NAME gets what it lacks: all that is missing, stale or damaged on it is made from the others, and held against
checksums before it is written. Where the place that FILE names for it is empty, it takes the lost member's seat. Backups may
run meanwhile. Interrupted, it is simply run again.`),
		Example: example("hikae repo stripe rebuild set.txt disk1 --limit 50MB/s"), Args: want("FILE", "NAME")}
	cmd.Flags().StringVar(&limit, "limit", "", "`RATE` at which it is written at most, such as 50MB/s")
	cmd.Flags().BoolVar(&alone, "alone", false, "no other program writes to the set: what dead ones left on the member is removed")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		o := &stripe.RebuildOptions{Alone: alone}
		if limit != "" {
			var err error
			if o.Rate, err = parseRate(limit); err != nil {
				return nil, err
			}
		}
		return t.stripeRebuild(ctx, args[0], args[1], o)
	})
	return cmd
}

func (t *tool) stripeRebuild(ctx context.Context, path, name string, o *stripe.RebuildOptions) (*reply, error) {
	st, f, err := t.anyStripe(ctx, path, name)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	at := f.find(name)
	if at < 0 {
		return nil, noMember(f, name)
	}
	if o.Store, err = t.openOrInit(ctx, f.places[at]); err != nil {
		return nil, err
	}
	done, err := st.Rebuild(ctx, name, o)
	if err != nil {
		return nil, &outcome.Error{Object: f.path, Err: err}
	}
	doc := rebuiltDoc(*done)
	if doc.Lost == nil {
		doc.Lost = []string{}
	}
	left := &reply{doc: doc, text: func(w *show.Printer) error {
		return w.Facts("objects", fmt.Sprint(doc.Objects), "records written", fmt.Sprint(doc.Records), "shards written", fmt.Sprintf("%d (%s)", doc.Shards, show.Size(doc.Bytes)),
			"shards that were right", fmt.Sprint(doc.Right), "leftovers removed", fmt.Sprint(doc.Removed), "lost", fmt.Sprint(len(doc.Lost)))
	}}
	if len(doc.Lost) > 0 {
		left.status = outcome.Damaged
	}
	return left, nil
}

// openOrInit opens a place, or makes it where there is none.
func (t *tool) openOrInit(ctx context.Context, place string) (store.Store, error) {
	st, err := t.openStore(ctx, place)
	if errors.Is(err, fs.ErrNotExist) {
		return t.initStore(ctx, place)
	}
	return st, err
}

// scrubDoc is what scrub prints for scripts.
type scrubDoc struct {
	OK      bool          `json:"ok"`
	Objects int           `json:"objects"`
	Shards  int           `json:"shards"`
	Bytes   int64         `json:"bytes"`
	Damaged []scrubDamage `json:"damaged"` // a rebuild of the member mends it
	Lost    []string      `json:"lost"`
	Loose   []scrubDamage `json:"loose"` // leftovers, which are no damage
}

type scrubDamage struct {
	Member string `json:"member"`
	Object string `json:"object"`
	Shard  *int   `json:"shard"` // null: the record
	Why    string `json:"why,omitempty"`
}

func (t *tool) stripeScrubCommand() *cobra.Command {
	var limit string
	cmd := &cobra.Command{Use: "scrub FILE", Short: "Read everything on all members, and say what is not as it was written",
		Long:    text("Nothing is changed. What is damaged on a member is made again by: hikae repo stripe rebuild FILE NAME"),
		Example: example("hikae repo stripe scrub set.txt"), Args: want("FILE")}
	cmd.Flags().StringVar(&limit, "limit", "", "`RATE` at which is read at most, such as 100MB/s")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		o := &stripe.ScrubOptions{}
		if limit != "" {
			var err error
			if o.Rate, err = parseRate(limit); err != nil {
				return nil, err
			}
		}
		st, f, err := t.anyStripe(ctx, args[0], "")
		if err != nil {
			return nil, err
		}
		defer st.Close()
		t.warnSeats(st, nil)
		report, err := st.Scrub(ctx, o)
		if err != nil {
			return nil, &outcome.Error{Object: f.path, Err: err}
		}
		return scrubReply(report), nil
	})
	return cmd
}

func scrubReply(r *stripe.Report) *reply {
	doc := scrubDoc{OK: len(r.Damaged)+len(r.Lost) == 0, Objects: r.Objects, Shards: r.Shards, Bytes: r.Bytes,
		Damaged: scrubList(r.Damaged), Lost: append([]string{}, r.Lost...), Loose: scrubList(r.Loose)}
	left := &reply{doc: doc, loud: true, text: func(w *show.Printer) error {
		if err := w.Facts("objects", fmt.Sprint(doc.Objects), "shards", fmt.Sprintf("%d (%s)", doc.Shards, show.Size(doc.Bytes)), "damaged", fmt.Sprint(len(doc.Damaged)),
			"lost", fmt.Sprint(len(doc.Lost)), "leftovers", fmt.Sprint(len(doc.Loose))); err != nil {
			return err
		}
		for _, d := range doc.Damaged[:min(len(doc.Damaged), 100)] {
			if err := w.Printf("%s: %s: %s\n", d.Member, d.Object, d.Why); err != nil {
				return err
			}
		}
		for _, name := range doc.Lost[:min(len(doc.Lost), 100)] {
			if err := w.Printf("lost: %s\n", name); err != nil {
				return err
			}
		}
		return nil
	}}
	if !doc.OK {
		left.status = outcome.Damaged
	}
	return left
}

func scrubList(list []stripe.Damage) []scrubDamage {
	out := []scrubDamage{}
	for _, d := range list {
		o := scrubDamage{Member: d.Member, Object: d.Object}
		if d.Shard >= 0 {
			o.Shard = &d.Shard
		}
		if d.Err != nil {
			o.Why = d.Err.Error()
		}
		out = append(out, o)
	}
	return out
}
