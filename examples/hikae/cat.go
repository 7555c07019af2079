package main

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
)

func (t *tool) catCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cat --repo REPO POINT PATH…",
		Short: "Print files in a restore point",
		Long: text(`
Write the content of files of the machine that is in a restore point to stdout, one after the other, and nothing else.
` + guestWords),
		Example: example(`
hikae cat --repo /backup/hikae web1@latest /etc/passwd
hikae cat --repo /backup/hikae web1@latest /var/backups/db.sql.gz | zcat | psql`),
		Args: want("POINT", "PATH…"),
	}
	f := guestFlagsOf(cmd)
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		if t.json {
			return nil, outcome.Usage("Without --json it is the content that is printed.", "cat has no JSON form")
		}
		return nil, t.cat(ctx, f, args[0], args[1:])
	})
	return cmd
}

// catBuffer is how much is read at once: several blocks of the repository.
const catBuffer = 4 << 20

func (t *tool) cat(ctx context.Context, f *guestFlags, spec string, names []string) (err error) {
	g, err := t.openGuest(ctx, f, spec)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	tree, err := g.rooted()
	if err != nil {
		return err
	}
	buf := make([]byte, catBuffer)
	for _, given := range names {
		name, err := inTree(given)
		if err != nil {
			return err
		}
		file, err := tree.Open(name)
		if err != nil {
			return aboutFile(given, err)
		}
		info, err := file.Stat()
		if err == nil && !info.Mode().IsRegular() {
			err = errors.New("it is a " + typeWord(info.Mode()) + ", not a file")
		}
		if err == nil {
			_, err = io.CopyBuffer(struct{ io.Writer }{t.stdout}, struct{ io.Reader }{file}, buf)
		}
		if err = errors.Join(err, file.Close()); err != nil {
			if of, ok := errors.AsType[*fs.PathError](err); ok && of.Op == "write" {
				return err
			}
			return aboutFile(given, err)
		}
	}
	return nil
}
