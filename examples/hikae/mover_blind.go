package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/guard"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/repo/store/moverstore"
)

// blindMode is the mode of a mover that cannot read what it keeps.
const blindMode = "blind"

// sourceMode is the mode of a mover that serves disk images.
const sourceMode = "source"

// proxyMode is the mode of a guest interaction proxy.
const proxyMode = "proxy"

// writerKeyFile is the key of a machine that may add points to a blind target, in the folder of its enrolment.
const (
	writerKeyFile = "writer.key"
	maxWriterKey  = 64 << 10
)

// serveBlind keeps objects for peers. A folder that is empty yet becomes a store: a peer with the role full makes the
// repository in it.
func (t *tool) serveBlind(ctx context.Context, f *moverServeFlags, r *running, dir string) error {
	if err := checkFolder(f.repo); err != nil {
		return err
	}
	st, err := t.openStore(ctx, f.repo)
	if err != nil && !isURL(f.repo) {
		if _, taken := checkEmpty(f.repo); taken == nil {
			st, err = t.initStore(ctx, f.repo)
		}
	}
	if err != nil {
		return about(f.repo, "open the store "+f.repo, err)
	}
	r.later(st.Close)
	g, err := guard.New(st, &guard.Options{Dir: dir, Log: r.opts.Log})
	if err != nil {
		return about(f.repo, "guard the store "+f.repo, err)
	}
	r.opts.Blind = moverstore.Blind(func(_ context.Context, peer trust.Peer) (store.Store, error) {
		return g.For(peer.Name, peer.Role == trust.Full), nil
	})
	r.opts.Free = freeOf(st)
	return nil
}

// blindPlace is a repository in a store behind a blind mover. Its keys are here.
type blindPlace struct {
	*repo.Repository
	client *mover.Client
	cache  store.Store // of a machine that may only append; nil: it may read
}

func (p *blindPlace) Close() error {
	err := p.Repository.Close()
	if p.cache != nil {
		err = errors.Join(err, p.cache.Close())
	}
	return errors.Join(err, p.client.Close())
}

// openBlind opens a repository behind a blind mover: with its secret where this machine may read, with its writer's key
// where it may only append.
func (t *tool) openBlind(ctx context.Context, a *access, c *mover.Client, e enrolment, dir string) (*opened, error) {
	heard := new(said)
	opts, err := t.openOptions(false, heard)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	p := &blindPlace{client: c}
	if trust.Role(e.Role) == trust.Append {
		p.Repository, p.cache, err = t.openToWrite(ctx, c, e, dir, opts)
	} else {
		p.Repository, err = t.openToRead(ctx, a, c, opts)
	}
	if err != nil {
		return nil, errors.Join(about(a.repo, "open repository "+a.repo, err), c.Close())
	}
	return &opened{place: p, local: p.Repository, said: heard,
		target: fmt.Sprintf("mover %s as %s, blind: it cannot read what it keeps", e.Address, e.Name), as: e, writes: writerVMs(dir)}, nil
}

func (t *tool) openToRead(ctx context.Context, a *access, c *mover.Client, opts *repo.OpenOptions) (*repo.Repository, error) {
	secret, err := t.secret(a)
	if err != nil {
		return nil, err
	}
	r, err := repo.Open(ctx, moverstore.Over(c), secret, opts)
	if secret == nil && errors.Is(err, repo.ErrSecret) {
		if secret, err = t.ask(ctx, a, "Passphrase of "+a.repo); err != nil {
			return nil, err
		}
		r, err = repo.Open(ctx, moverstore.Over(c), secret, opts)
	}
	return r, err
}

func (t *tool) openToWrite(ctx context.Context, c *mover.Client, e enrolment, dir string, opts *repo.OpenOptions) (*repo.Repository, store.Store, error) {
	data, err := readSmall(filepath.Join(dir, writerKeyFile), maxWriterKey)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, &outcome.Error{Kind: outcome.KindUsage, Text: "this machine has no writer's key for the blind target",
			Hint: fmt.Sprintf("Who has the repository's secret makes one: hikae key writer --vm VM. Then here: hikae mover enrol %s --writer-key FILE.", e.Address)}
	}
	if err != nil {
		return nil, nil, err
	}
	key, err := repo.ParseWriterKey(bytes.TrimSpace(data))
	if err != nil {
		return nil, nil, err
	}
	public := key.Public()
	folder := filepath.Join(opts.CacheDir, "writers", key.Repository(), fmt.Sprintf("%x", public[:8]))
	cache, err := dirstore.Open(folder)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(folder), 0o700); err == nil {
			cache, err = dirstore.Init(folder)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	r, err := repo.OpenWriter(ctx, moverstore.Over(c), cache, key, opts)
	if err != nil {
		return nil, nil, errors.Join(err, cache.Close())
	}
	return r, cache, nil
}

