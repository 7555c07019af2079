package main

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/repo/store"
)

// lockNew reads --lock of a backup.
func (a *access) lockNew(text string) (err error) {
	if text == "" {
		return nil
	}
	if strings.HasPrefix(a.repo, moverScheme) {
		return outcome.Usage("Lock points where the repository is.", "--lock is for a repository that this machine reaches itself")
	}
	a.lock, err = parseLock(text)
	return err
}

// maxLock bounds what a slip of the finger costs: there is no way back.
const maxLock = 100 * 366 * 24 * time.Hour

// parseLock reads days as 30d, or hours and less as Go has them.
func parseLock(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		d = time.Duration(min(max(n, 0), 1<<16)) * 24 * time.Hour
	}
	if err != nil || d <= 0 || d > maxLock {
		return 0, outcome.Usage("Say for how long, such as 30d or 36h.", "%q is no time to lock for", text)
	}
	return d, nil
}

func (t *tool) lockCommand() *cobra.Command {
	var keep string
	cmd := &cobra.Command{
		Use:   "lock --repo REPO --for TIME POINT…",
		Short: "Have the store keep restore points until a date, whoever asks",
		Long: text(`
Have the store refuse to remove what these points need, for so long from now. A lock can be extended and never ended or
shortened, by nobody. The store needs Object Lock (S3), or the helper that makes files immutable (a folder).`),
		Example: example(`hikae repo lock --repo /backup/hikae --for 30d web1@latest`),
		Args:    want("POINT…"),
	}
	a := repoFlags(cmd)
	cmd.Flags().StringVar(&keep, "for", "", "for how long: `TIME` such as 30d or 36h (required)")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return t.lock(ctx, a, keep, args) })
	return cmd
}

// lockDoc is what repo lock prints for scripts.
type lockDoc struct {
	Points  []string  `json:"points"`
	Until   time.Time `json:"until"`
	Objects int       `json:"objects"` // that are kept, of all points; those that points share count for each
}

func (t *tool) lock(ctx context.Context, a *access, keep string, points []string) (_ *reply, err error) {
	d, err := parseLock(keep)
	if err != nil {
		return nil, err
	}
	r, err := t.openHere(ctx, a, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	locker, ok := store.As[store.Locker](r.store)
	if !ok {
		return nil, about(a.repo, "lock", errors.ErrUnsupported)
	}
	now, err := locker.Now(ctx)
	if err != nil {
		return nil, about(a.repo, "lock", err)
	}
	doc := lockDoc{Until: now.Add(d).UTC()}
	for _, spec := range points {
		p, err := r.Resolve(ctx, spec)
		if err != nil {
			return nil, about(a.repo, "find point "+spec, err)
		}
		n, err := r.local.LockPoint(ctx, p.ID, doc.Until)
		if err != nil {
			return nil, about(a.repo, "lock point "+spec, err)
		}
		doc.Points, doc.Objects = append(doc.Points, p.ID), doc.Objects+n
	}
	return &reply{doc: doc, text: func(w *show.Printer) error {
		return w.Printf("%s locked until %s\n", show.Count(len(doc.Points), "point"), doc.Until.Format(time.RFC3339))
	}}, nil
}
