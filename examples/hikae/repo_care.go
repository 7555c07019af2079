package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/repo"
)

func (t *tool) adoptCommand() *cobra.Command {
	var note string
	cmd := &cobra.Command{
		Use:   "adopt --repo REPO",
		Short: "Go on with the state that is there, although this machine has seen another one",
		Long: text(`
A repository that was copied with cp -r, or put back from a backup of its disk, shows another history than this machine has seen. It
can be read, and is not written to until somebody has said which history counts. This command says: the one that is here. Points that
only the other one has are not in it; if the other copy still exists, ` + "`hikae copy`" + ` brings them over.

Where nothing is in doubt, nothing is done.`),
		Example: example(`hikae repo adopt --repo /backup/hikae --note "restored from tape"`),
		Args:    want(),
	}
	a := repoFlags(cmd)
	cmd.Flags().StringVar(&note, "note", "", "`TEXT` for the audit log")
	cmd.RunE = t.act(func(ctx context.Context, _ []string) (*reply, error) {
		return t.care(ctx, a, "adopt", "this state counts from here on", func(r *repo.Repository) error { return r.Adopt(ctx, note) })
	})
	return cmd
}

func (t *tool) upgradeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "upgrade --repo REPO",
		Short:   "Bring a repository to the newest format",
		Long:    text(`Bring a repository to the newest format that this program writes. That is format 1, which all repositories have so far: nothing is changed.`),
		Example: example(`hikae repo upgrade --repo /backup/hikae`),
		Args:    want(),
	}
	a := repoFlags(cmd)
	cmd.RunE = t.act(func(ctx context.Context, _ []string) (*reply, error) {
		return t.care(ctx, a, "upgrade", "format 1 is the newest: nothing to do", func(*repo.Repository) error { return nil })
	})
	return cmd
}

func (t *tool) condenseCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "condense --repo REPO",
		Short: "Sum up the log's old records, and remove them",
		Long: text(`
Make the checkpoints of the log that are due, and remove the records that they stand for. A prune does that by itself; a repository
with fewer than some thousands of sessions has nothing to sum up.`),
		Example: example(`hikae repo condense --repo /backup/hikae`),
		Args:    want(),
	}
	a := repoFlags(cmd)
	cmd.RunE = t.act(func(ctx context.Context, _ []string) (*reply, error) {
		return t.care(ctx, a, "condense", "the log is summed up as far as it can be", func(r *repo.Repository) error { return r.Condense(ctx) })
	})
	return cmd
}

// careDoc is what these commands print for scripts.
type careDoc struct {
	ID     string `json:"id"`
	Format int    `json:"format"`
	Done   string `json:"done"`
}

// care does one thing to an open repository, and says that it is done.
func (t *tool) care(ctx context.Context, a *access, what, done string, do func(*repo.Repository) error) (_ *reply, err error) {
	r, err := t.openHere(ctx, a, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := do(r.local); err != nil {
		return nil, about(a.repo, what, err)
	}
	return &reply{doc: careDoc{r.ID(), 1, done}, text: func(w *show.Printer) error { return w.Printf("%s\n", done) }}, nil
}

func (t *tool) auditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit --repo REPO",
		Short: "List everything that was ever taken away, kept or allowed",
		Long: text(`
List what the log says of every deletion: points that were forgotten or held, packs that were removed, sessions that were ended by
others, keys that were let in. Each entry is signed by the key that it names, and the log is one chain: nobody without a key makes an
entry, and none goes missing in between.`),
		Example: example(`
hikae repo audit --repo /backup/hikae
hikae repo audit --repo /backup/hikae --json | jq '.entries[] | select(.kind == "forget")'`),
		Args: want(),
	}
	a := repoFlags(cmd)
	cmd.RunE = t.act(func(ctx context.Context, _ []string) (*reply, error) { return t.audit(ctx, a) })
	return cmd
}

// auditDoc is what audit prints for scripts.
type auditDoc struct {
	Entries []repo.AuditEntry `json:"entries"`
}

func (t *tool) audit(ctx context.Context, a *access) (_ *reply, err error) {
	r, err := t.openHere(ctx, a, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	doc := auditDoc{Entries: []repo.AuditEntry{}}
	for e, err := range r.local.Audit(ctx) {
		if err != nil {
			return nil, about(a.repo, "read the audit log", err)
		}
		doc.Entries = append(doc.Entries, e)
	}
	return &reply{doc: doc, loud: true, text: func(w *show.Printer) error { return doc.print(w) }}, nil
}

func (d auditDoc) print(w *show.Printer) error {
	table := show.NewTable(">RECORD", "TIME", "WHAT", "BY", "OF WHAT", "NOTE")
	for _, e := range d.Entries {
		var of []string
		for _, p := range e.Points {
			of = append(of, p.String()[:12])
		}
		if e.Count > 0 {
			of = append(of, fmt.Sprintf("%d objects", e.Count))
		}
		if len(of) > maxListed {
			of = append(of[:maxListed], "…")
		}
		note := e.Note
		if !e.Counts {
			note = "did not count: its key may not say that. " + note
		}
		table.Row(fmt.Sprint(e.N), show.Time(e.Time), e.Kind, fmt.Sprintf("%x", e.By[:4]), strings.Join(of, " "), note)
	}
	return table.Print(w)
}
