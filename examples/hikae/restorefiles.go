package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/pipe/exclude/files"
)

// restoreFiles takes single files out of a point: restore --file.
func (t *tool) restoreFiles(ctx context.Context, f *restoreFlags, spec string) (_ *reply, err error) {
	if f.format != "" || f.inPlace || f.salvage || len(f.disks) > 0 {
		return nil, outcome.Usage("--volume chooses where --file looks.", "--file goes with neither --format, --in-place, --salvage nor --disk")
	}
	match, err := globsOf(f.files)
	if err != nil {
		return nil, err
	}
	g, err := t.openGuest(ctx, &guestFlags{access: f.access, volume: f.volume}, spec)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	tree, err := g.rooted()
	if err != nil {
		return nil, err
	}
	into, err := openFolder(f.to)
	if err != nil {
		return nil, err
	}
	defer into.Close()
	done, err := tree.Extract(ctx, ".", into, &files.ExtractOptions{Match: match, Overwrite: f.force, Owners: os.Geteuid() == 0})
	if err != nil {
		return nil, &outcome.Error{Object: f.to, Text: "restore files", Err: err}
	}
	return f.extracted(g, done)
}

// openFolder opens the folder that files go to, and makes it where it is missing, for this user alone: who may read a
// guest's files is for them to decide.
func openFolder(name string) (*os.Root, error) {
	if err := os.MkdirAll(name, 0o700); err != nil {
		return nil, err
	}
	return os.OpenRoot(name)
}

// extractedDoc is what restore --file prints for scripts.
type extractedDoc struct {
	Point       string       `json:"point"`
	To          string       `json:"to"`
	Files       int64        `json:"files"`
	Directories int64        `json:"directories"`
	Links       int64        `json:"links"`
	Bytes       int64        `json:"bytes"`
	Skipped     []skippedDoc `json:"skipped"`
}

type skippedDoc struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

func (f *restoreFlags) extracted(g *contents, x files.Extracted) (*reply, error) {
	doc := extractedDoc{Point: g.point.ID, To: f.to, Files: x.Files, Directories: x.Dirs, Links: x.Links, Bytes: x.Bytes, Skipped: []skippedDoc{}}
	left := &reply{text: doc.print}
	for _, s := range x.Skipped {
		doc.Skipped = append(doc.Skipped, skippedDoc(s))
		left.warnings = append(left.warnings, fmt.Sprintf("%s: not restored: %s", s.Path, s.Reason))
	}
	if x.More > 0 {
		left.warnings = append(left.warnings, fmt.Sprintf("%d more were not restored", x.More))
	}
	if len(left.warnings) > 0 {
		left.status = outcome.Warned
	}
	left.doc, left.notes = doc, g.Notes
	if x.Files+x.Dirs+x.Links == 0 && len(x.Skipped) == 0 {
		return nil, &outcome.Error{Kind: outcome.KindNotFound, Text: "no file in the point matches", Hint: "`hikae find` shows what a pattern matches."}
	}
	return left, nil
}

func (d extractedDoc) print(w *show.Printer) error {
	return w.Printf("%d files, %d directories, %d links, %s, restored to %s\n", d.Files, d.Directories, d.Links, show.Size(d.Bytes), outcome.Clean(d.To))
}
