package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/service"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/remote"
	"github.com/hikae/hikae/guest/smbchannel"
	"github.com/hikae/hikae/guest/sshchannel"
	"github.com/hikae/hikae/pipe/mover/trust"
)

func (t *tool) proxyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "proxy",
		Short: "Machines that bring components into guests for others",
		Long: text(`
A guest interaction proxy stands where guests can be reached and the backup server cannot reach them, or takes a part of
the work. It brings components into guests, carries what is said to them, and removes them; what it needs to log in comes
with each task and is kept nowhere. It connects to nobody by itself.

The backup server is enrolled at the proxy once, by a token. From then on commands that work in guests take --via-proxy.
Where the proxy fails, the backup server does the work.`),
		Example: example(`
# on the proxy
hikae proxy token backup-server --out token
hikae proxy serve --listen :7421

# on the backup server
hikae mover enrol proxy1.example.org:7421 --token-file token
hikae guest probe --via-proxy mover://proxy1.example.org:7421/backup-server ssh://root@web1`),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(t.proxyServeCommand(), t.proxyTokenCommand(), t.proxyStatusCommand(), t.proxyChooseCommand())
	return cmd
}

func (t *tool) proxyTokenCommand() *cobra.Command {
	var out string
	var valid time.Duration
	cmd := &cobra.Command{
		Use:   "token NAME",
		Short: "Make a token by which one backup server can enrol",
		Long: text(`
Print a token. The first machine that brings it (hikae mover enrol) may have this proxy work in guests, and nothing else.
hikae mover list --proxy shows who may, hikae mover revoke --proxy NAME takes it back.`),
		Args: want("NAME"),
	}
	cmd.Flags().DurationVar(&valid, "valid", trust.DefaultTokenLife, "how long the token is good for, at most 720h")
	cmd.Flags().StringVar(&out, "out", "", "write the token to a new `FILE` that this user alone may read")
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) {
		return t.moverToken(ctx, &served{proxy: true}, args[0], string(trust.Guest), out, valid)
	})
	return cmd
}

// proxyFlags are how a proxy serves.
type proxyFlags struct {
	listen      string
	deployments int
	log         string
}

func (t *tool) proxyServeCommand() *cobra.Command {
	f := &proxyFlags{}
	cmd := &cobra.Command{
		Use:   "serve --listen HOST:PORT",
		Short: "Bring components into guests for enrolled backup servers",
		Long: text(`
Serve enrolled backup servers (hikae proxy token) until SIGTERM. Nobody else gets an answer. Whoever may use a proxy can
have it connect to any address with credentials of theirs: give it a network of its own.

When it is ready it prints one JSON line with its address and the pin of its key. On SIGTERM it removes what it has
deployed, and ends.`),
		Example: example(`
hikae proxy serve --listen :7421`),
		Args: want(),
	}
	cmd.Flags().StringVar(&f.listen, "listen", "", "`HOST:PORT` to listen at, with port 0 for a free one (required)")
	cmd.Flags().IntVar(&f.deployments, "deployments", 16, "work in `N` guests at once; others wait for their turn")
	cmd.Flags().StringVar(&f.log, "log", "text", "write logs to stderr as `FORMAT`: text or json")
	completeWith(cmd, "log", "text", "json")
	if err := cmd.MarkFlagRequired("listen"); err != nil {
		panic(err) // the flag is defined just above
	}
	cmd.RunE = t.act(func(ctx context.Context, _ []string) (*reply, error) {
		return nil, service.Run(ctx, "hikae-proxy", func(ctx context.Context) error { return t.proxyServe(ctx, f) })
	})
	return cmd
}

