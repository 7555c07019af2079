package main

import (
	"context"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/pipe/exclude"
	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// maxFound bounds what one find lists: it is held until the document is printed.
const maxFound = 1 << 20

// errTooMany ends a find.
var errTooMany = fmt.Errorf("more than %d files match; look --under a directory", maxFound)

func (t *tool) findCommand() *cobra.Command {
	var q findFlags
	cmd := &cobra.Command{
		Use:   "find --repo REPO POINT GLOB…",
		Short: "Find files in a restore point by name",
		Long: text(`
List the files of the machine that is in a restore point whose path matches one of the patterns: * stands for anything
within a name, ? for one character, ** for any number of directories. A pattern without a slash is matched with names in
every directory.

Where the point has a list of the machine's files, which was made in the guest when it was backed up, that is searched;
it takes a moment, and a note says so. The list is of that time, not of the snapshot's very moment. Otherwise, and with
--read-disks or --volume, the point's disks are read.
` + guestWords),
		Example: example(`
hikae find --repo /backup/hikae web1@latest '*.conf'
hikae find --repo /backup/hikae web1@latest --under /var '**/log/*.gz'
hikae find --repo /backup/hikae web1@latest --larger 1GiB --newer 2026-01-31T00:00:00Z '*'`),
		Args: want("POINT", "GLOB…"),
	}
	f := guestFlagsOf(cmd)
	flags := cmd.Flags()
	flags.StringVar(&q.under, "under", "/", "look only below this `PATH`")
	flags.StringVar(&q.larger, "larger", "", "only files of more than this `SIZE`")
	flags.StringVar(&q.newer, "newer", "", "only what was modified after this time, as `RFC3339`")
	flags.StringVar(&q.owner, "owner", "", "only what belongs to this `ID`: a number, or in a list of a Windows machine a SID")
	flags.BoolVar(&q.disks, "read-disks", false, "read the disks, also where the point has a list of files")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		return t.find(ctx, f, args[0], q, args[1:])
	})
	return cmd
}

// findFlags are find's own.
type findFlags struct {
	under, larger, newer, owner string
	disks                       bool
}

// foundDoc is what find prints for scripts.
type foundDoc struct {
	Point  string     `json:"point"`
	Source string     `json:"source"` // "index": the list that was made in the guest; "disks"
	Found  []foundOne `json:"found"`
}

type foundOne struct {
	Path string    `json:"path"`
	Type string    `json:"type"`
	Size int64     `json:"size"`
	Time time.Time `json:"time"`
}

// search is a find that goes on.
type search struct {
	doc   foundDoc
	left  *reply
	under string // without a slash in front; ".": everything
	globs []string
	match exclude.Globs

	larger int64
	newer  time.Time
	owner  string
}

func newSearch(q findFlags, globs []string) (s *search, err error) {
	s = &search{globs: globs, larger: -1, owner: q.owner, left: &reply{loud: true}, doc: foundDoc{Found: []foundOne{}}}
	if s.match, err = exclude.ParseGlobs(globs); err != nil {
		return nil, &outcome.Error{Kind: outcome.KindUsage, Err: err}
	}
	if s.under, err = inTree(q.under); err != nil {
		return nil, err
	}
	if q.larger != "" {
		if s.larger, err = parseSize(q.larger); err != nil {
			return nil, err
		}
	}
	if q.newer != "" {
		if s.newer, err = time.Parse(time.RFC3339, q.newer); err != nil {
			return nil, outcome.Usage("Write it as 2026-01-31T12:00:00Z.", "--newer %q is not a time", q.newer)
		}
	}
	return s, nil
}

// add adds one that fits by name, if it fits otherwise.
func (s *search) add(f foundOne, owner string) error {
	switch {
	case s.larger >= 0 && (f.Type != "file" || f.Size <= s.larger),
		!s.newer.IsZero() && !f.Time.After(s.newer),
		s.owner != "" && s.owner != owner:
		return nil
	case len(s.doc.Found) == maxFound:
		return errTooMany
	}
	s.doc.Found = append(s.doc.Found, f)
	return nil
}

func (s *search) warn(text string) {
	s.left.warnings, s.left.status = append(s.left.warnings, text), outcome.Warned
}

func (t *tool) find(ctx context.Context, f *guestFlags, spec string, q findFlags, globs []string) (*reply, error) {
	s, err := newSearch(q, globs)
	if err != nil {
		return nil, err
	}
	g, err := t.openPoint(ctx, f, spec)
	if err != nil {
		return nil, err
	}
	defer g.Close()
	s.doc.Point = g.point.ID
	listed := false
	if !q.disks && f.volume == "" {
		if listed, err = s.inIndex(ctx, g); err != nil {
			return nil, aboutFile(q.under, err)
		}
	}
	if !listed {
		if err := s.onDisks(ctx, g, f); err != nil {
			return nil, aboutFile(q.under, err)
		}
	}
	s.left.doc, s.left.text = s.doc, s.doc.print
	return s.left, nil
}

// onDisks walks the trees of the disks.
func (s *search) onDisks(ctx context.Context, g *contents, f *guestFlags) error {
	s.doc.Source = "disks"
	if err := g.openDisks(ctx, f); err != nil {
		return err
	}
	tree, err := g.rooted()
	if err != nil {
		return err
	}
	return tree.Walk(s.under, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			s.warn(err.Error())
			return nil
		}
		if name == "." || !s.match.Fits(name, false) {
			return nil
		}
		one, owner := foundOne{Path: "/" + name, Type: typeWord(e.Type())}, ""
		if info, err := e.Info(); err == nil {
			one.Size, one.Time = info.Size(), info.ModTime()
			if a, ok := info.Sys().(fsys.Attr); ok {
				owner = strconv.FormatUint(uint64(a.UID), 10)
			}
		}
		return s.add(one, owner)
	})
}

func (d foundDoc) print(w *show.Printer) error {
	for _, f := range d.Found {
		if err := w.Printf("%s\n", outcome.Clean(f.Path)); err != nil {
			return err
		}
	}
	return nil
}

// globsOf makes a question of patterns, as exclusions have them.
func globsOf(globs []string) (func(name string) bool, error) {
	match, err := exclude.ParseGlobs(globs)
	if err != nil {
		return nil, &outcome.Error{Kind: outcome.KindUsage, Err: err}
	}
	return func(name string) bool { return match.Fits(name, false) }, nil
}
