package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore/lockd/lockline"
)

// initFlags are what a repository is created with.
type initFlags struct {
	access
	blockSize    string
	parity       string
	compression  string
	noEncryption bool
	from         access
}

func (t *tool) initCommand() *cobra.Command {
	f := &initFlags{access: access{variable: "HIKAE_PASSWORD"}, from: access{prefix: "from-", variable: "HIKAE_FROM_PASSWORD"}}
	cmd := &cobra.Command{
		Use:   "init REPO",
		Short: "Make a repository",
		Long: text(`
Make a repository in REPO: a folder that is empty or does not exist yet.

Block size, parity and the id key stay as they are chosen here. The defaults are good for disks of any size; larger
blocks need less memory and store more for each small change.`),
		Example: example(`
# asks for a passphrase twice
hikae init /backup/hikae

# for scripts
HIKAE_PASSWORD=… hikae init --json /backup/hikae

# a key file instead of a passphrase: keep a copy of it elsewhere
head -c 32 /dev/urandom > /root/hikae.key
hikae init --key-file /root/hikae.key /backup/hikae

# a second repository whose blocks match those of the first
hikae init --copy-parameters-from /backup/hikae /offsite/hikae`),
		Args: want("REPO"),
		RunE: t.act(func(ctx context.Context, args []string) (*reply, error) {
			f.repo = args[0]
			return t.init(ctx, f)
		}),
	}
	cmd.Flags().StringVar(&f.blockSize, "block-size", "256KiB", "`SIZE` of a block, a power of two from 64KiB to 4MiB")
	cmd.Flags().StringVar(&f.parity, "parity", "3%", "`SHARE` of parity that repairs damage, up to 50%")
	cmd.Flags().StringVar(&f.compression, "compression", "default", "`LEVEL` that backups use: none, fast, default, better, max")
	cmd.Flags().BoolVar(&f.noEncryption, "no-encryption", false, "do not encrypt: whoever sees the folder sees the disks")
	cmd.Flags().StringVar(&f.from.repo, "copy-parameters-from", "", "take block size and id key of another `REPO`")
	f.secretFlags(cmd)
	f.from.secretFlags(cmd)
	completeWith(cmd, "compression", levels...)
	cmd.MarkFlagsMutuallyExclusive("copy-parameters-from", "block-size")
	for _, flag := range []string{"password-file", "key-file", "identity"} {
		cmd.MarkFlagsMutuallyExclusive("no-encryption", flag)
	}
	return cmd
}

var levels = []string{"none", "fast", "default", "better", "max"}

func (t *tool) init(ctx context.Context, f *initFlags) (*reply, error) {
	opts, err := f.options()
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(f.repo, moverScheme) {
		return t.initFar(ctx, f, opts)
	}
	if err := checkFolder(f.repo); err != nil {
		return nil, err
	}
	isNew := false
	if !isURL(f.repo) {
		if isNew, err = checkEmpty(f.repo); err != nil {
			return nil, err
		}
	}
	secret, err := t.newSecret(ctx, f)
	if err != nil {
		return nil, err
	}
	if f.from.repo != "" {
		from, err := t.openHere(ctx, &f.from, true)
		if err != nil {
			return nil, err
		}
		defer from.Close()
		opts.CopyFrom = from.local
	}
	r, err := t.create(ctx, f.repo, secret, opts)
	if err != nil {
		if isNew {
			os.Remove(f.repo) // only where nothing is in it
		}
		return nil, about(f.repo, "make repository "+f.repo, err)
	}
	left := made(f.repo, r.local)
	return left, r.Close()
}

func (t *tool) create(ctx context.Context, dir string, secret repo.Secret, opts *repo.InitOptions) (*opened, error) {
	open, err := t.openOptions(false, new(said))
	if err != nil {
		return nil, err
	}
	st, err := t.initStore(ctx, dir)
	if err != nil {
		return nil, err
	}
	r, err := repo.Init(ctx, st, secret, opts, open)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return &opened{place: r, local: r, store: st, said: new(said)}, nil
}

// initDoc is what init prints for scripts.
type initDoc struct {
	ID          string           `json:"id"`
	Repository  string           `json:"repository"`
	BlockSize   int              `json:"blockSize"`
	Parity      float64          `json:"parity"` // share, 0 … 0.5
	Compression pipe.Compression `json:"compression"`
	Encrypted   bool             `json:"encrypted"`
}

