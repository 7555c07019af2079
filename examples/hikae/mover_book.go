package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// Files in the folder of a mover's book, besides those of package trust.
const (
	keyFile    = "identity.key" // trust's, by which a book that is in use is known
	servedFile = "served"       // a mover has run with this book
)

// book opens the key and the book of peers of what is served.
func (s *served) book(ctx context.Context, t *tool) (*trust.Identity, *trust.Book, error) {
	if err := s.checkMode(ctx, t); err != nil {
		return nil, nil, err
	}
	dir, err := s.dir(ctx, t)
	if err != nil {
		return nil, nil, err
	}
	id, err := trust.LoadIdentity(dir)
	if err != nil {
		return nil, nil, about(dir, "the mover's key", err)
	}
	book, err := trust.OpenBook(dir)
	if err != nil {
		return nil, nil, about(dir, "the mover's book of peers", err)
	}
	return id, book, nil
}

// checkMode refuses to begin a second book for a repository that has one of the other mode here: nobody who is in the one
// would be known by the other. What cannot be looked at has no book; whoever opens it says why.
func (s *served) checkMode(ctx context.Context, t *tool) error {
	if s.sources || s.proxy || checkFolder(s.repo) != nil {
		return nil
	}
	other := served{repo: s.repo, blind: !s.blind}
	at, err := other.dir(ctx, t)
	if err != nil || !hasBook(at) {
		return nil
	}
	if own, err := s.dir(ctx, t); err == nil && hasBook(own) {
		return nil
	}
	if other.blind {
		return &outcome.Error{Kind: outcome.KindUsage, Object: s.repo, Text: fmt.Sprintf("the repository %s has a blind mover's book", s.repo), Hint: "Add --blind."}
	}
	return &outcome.Error{Kind: outcome.KindUsage, Object: s.repo, Text: fmt.Sprintf("the repository %s is served as a trusted target", s.repo),
		Hint: "Leave --blind out. If it is to be kept blindly from now on, remove the folder of its book, which ends all enrolments: " + at}
}

func hasBook(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, keyFile))
	return err == nil
}

// peersBook is the book for the commands that look into it and change it. A blind mover's folder has to be there for
// them: under a name that was mistyped, nobody would ever be enrolled.
func (s *served) peersBook(ctx context.Context, t *tool) (*trust.Identity, *trust.Book, error) {
	if s.blind && !isURL(s.repo) {
		if err := checkFolder(s.repo); err != nil {
			return nil, nil, err
		}
		if fi, err := os.Stat(s.repo); err != nil || !fi.IsDir() {
			return nil, nil, &outcome.Error{Kind: outcome.KindNotFound, Object: s.repo, Text: fmt.Sprintf("there is no folder %s", s.repo), Err: err,
				Hint: "Check the path. A new blind target begins as an empty folder: mkdir it first."}
		}
	}
	return s.book(ctx, t)
}

// where says which state folder's book was used, and warns where no mover goes by it.
func (s *served) where(ctx context.Context, t *tool) (state string, notes, warnings []string) {
	state, err := t.stateDir()
	if err != nil {
		return "", nil, nil
	}
	if full, err := filepath.Abs(state); err == nil {
		state = full
	}
	notes = append(notes, fmt.Sprintf("the mover's book is in the state folder %s", state))
	dir, err := s.dir(ctx, t)
	if err != nil {
		return state, notes, nil
	}
	if _, err := os.Stat(filepath.Join(dir, servedFile)); errors.Is(err, fs.ErrNotExist) {
		warnings = append(warnings, "no mover has run with this state folder yet: one that runs with another HIKAE_STATE_DIR, or as another user or as a service, does not know what stands here")
	}
	return state, notes, warnings
}

// markServed notes that a mover has run with a book. A folder that cannot be written to has more to say elsewhere.
func markServed(dir string) error {
	return os.WriteFile(filepath.Join(dir, servedFile), nil, 0o600)
}

// String is what is served as the commands have it: --repo REPO, with --blind, or --sources.
func (s *served) String() string {
	switch {
	case s.sources:
		return "--sources"
	case s.proxy:
		return "--proxy"
	case s.blind:
		return "--blind --repo " + s.repo
	}
	return "--repo " + s.repo
}
