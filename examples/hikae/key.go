package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/repo"
)

func (t *tool) keyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Keys of a repository: who can open it",
		Long: text(`
A repository has one or more keys, each a way in of its own: a passphrase, a key file, age recipients, a sheet of paper. They are
added and taken away without anything being written again.`),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(t.keyListCommand(), t.keyAddCommand(), t.keyRemoveCommand(), t.keyChangeCommand(), t.keyRotateCommand(),
		t.keySheetCommand(), t.keyWriterCommand())
	return cmd
}

// newKeyFlags say what a new key is.
type newKeyFlags struct {
	passwordFile, keyFile, identity, recipients string
}

func (n *newKeyFlags) add(cmd *cobra.Command, recipients bool) {
	cmd.Flags().StringVar(&n.passwordFile, "new-password-file", "", "`FILE` whose first line is the new passphrase")
	cmd.Flags().StringVar(&n.keyFile, "new-key-file", "", "`FILE` with the new key of 32 bytes")
	cmd.Flags().StringVar(&n.identity, "new-identity", "", "`FILE` with age identities")
	group := []string{"new-password-file", "new-key-file", "new-identity"}
	if recipients {
		cmd.Flags().StringVar(&n.recipients, "new-recipients", "", "`FILE` with age recipients (age1…)")
		group = append(group, "new-recipients")
	}
	cmd.MarkFlagsMutuallyExclusive(group...)
}

// secret reads or asks for the new key. nil: recipients were given.
func (t *tool) newKey(ctx context.Context, n *newKeyFlags, place string) (repo.Secret, error) {
	a := &access{repo: place, passwordFile: n.passwordFile, keyFile: n.keyFile, identity: n.identity, prefix: "new-", variable: "HIKAE_NEW_PASSWORD"}
	secret, err := t.secret(a)
	if secret != nil || err != nil {
		return secret, err
	}
	if !isTerminal(t.stdin) {
		return nil, outcome.Usage("Set HIKAE_NEW_PASSWORD, or give --new-password-file, --new-key-file or --new-identity.", "the new key is missing")
	}
	first, err := t.askText(ctx, a, "New passphrase for "+place)
	if err != nil {
		return nil, err
	}
	second, err := t.askText(ctx, a, "The same again")
	if err != nil {
		return nil, err
	}
	if first != second {
		return nil, outcome.Usage("Start again.", "the two passphrases differ")
	}
	return repo.Passphrase(first), nil
}

// withKeys runs what changes keys on an open repository.
func (t *tool) withKeys(ctx context.Context, a *access, what string, readOnly bool, f func(*repo.Repository) (*reply, error)) (_ *reply, err error) {
	r, err := t.openHere(ctx, a, readOnly)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	left, err := f(r.local)
	if err != nil {
		return nil, about(a.repo, what, err)
	}
	return left, nil
}

// keysDoc is what the key commands print for scripts.
type keysDoc struct {
	Keys []repo.SlotInfo `json:"keys"`
	Left []string        `json:"left"` // slots that are there and not in force
}

func (t *tool) keyListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list --repo REPO", Short: "List the keys that open a repository",
		Long:    text(`List the keys that are in force. The one that was used just now is marked.`),
		Example: example(`hikae key list --repo /backup/hikae`),
		Args:    want(),
	}
	a := repoFlags(cmd)
	cmd.RunE = t.act(func(ctx context.Context, _ []string) (*reply, error) {
		return t.withKeys(ctx, a, "list keys", true, func(r *repo.Repository) (*reply, error) { return keyList(ctx, r, "") })
	})
	return cmd
}

func keyList(ctx context.Context, r *repo.Repository, done string) (*reply, error) {
	list, err := r.Slots(ctx)
	if err != nil {
		return nil, err
	}
	left, err := r.LeftSlots(ctx)
	if err != nil {
		return nil, err
	}
	var notes []string
	if len(left) > 0 {
		notes = append(notes, fmt.Sprintf("%d more lie in the store and open nothing: a change of keys broke off there, or somebody put them back; "+
			"the next change removes them, or a prune", len(left)))
	}
	doc := keysDoc{Keys: list, Left: append([]string{}, left...)}
	return &reply{doc: doc, notes: notes, loud: done == "", text: func(w *show.Printer) error {
		if done != "" {
			return w.Printf("%s\n", done)
		}
		table := show.NewTable("KEY", "KIND", "ADDED", "NOTE")
		for _, k := range list {
			added, note := "at the beginning", k.Note
			if !k.Added.IsZero() {
				added = show.Time(k.Added)
			}
			if k.Own {
				note = strings.TrimSpace(note + " (used now)")
			}
			table.Row(k.ID[:12], k.Kind, added, note)
		}
		return table.Print(w)
	}}, nil
}