func (t *tool) proxyServe(ctx context.Context, f *proxyFlags) (err error) {
	if f.deployments < 1 || f.deployments > 1024 {
		return outcome.Usage("", "--deployments is from 1 to 1024")
	}
	log, err := t.logger(f.log)
	if err != nil {
		return err
	}
	programs, err := t.programs()
	if err != nil {
		return err
	}
	what := &served{proxy: true}
	id, book, err := what.book(ctx, t)
	if err != nil {
		return err
	}
	dir, err := what.dir(ctx, t)
	if err != nil {
		return err
	}
	journal, err := hikae.OpenFileJournal(filepath.Join(dir, "journal"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, journal.Close()) }()
	server, err := remote.NewServer(&remote.ServerOptions{Ways: t.proxyWays(), Programs: programs, Journal: journal,
		Deployments: f.deployments, Log: log, Version: thisVersion().Version})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", f.listen)
	if err != nil {
		return &outcome.Error{Object: f.listen, Text: "--listen", Err: err}
	}
	if err := json.NewEncoder(t.stdout).Encode(map[string]string{"listening": l.Addr().String(), "key": id.Pin().String()}); err != nil {
		return errors.Join(err, l.Close())
	}
	log.Info("this machine is a guest interaction proxy", "address", l.Addr().String(), "version", thisVersion().Version)
	if err := markServed(dir); err != nil {
		log.Warn("the book could not be marked as used", "error", err)
	}
	service.Ready()
	return remote.Serve(ctx, l, server, &remote.ServeOptions{Identity: id, Book: book, Log: log, Version: thisVersion().Version})
}

// waySettings are what a proxy is told of a way, beside the credential.
type waySettings struct {
	Address      string   `json:"address"`
	Fingerprints []string `json:"fingerprints,omitempty"` // of host keys. None: those that the proxy itself knows
}

// proxyWays are the channels that this program's proxies have. Guests with no network are their hosts' business.
func (t *tool) proxyWays() remote.Ways {
	read := func(raw json.RawMessage) (s waySettings, err error) {
		if err = json.Unmarshal(raw, &s); err == nil && s.Address == "" {
			err = errors.New("no address")
		}
		return s, err
	}
	return remote.Ways{
		guest.SSH: func(raw json.RawMessage, c guest.Credential) (guest.Way, error) {
			s, err := read(raw)
			if err != nil {
				return nil, err
			}
			opts, err := t.sshOptions(&waysFlags{fingerprints: s.Fingerprints})
			if err != nil {
				return nil, err
			}
			return sshchannel.New(s.Address, c, opts), nil
		},
		guest.SMB: func(raw json.RawMessage, c guest.Credential) (guest.Way, error) {
			s, err := read(raw)
			if err != nil {
				return nil, err
			}
			return smbchannel.New(s.Address, c, nil), nil
		},
	}
}

// proxyClient is the proxy that a URL names.
func (t *tool) proxyClient(url string) (*remote.Client, error) {
	p, err := parseFar(url)
	if err != nil {
		return nil, err
	}
	e, dir, err := t.enrolled(p)
	if err != nil {
		return nil, err
	}
	pin, err := trust.ParsePin(e.Server)
	if err != nil {
		return nil, err
	}
	id, err := trust.LoadIdentity(dir)
	if err != nil {
		return nil, err
	}
	return remote.NewClient(&remote.ClientOptions{Name: "proxy " + p.address, Address: p.address, ServerPin: pin, Identity: id,
		Reconnecting: func(name string, attempt int, why error) {
			t.tell("the link to the proxy broke in the work in %s: attempt %d: %v", name, attempt, why)
		}})
}

func (t *tool) proxyStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status mover://HOST[:PORT]/NAME",
		Short: "See how a proxy is",
		Args:  want("PROXY"),
		RunE: t.act(func(ctx context.Context, args []string) (*reply, error) {
			c, err := t.proxyClient(args[0])
			if err != nil {
				return nil, err
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(ctx, careTime)
			defer cancel()
			s, err := c.Status(ctx)
			if err != nil {
				return nil, &outcome.Error{Object: args[0], Err: err, Hint: "Is the proxy running there? On its machine: hikae proxy serve."}
			}
			return &reply{doc: s, loud: true, text: func(w *show.Printer) error {
				return w.Printf("%s %s on %s %s: %d tasks, %d of them wait; works in %d guests at once; channels %v; %d leftovers of earlier processes\n",
					outcome.Clean(args[0]), outcome.Clean(s.Product), outcome.Clean(s.System.OS), s.Arch, s.Tasks, s.Waiting, s.Limit, s.Kinds, len(s.Leftovers))
			}}, nil
		}),
	}
}