func made(dir string, r *repo.Repository) *reply {
	p := r.Params()
	doc := initDoc{ID: r.ID(), Repository: dir, BlockSize: p.BlockSize, Parity: float64(p.ParityPermille) / 1000,
		Compression: p.Compression, Encrypted: p.Encrypted}
	return &reply{doc: doc, text: func(w *show.Printer) error {
		locked := "yes: whoever loses the secret loses the data"
		if !p.Encrypted {
			locked = "no: whoever sees the folder sees the disks"
		}
		if err := w.Facts("repository", dir, "id", doc.ID, "blocks", show.Size(int64(p.BlockSize)), "parity",
			fmt.Sprintf("%.1f %%", doc.Parity*100), "compression", string(p.Compression), "encrypted", locked); err != nil {
			return err
		}
		return w.Printf("\nNow back something up:\n  hikae backup --repo %s --name VM DISKFILE\n", outcome.Clean(dir))
	}}
}

// checkEmpty refuses a folder with anything of somebody's in it, and says whether there is none yet.
func checkEmpty(dir string) (isNew bool, err error) {
	f, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.IsDir() {
		return false, errors.Join(err, &outcome.Error{Kind: outcome.KindExists, Object: dir, Text: dir + " is a file",
			Hint: "Name an empty folder, or one that does not exist yet."})
	}
	names, err := f.Readdirnames(3)
	if err != nil && err != io.EOF {
		return false, err
	}
	// The helper that locks files answers there; the other is a new file system's own.
	names = slices.DeleteFunc(names, func(n string) bool { return n == lockline.Socket || n == "lost+found" })
	if len(names) == 0 {
		return false, nil
	}
	return false, &outcome.Error{Kind: outcome.KindExists, Object: dir, Text: fmt.Sprintf("the folder %s is not empty", dir),
		Hint: "Name an empty folder, or one that does not exist yet. If this is a repository already, use it."}
}

// newSecret is the secret of a new repository: given, or asked for twice.
func (t *tool) newSecret(ctx context.Context, f *initFlags) (repo.Secret, error) {
	if f.noEncryption {
		return nil, nil
	}
	secret, err := t.secret(&f.access)
	if secret != nil || err != nil {
		return secret, err
	}
	if !isTerminal(t.stdin) {
		return nil, &outcome.Error{Kind: outcome.KindUsage, Object: f.repo, Text: "a repository is encrypted, and no secret was given",
			Hint: "Set HIKAE_PASSWORD, or give --password-file, --key-file or --identity; --no-encryption does without."}
	}
	first, err := t.askText(ctx, &f.access, "New passphrase for "+f.repo)
	if err != nil {
		return nil, err
	}
	second, err := t.askText(ctx, &f.access, "The same again")
	if err != nil {
		return nil, err
	}
	if first != second {
		return nil, outcome.Usage("Start again.", "the two passphrases differ")
	}
	return repo.Passphrase(first), nil
}

func (f *initFlags) options() (*repo.InitOptions, error) {
	opts := &repo.InitOptions{NoEncryption: f.noEncryption}
	var err error
	if opts.Compression, err = parseCompression(f.compression); err != nil {
		return nil, err
	}
	if opts.ParityPermille, err = parseParity(f.parity); err != nil {
		return nil, err
	}
	if f.from.repo != "" {
		return opts, nil
	}
	size, err := parseSize(f.blockSize)
	if err != nil || size < 64<<10 || size > 4<<20 || size&(size-1) != 0 {
		return nil, outcome.Usage("For instance --block-size 256KiB.",
			"--block-size %s is not a power of two from 64KiB to 4MiB", f.blockSize)
	}
	opts.BlockSize = int(size)
	return opts, nil
}

func parseCompression(s string) (pipe.Compression, error) {
	c, err := pipe.ParseCompression(s)
	if err != nil {
		return "", &outcome.Error{Kind: outcome.KindUsage, Text: "--compression", Err: err}
	}
	return c, nil
}

// parseParity reads a percentage into thousandths.
func parseParity(s string) (int, error) {
	v, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	permille := int(math.Round(v * 10))
	if err != nil || !strings.HasSuffix(s, "%") || !(v >= 0.1 && v <= 50) {
		return 0, outcome.Usage("For instance --parity 3%.", "--parity %s is not a share from 0.1%% to 50%%", s)
	}
	return permille, nil
}