func (t *tool) keyAddCommand() *cobra.Command {
	n, note := &newKeyFlags{}, ""
	cmd := &cobra.Command{
		Use: "add --repo REPO [--new-password-file FILE | --new-key-file FILE | --new-identity FILE | --new-recipients FILE]", Short: "Add a key",
		Long: text(`
Add one more way into the repository. Without a flag a passphrase is asked for, or taken from HIKAE_NEW_PASSWORD. With
--new-recipients the owner of the identities need not be here.`),
		Example: example(`
hikae key add --repo /backup/hikae --new-recipients night-shift.txt --note "night shift"`),
		Args: want(),
	}
	a := repoFlags(cmd)
	n.add(cmd, true)
	cmd.Flags().StringVar(&note, "note", "", "`TEXT` that says whose it is; everybody who can read the store can read it")
	cmd.RunE = t.act(func(ctx context.Context, _ []string) (*reply, error) {
		key, err := t.slotKey(ctx, n, a.repo)
		if err != nil {
			return nil, err
		}
		return t.withKeys(ctx, a, "add a key", false, func(r *repo.Repository) (*reply, error) {
			id, err := r.AddSlot(ctx, key, note)
			if err != nil {
				return nil, err
			}
			return keyList(ctx, r, "added key "+id[:12])
		})
	})
	return cmd
}

func (t *tool) slotKey(ctx context.Context, n *newKeyFlags, place string) (repo.SlotKey, error) {
	if n.recipients == "" {
		return t.newKey(ctx, n, place)
	}
	data, err := readSmall(n.recipients, maxIdentities)
	if err != nil {
		return nil, err
	}
	key, err := repo.AgeRecipients(bytes.NewReader(data))
	if err != nil {
		return nil, &outcome.Error{Kind: outcome.KindUsage, Object: n.recipients, Text: "recipients file", Err: err,
			Hint: "The file must hold age recipients: age1…, one a line."}
	}
	return key, nil
}

func (t *tool) keyRemoveCommand() *cobra.Command {
	var note string
	cmd := &cobra.Command{
		Use: "remove --repo REPO KEY", Short: "Take a key away",
		Long: text(`
Take a key away: it opens the repository no more. Not the one that this command opens it with: use the key that stays.

Whoever has kept what the key gave access to can read what was written so far. ` + "`hikae key rotate`" + ` keeps them from what is written
later.`),
		Example: example(`hikae key remove --repo /backup/hikae 4f1d09c2a77e`),
		Args:    want("KEY"),
	}
	a := repoFlags(cmd)
	cmd.Flags().StringVar(&note, "note", "", "`TEXT` for the audit log")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		return t.withKeys(ctx, a, "take a key away", false, func(r *repo.Repository) (*reply, error) {
			id, err := findKey(ctx, r, args[0])
			if err == nil {
				err = r.RemoveSlot(ctx, id, note)
			}
			if err != nil {
				return nil, err
			}
			return keyList(ctx, r, "removed key "+id[:12])
		})
	})
	return cmd
}

// findKey finds a key by its id or the first digits of it.
func findKey(ctx context.Context, r *repo.Repository, digits string) (string, error) {
	list, err := r.Slots(ctx)
	if err != nil {
		return "", err
	}
	var found []string
	for _, k := range list {
		if len(digits) >= 4 && strings.HasPrefix(k.ID, strings.ToLower(digits)) {
			found = append(found, k.ID)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", &outcome.Error{Kind: outcome.KindNotFound, Object: digits, Text: "there is no key " + digits,
			Hint: "`hikae key list --repo REPO` lists them; write at least four digits."}
	}
	return "", &outcome.Error{Kind: outcome.KindAmbiguous, Object: digits, Text: fmt.Sprintf("%d keys begin with %s", len(found), digits),
		Hint: "Write more digits of the id."}
}

