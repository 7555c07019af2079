package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/repo"
)

// verifyFlags say how deep to look.
type verifyFlags struct {
	*access
	from   access
	data   string
	limit  string
	within int
	repair bool
	resume bool
}

func (t *tool) verifyCommand() *cobra.Command {
	f := &verifyFlags{from: access{prefix: "from-", variable: "HIKAE_FROM_PASSWORD"}}
	cmd := &cobra.Command{
		Use:   "verify --repo REPO [--data all|N%] [--repair [--from REPO]]",
		Short: "Check a repository, and mend it",
		Long: text(`
Check that a repository is whole.

Without flags the structure is checked: every object, table and reference. --data also decrypts and decodes blocks and
compares each with its identity: all of them, or a random share, which finds spread damage early at a fraction of the
cost. --within 30 reads a part each day, what is new first, so that everything is read within thirty days. --resume goes on where
the last run with the same flags was cut off. What is found to be damaged is told to the log: no client refers to it any more, and
it is stored again when it next appears.

--repair reads everything, and writes anew what can be had: from parity, from another copy, or with --from from another repository
that was made with --copy-parameters-from. What verifies is never removed. Damage that says "nothing is lost" is read through as it is.

Exit status: 0 all is well; 3 damage was found and all of it is repaired; 4 damage is left. What only an interrupted run
left behind is not damage: it is counted as reclaimable.`),
		Example: example(`
hikae verify --repo /backup/hikae
hikae verify --repo /backup/hikae --data 5%
hikae verify --repo /backup/hikae --data all --repair --json`),
		Args: want(),
	}
	f.access = repoFlags(cmd)
	cmd.Flags().StringVar(&f.data, "data", "", "read blocks too: \"all\", or a `SHARE` such as 5%")
	cmd.Flags().BoolVar(&f.repair, "repair", false, "mend what can be mended")
	cmd.Flags().BoolVar(&f.resume, "resume", false, "go on where the last run was cut off")
	cmd.Flags().IntVar(&f.within, "within", 0, "read a part of everything, so that all is read within `DAYS` of daily runs")
	cmd.Flags().StringVar(&f.limit, "limit", "", "read no more than `RATE`, such as 100MiB/s or 400Mbit/s")
	cmd.Flags().StringVar(&f.from.repo, "from", "", "with --repair: another `REPO` that shares its ids, to take from what is lost here")
	f.from.secretFlags(cmd)
	cmd.MarkFlagsMutuallyExclusive("data", "within")
	cmd.MarkFlagsMutuallyExclusive("repair", "data")
	cmd.MarkFlagsMutuallyExclusive("repair", "within")
	cmd.MarkFlagsMutuallyExclusive("repair", "resume")
	completeWith(cmd, "data", "all", "5%", "10%")
	cmd.RunE = t.act(func(ctx context.Context, _ []string) (*reply, error) { return t.verify(ctx, f) })
	return cmd
}

// verifyDoc is what verify prints for scripts: the report, and how long it took.
type verifyDoc struct {
	Rollback string `json:"rollback,omitempty"` // what this machine has seen and is not there
	repo.VerifyReport
	Seconds float64 `json:"seconds"`
}

func (t *tool) verify(ctx context.Context, f *verifyFlags) (*reply, error) {
	share, err := parseShare(f.data)
	if err != nil {
		return nil, err
	}
	rate := int64(0)
	if f.limit != "" {
		if rate, err = parseRate(f.limit); err != nil {
			return nil, err
		}
	}
	switch {
	case f.within < 0:
		return nil, outcome.Usage("For instance --within 30.", "--within %d is no number of days", f.within)
	case f.from.repo != "" && !f.repair:
		return nil, outcome.Usage("Add --repair.", "--from is for --repair")
	}
	start := time.Now()
	r, err := t.openHere(ctx, f.access, false)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	progress := t.bars()
	told := func(done, total int64) { progress.Set("verify", done, total) }
	var report repo.VerifyReport
	if f.repair {
		report, err = t.repair(ctx, f, r, rate, told)
	} else {
		opts := &repo.VerifyOptions{DataPercent: share, Rate: rate, Resume: f.resume, Progress: told}
		opts.Declare = r.local.Writable() == nil
		if f.within > 0 {
			opts.Rotation = &repo.Rotation{Days: f.within}
		}
		report, err = r.local.Verify(ctx, opts)
	}
	progress.Close()
	if _, told := errors.AsType[*outcome.Error](err); told { // of the other repository
		return nil, err
	}
	if err != nil {
		return nil, about(f.repo, "verify", err)
	}
	doc := verified(report, time.Since(start))
	if back, ok := errors.AsType[*repo.ErrRollback](r.local.Writable()); ok {
		doc.OK, doc.Rollback = false, back.Error()
	}
	left := &reply{doc: doc, status: doc.status(), notes: doc.Notes,
		text: func(w *show.Printer) error { return doc.print(w, f) }, loud: doc.status() != outcome.Done}
	return left, nil
}

// repair mends what can be mended, and tells it as a verification does: what was found, or, where something is left, what that is.
func (t *tool) repair(ctx context.Context, f *verifyFlags, r *opened, rate int64, told func(done, total int64)) (repo.VerifyReport, error) {
	opts := &repo.RepairOptions{Rate: rate, Progress: told}
	if f.from.repo != "" {
		other, err := t.openHere(ctx, &f.from, true)
		if err != nil {
			return repo.VerifyReport{}, err
		}
		defer other.Close()
		opts.From = []*repo.Repository{other.local}
	}
	m, err := r.local.Repair(ctx, opts)
	found := m.Found
	if !m.OK {
		found = m.Left
	}
	return repo.VerifyReport{OK: m.OK, Checked: m.Checked, Damaged: found, Affected: m.Affected, Repaired: m.Repaired, Spent: m.Spent, Notes: m.Notes}, err
}

