package main

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/pipe/exclude"
)

// maxFound bounds what one find lists: it is held until the document is printed.
const maxFound = 1 << 20

func (t *tool) findCommand() *cobra.Command {
	under := "/"
	cmd := &cobra.Command{
		Use:   "find --repo REPO POINT GLOB…",
		Short: "Find files in a restore point by name",
		Long: text(`
List the files of the machine that is in a restore point whose path matches one of the patterns: * stands for anything
within a name, ? for one character, ** for any number of directories. A pattern without a slash is matched with names in
every directory.
` + guestWords),
		Example: example(`
hikae find --repo /backup/hikae web1@latest '*.conf'
hikae find --repo /backup/hikae web1@latest --under /var '**/log/*.gz'`),
		Args: want("POINT", "GLOB…"),
	}
	f := guestFlagsOf(cmd)
	cmd.Flags().StringVar(&under, "under", under, "look only below this `PATH`")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		return t.find(ctx, f, args[0], under, args[1:])
	})
	return cmd
}

// foundDoc is what find prints for scripts.
type foundDoc struct {
	Point string     `json:"point"`
	Found []foundOne `json:"found"`
}

type foundOne struct {
	Path string `json:"path"`
	Type string `json:"type"`
	Size int64  `json:"size"`
}

func (t *tool) find(ctx context.Context, f *guestFlags, spec, under string, globs []string) (*reply, error) {
	match, err := globsOf(globs)
	if err != nil {
		return nil, err
	}
	g, err := t.openGuest(ctx, f, spec)
	if err != nil {
		return nil, err
	}
	defer g.Close()
	tree, err := g.rooted()
	if err != nil {
		return nil, err
	}
	root, err := inTree(under)
	if err != nil {
		return nil, err
	}
	doc, left := foundDoc{Point: g.point.ID, Found: []foundOne{}}, &reply{loud: true}
	err = tree.Walk(root, func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			left.warnings, left.status = append(left.warnings, err.Error()), outcome.Warned
			return nil
		case name == "." || !match(name):
			return nil
		case len(doc.Found) == maxFound:
			return fmt.Errorf("more than %d files match; look --under a directory", maxFound)
		}
		one := foundOne{Path: "/" + name, Type: typeWord(e.Type())}
		if info, err := e.Info(); err == nil {
			one.Size = info.Size()
		}
		doc.Found = append(doc.Found, one)
		return nil
	})
	if err != nil {
		return nil, aboutFile(under, err)
	}
	left.doc, left.text = doc, doc.print
	return left, nil
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