func (t *tool) keyChangeCommand() *cobra.Command {
	n, note := &newKeyFlags{}, ""
	cmd := &cobra.Command{
		Use: "change --repo REPO [--new-password-file FILE | --new-key-file FILE | --new-identity FILE]", Short: "Put a new key in the place of the one in use",
		Long: text(`
Put a new passphrase or key in the place of the one that opens the repository for this command. The new one is proven to open it before
the old one goes.`),
		Example: example(`hikae key change --repo /backup/hikae`),
		Args:    want(),
	}
	a := repoFlags(cmd)
	n.add(cmd, false)
	cmd.Flags().StringVar(&note, "note", "", "`TEXT` that says whose it is")
	cmd.RunE = t.act(func(ctx context.Context, _ []string) (*reply, error) {
		return t.withKeys(ctx, a, "change the key", false, func(r *repo.Repository) (*reply, error) {
			secret, err := t.newKey(ctx, n, a.repo)
			if err == nil {
				err = r.ChangeSecret(ctx, secret, note)
			}
			if err != nil {
				return nil, err
			}
			return keyList(ctx, r, "the key is changed")
		})
	})
	return cmd
}

func (t *tool) keyRotateCommand() *cobra.Command {
	var note string
	cmd := &cobra.Command{
		Use: "rotate --repo REPO", Short: "Make a new master key for what is written from here on",
		Long: text(`
Make a new master key. What was written before stays as it is and can be read; what is written from here on cannot be read with what
somebody has kept of an older key. Afterwards the key of this command is the only one: add the others again.

Somebody who has kept an old key and can still write to the store can still add to the repository. Against that, make a new one and
copy the points: ` + "`hikae copy`" + `.`),
		Example: example(`hikae key rotate --repo /backup/hikae --key-file admin.key`),
		Args:    want(),
	}
	a := repoFlags(cmd)
	cmd.Flags().StringVar(&note, "note", "", "`TEXT` for the audit log")
	cmd.RunE = t.act(func(ctx context.Context, _ []string) (*reply, error) {
		secret, err := t.secret(a)
		if err == nil && secret == nil {
			secret, err = t.ask(ctx, a, "Passphrase of "+a.repo)
		}
		if err != nil {
			return nil, err
		}
		r, err := t.openHere(ctx, a, false)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		if err := r.local.RotateMaster(ctx, []repo.Secret{secret}, note); err != nil {
			return nil, about(a.repo, "rotate the master key", err)
		}
		return keyList(ctx, r.local, "new points are written with a new master key; this key is the only one now")
	})
	return cmd
}

func (t *tool) keySheetCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "recovery-sheet --repo REPO [--out FILE]", Short: "Add a key on paper, to print and lock away",
		Long: text(`
Add a key that stands nowhere but on a sheet of paper, for the day on which all others are lost. Print it, lock it away, and remove the
file. To use it, type its eight lines into a file and give that with --key-file: each line has two digits that show a typing mistake.`),
		Example: example(`
hikae key recovery-sheet --repo /backup/hikae --out sheet.txt`),
		Args: want(),
	}
	a := repoFlags(cmd)
	cmd.Flags().StringVar(&out, "out", "", "new `FILE` for the sheet; without it, it is printed on stdout")
	cmd.RunE = t.act(func(ctx context.Context, _ []string) (*reply, error) {
		return t.withKeys(ctx, a, "add a recovery sheet", false, func(r *repo.Repository) (*reply, error) { return t.keySheet(ctx, a, r, out) })
	})
	return cmd
}

// keySheet writes the sheet before its key counts: one that could not be written is no way in.
func (t *tool) keySheet(ctx context.Context, a *access, r *repo.Repository, out string) (*reply, error) {
	key, now := repo.NewKey(), time.Now()
	sheet := fmt.Sprintf(`HIKAE RECOVERY SHEET

  repository   %s
  place        %s
  made         %s

%s
Whoever has this sheet and the repository can read everything in it.

To use it: type the eight lines above into a file, and then
  hikae points --repo REPO --key-file FILE
`, r.ID(), outcome.Clean(a.repo), now.Format("2006-01-02"), repo.RecoverySheet(key))
	if out != "" {
		f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		_, err = f.WriteString(sheet)
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			return nil, errors.Join(err, os.Remove(out))
		}
	}
	id, err := r.AddSlot(ctx, repo.KeyFile(key), "recovery sheet of "+now.Format("2006-01-02"))
	if err != nil && out != "" {
		err = errors.Join(err, os.Remove(out))
	}
	if err != nil {
		return nil, err
	}
	left, err := keyList(ctx, r, "added key "+id[:12]+"; print "+out+", lock it away, and remove the file")
	if out == "" {
		left = &reply{loud: true, text: func(w *show.Printer) error { return w.Verbatim(sheet) },
			notes: []string{"this is the only copy: print it now"}}
	}
	return left, err
}