// verified makes sure that scripts find lists where there is nothing to list.
func verified(r repo.VerifyReport, took time.Duration) verifyDoc {
	r.Damaged = append([]repo.Damage{}, r.Damaged...)
	r.Affected = append([]repo.Affected{}, r.Affected...)
	r.Repaired = append([]string{}, r.Repaired...)
	r.Notes = append([]string{}, r.Notes...)
	r.Spent = append([]string{}, r.Spent...)
	return verifyDoc{VerifyReport: r, Seconds: float64(took.Milliseconds()) / 1000}
}

// status: any damage that is left is 4; found and all repaired is 3.
func (d verifyDoc) status() outcome.Status {
	switch {
	case !d.OK:
		return outcome.Damaged // also where the newest records are lost, or an older state was put back
	case len(d.Damaged) > 0 || len(d.Repaired) > 0:
		return outcome.Warned
	}
	return outcome.Done
}

// maxListed bounds the damage that is shown to people; scripts get all of it.
const maxListed = 20

func (d verifyDoc) print(w *show.Printer, f *verifyFlags) error {
	verdict := w.Green("all is well")
	switch d.status() {
	case outcome.Warned:
		verdict = w.Yellow("damage was found, and all of it is repaired")
	case outcome.Damaged:
		verdict = w.Red("damaged")
	}
	if err := w.Printf("%s: %s\n\n", outcome.Clean(f.repo), verdict); err != nil {
		return err
	}
	if err := w.Facts("objects", fmt.Sprint(d.Checked.Objects), "blocks", fmt.Sprint(d.Checked.Blocks),
		"read", fmt.Sprintf("%s in %s", show.Size(d.Checked.Bytes), show.Seconds(d.Seconds)),
		"decoded", fmt.Sprintf("%s (%s)", show.Size(d.Checked.Original), show.Rate(d.Checked.Original, d.Seconds)),
		"damaged", fmt.Sprint(len(d.Damaged)), "repaired", fmt.Sprint(len(d.Repaired)),
		"reclaimable", show.Size(d.Reclaimable)); err != nil {
		return err
	}
	return d.printDamage(w, f)
}

func (d verifyDoc) printDamage(w *show.Printer, f *verifyFlags) error {
	if len(d.Damaged) == 0 && len(d.Affected) == 0 && d.OK {
		return nil
	}
	objects := show.NewTable("DAMAGED OBJECT", ">OFFSET", ">LENGTH", "WHY")
	for i, x := range d.Damaged {
		if i == maxListed {
			objects.Row(fmt.Sprintf("… and %d more, see --json", len(d.Damaged)-i))
			break
		}
		why := x.Reason
		if x.Mendable {
			why += " (nothing is lost)"
		}
		objects.Row(x.Object, fmt.Sprint(x.Offset), fmt.Sprint(x.Length), why)
	}
	if len(d.Damaged) > 0 { // none, where nothing is left that could tell which objects there were
		if err := w.Printf("\n"); err != nil {
			return err
		}
		if err := objects.Print(w); err != nil {
			return err
		}
	}
	if d.OK {
		return nil
	}
	if len(d.Damaged)+len(d.Affected) > 0 {
		if err := d.printAffected(w); err != nil {
			return err
		}
	}
	next := "Run it again with --repair to mend what can be mended."
	switch {
	case d.logLost():
		next = outcome.LogHint
	case d.Rollback != "" && len(d.Damaged)+len(d.Affected) == 0:
		next = "What is there is whole, but " + d.Rollback + ". " + outcome.RollbackHint
	case f.repair:
		next = "What is left cannot be mended here. The rest of a damaged point comes back with `hikae restore --salvage`."
	}
	return w.Printf("\n%s\n", next)
}

// logLost says that the history itself has a hole, which no repair of objects closes.
func (d verifyDoc) logLost() bool {
	return slices.ContainsFunc(d.Damaged, func(x repo.Damage) bool { return strings.HasPrefix(x.Object, "log/") && !x.Mendable })
}

func (d verifyDoc) printAffected(w *show.Printer) error {
	switch {
	case len(d.Affected) == 0 && d.logLost():
		return w.Printf("\nWhich points were committed behind the lost record cannot be told.\n")
	case len(d.Affected) == 0:
		return w.Printf("\nNo data of a restore point is lost.\n")
	}
	points := show.NewTable("AFFECTED POINT", "VM", "DISK", ">OFFSET", ">LENGTH")
	for i, x := range d.Affected {
		if i == maxListed {
			points.Row(fmt.Sprintf("… and %d more, see --json", len(d.Affected)-i))
			break
		}
		if x.Disk == "" && x.Length == 0 { // nobody can say what was in it
			points.Row(x.Point[:min(12, len(x.Point))], x.VM, "all of it", "", "")
			continue
		}
		points.Row(x.Point[:min(12, len(x.Point))], x.VM, x.Disk, fmt.Sprint(x.Offset), fmt.Sprint(x.Length))
	}
	if err := w.Printf("\n"); err != nil {
		return err
	}
	return points.Print(w)
}

// parseShare reads "all" or a percentage; empty is none.
func parseShare(s string) (float64, error) {
	switch s {
	case "":
		return 0, nil
	case "all":
		return 100, nil
	}
	v, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	if err != nil || !strings.HasSuffix(s, "%") || !(v > 0 && v <= 100) {
		return 0, outcome.Usage("For instance --data 5%.", "--data %s is neither \"all\" nor a share above 0%% and up to 100%%", s)
	}
	return v, nil
}