// initFar makes a repository in the store behind a blind mover: it is encrypted here, and the mover never sees a key.
func (t *tool) initFar(ctx context.Context, f *initFlags, opts *repo.InitOptions) (*reply, error) {
	c, e, _, err := t.dial(ctx, f.repo, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if e.Mode != blindMode || trust.Role(e.Role) != trust.Full {
		return nil, &outcome.Error{Kind: outcome.KindUsage, Object: f.repo, Text: "a repository is made through a mover only at a blind target, by a machine with the role full",
			Hint: "Make it on the mover's own machine: hikae init FOLDER."}
	}
	secret, err := t.newSecret(ctx, f)
	if err != nil {
		return nil, err
	}
	open, err := t.openOptions(false, new(said))
	if err != nil {
		return nil, err
	}
	r, err := repo.Init(ctx, moverstore.Over(c), secret, opts, open)
	if err != nil {
		return nil, about(f.repo, "make repository "+f.repo, err)
	}
	left := made(f.repo, r)
	return left, r.Close()
}

func (t *tool) keyWriterCommand() *cobra.Command {
	var vms []string
	var out string
	cmd := &cobra.Command{
		Use:   "writer --repo REPO --vm VM… --out FILE",
		Short: "Make a key with which a machine can add points of some VMs, and read nothing",
		Long: text(`
Make a key for a machine that backs up to a blind target: with it points of the named VMs can be added to the repository.
It opens nothing that others wrote, and no content of what its owner wrote. The file is a secret: bring it to that machine
and give it to ` + "`hikae mover enrol --writer-key`" + `.`),
		Example: example(`
hikae key writer --repo mover://backup.example.org/owner --vm web1 --vm db1 --out site-a.key`),
		Args: want(),
	}
	a := repoFlags(cmd)
	cmd.Flags().StringArrayVar(&vms, "vm", nil, "`VM` whose points the key may add; may repeat (required)")
	cmd.Flags().StringVar(&out, "out", "", "new `FILE` for the key (required)")
	for _, flag := range []string{"vm", "out"} {
		if err := cmd.MarkFlagRequired(flag); err != nil {
			panic(err) // the flags are defined just above
		}
	}
	cmd.RunE = t.act(func(ctx context.Context, _ []string) (*reply, error) { return t.keyWriter(ctx, a, vms, out) })
	return cmd
}

func (t *tool) keyWriter(ctx context.Context, a *access, vms []string, out string) (_ *reply, err error) {
	r, err := t.open(ctx, a, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if r.local == nil {
		return nil, checkFolder(a.repo)
	}
	if _, err := os.Lstat(out); err == nil { // looked at before there is a key that would have no place
		return nil, alreadyThere(out)
	}
	slices.Sort(vms)
	err = createWhole(out, func() ([]byte, error) {
		key, err := r.local.EnrolWriter(ctx, slices.Compact(vms))
		if err != nil {
			return nil, err
		}
		data, err := key.MarshalText()
		return append(data, '\n'), err
	})
	if err != nil {
		return nil, about(a.repo, "make a writer's key", err)
	}
	return &reply{doc: map[string]any{"file": out, "vms": vms}, text: func(w *show.Printer) error {
		return w.Printf("a key for %s is in %s\n", outcome.Clean(strings.Join(vms, ", ")), outcome.Clean(out))
	}}, nil
}

// createWhole makes a file for this user alone that was not there: it has its name only once it is whole and durable. A
// place for it is made before the data is, which may cost something.
func createWhole(path string, make func() ([]byte, error)) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".new-") // mode 0600
	if err != nil {
		return err
	}
	data, err := make()
	if err == nil {
		_, err = f.Write(data)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = linkNew(f.Name(), path)
	}
	if err = errors.Join(err, os.Remove(f.Name())); err != nil {
		return err
	}
	return trust.SyncFolder(dir)
}

// linkNew gives a file a second name that is not taken. FAT and some shares have no second names: there the file is
// written once more, with a name that is its own from the start.
func linkNew(from, to string) error {
	err := os.Link(from, to)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	data, err := readSmall(from, maxWriterKey)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(to))
	}
	return nil
}

// keepWriterKey puts a writer's key into the folder of an enrolment.
func keepWriterKey(dir, file string) error {
	data, err := readSmall(file, maxWriterKey)
	if err != nil {
		return err
	}
	if _, err := repo.ParseWriterKey(bytes.TrimSpace(data)); err != nil {
		return &outcome.Error{Kind: outcome.KindUsage, Object: file, Text: file, Err: err, Hint: "Give the file that `hikae key writer` made."}
	}
	return trust.WriteFile(dir, writerKeyFile, data)
}
