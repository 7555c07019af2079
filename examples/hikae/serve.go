package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/nbd"
)

func (t *tool) serveCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "serve", Short: "Serve restore points to other programs", Args: want()}
	cmd.RunE = func(*cobra.Command, []string) error { return errors.New("what to serve is missing: nbd or nfs") }
	cmd.AddCommand(t.serveNBDCommand(), t.serveNFSCommand())
	return cmd
}

// serveFlags are what is served, and to whom.
type serveFlags struct {
	*access
	disk     string
	listen   string
	overlay  string
	certs    string
	insecure bool
}

func (t *tool) serveNBDCommand() *cobra.Command {
	f := &serveFlags{}
	cmd := &cobra.Command{
		Use:   "nbd --repo REPO POINT --listen unix:PATH|HOST:PORT",
		Short: "Serve the disks of a restore point over NBD",
		Long: text(`
Serve the disks of a restore point as network block devices, for qemu-img, qemu, nbdcopy, nbd-client and the like. Each
disk is an export under its key; with --disk, or where there is only one, it also is the default export.

Disks are read-only. With --writable-overlay one disk takes writes: they go into FILE, which is made where it does not
exist, and the restore point stays as it is. FILE outlives the command: served again with the same FILE, the disk holds
what was flushed. A virtual machine can start from it.

NBD itself knows no users, so every listener needs another way to tell who comes:

  unix:PATH  a socket that only the user who runs this command can open
  HOST:PORT  TLS, with --tls-certificates FOLDER, which holds ca-cert.pem, server-cert.pem and server-key.pem; clients
             must show a certificate signed by that authority
  HOST:PORT  in the clear with --insecure-loopback, for an address of this machine alone: every user of this machine can
             then read the disks, and write to the overlay

The command stays until it gets SIGTERM or Ctrl-C, and then ends with 0. When it is ready it prints one line of JSON:

  {"listening": ADDRESS, "point": ID, "exports": [{"name", "size", "uri"}]}`),
		Example: example(`
hikae serve nbd --repo /backup/hikae web1@latest --listen unix:/run/user/1000/web1.sock
qemu-img info 'nbd+unix:///disk0?socket=/run/user/1000/web1.sock'
hikae serve nbd --repo /backup/hikae web1@latest --listen unix:/run/web1.sock --writable-overlay /var/tmp/web1.overlay
hikae serve nbd --repo /backup/hikae web1@latest --listen 0.0.0.0:10809 --tls-certificates /etc/pki/hikae`),
		Args: want("POINT"),
	}
	f.access = repoFlags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.disk, "disk", "", "only the disk with this `KEY`")
	flags.StringVar(&f.listen, "listen", "", "`ADDRESS`: unix:PATH or HOST:PORT, with port 0 for a free one (required)")
	flags.StringVar(&f.overlay, "writable-overlay", "", "take writes into this `FILE`")
	flags.StringVar(&f.certs, "tls-certificates", "", "`FOLDER` with ca-cert.pem, server-cert.pem and server-key.pem")
	flags.BoolVar(&f.insecure, "insecure-loopback", false, "listen in the clear on a loopback address")
	if err := cmd.MarkFlagRequired("listen"); err != nil {
		panic(err) // the flag is defined just above
	}
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return nil, t.serveNBD(ctx, f, args[0]) })
	return cmd
}

func (t *tool) serveNBD(ctx context.Context, f *serveFlags, spec string) (err error) {
	opts, err := f.options(t)
	if err != nil {
		return err
	}
	s, err := t.openServed(ctx, f, spec)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	server, err := nbd.NewServer(s.exports, opts)
	if err != nil {
		return err
	}
	l, err := nbd.Listen(ctx, f.listen)
	if err != nil {
		return &outcome.Error{Object: f.listen, Err: err}
	}
	if err := t.ready(l, f, s.point, s.exports); err != nil {
		return errors.Join(err, l.Close())
	}
	return server.Serve(ctx, l)
}

// servedPoint is a point whose disks are open.
type servedPoint struct {
	repo    *opened
	point   pipe.PointInfo
	exports []nbd.Export
	images  func() error
}

// openServed opens the disks that are meant. A lease keeps the point for as long as it is served.
func (t *tool) openServed(ctx context.Context, f *serveFlags, spec string) (*servedPoint, error) {
	r, err := t.open(ctx, f.access, false)
	if err != nil {
		return nil, err
	}
	s := &servedPoint{repo: r, images: func() error { return nil }}
	if err := s.find(ctx, f, spec); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *servedPoint) find(ctx context.Context, f *serveFlags, spec string) (err error) {
	if err := s.repo.readable(); err != nil {
		return err
	}
	if s.point, err = findPoint(ctx, s.repo, f.repo, spec); err != nil {
		return err
	}
	keys, err := f.choose(s.point)
	if err != nil {
		return err
	}
	s.exports, s.images, err = f.exports(ctx, s.repo, s.point, keys)
	return err
}

func (s *servedPoint) Close() error { return errors.Join(s.images(), s.repo.Close()) }

// options are the server's, after the rule that every listener knows who comes.
func (f *serveFlags) options(t *tool) (*nbd.ServerOptions, error) {
	opts := &nbd.ServerOptions{Ended: func(client net.Addr, err error) {
		if err != nil && !errors.Is(err, context.Canceled) {
			t.tell("client %v: %v", client, err)
		}
	}}
	if f.certs != "" {
		config, err := nbd.ServerTLS(f.certs)
		if err != nil {
			return nil, &outcome.Error{Object: f.certs, Text: "certificates", Err: err}
		}
		opts.TLS = config
		return opts, nil
	}
	if strings.HasPrefix(f.listen, "unix:") {
		return opts, nil
	}
	host, _, err := net.SplitHostPort(f.listen)
	if err != nil {
		return nil, outcome.Usage("Write unix:PATH or HOST:PORT.", "--listen %s: %v", f.listen, err)
	}
	if ip := net.ParseIP(host); f.insecure && (host == "localhost" || ip != nil && ip.IsLoopback()) {
		return opts, nil
	}
	return nil, outcome.Usage("Listen at unix:PATH, or give --tls-certificates; for 127.0.0.1 there is --insecure-loopback.",
		"--listen %s would let anybody in", f.listen)
}

// choose tells which disks are served.
func (f *serveFlags) choose(p pipe.PointInfo) (keys []string, err error) {
	for _, d := range p.Disks {
		if f.disk == "" || d.Key == f.disk {
			keys = append(keys, d.Key)
		}
	}
	switch {
	case len(keys) == 0 && f.disk != "":
		return nil, &outcome.Error{Kind: outcome.KindNotFound, Object: f.disk, Text: fmt.Sprintf("the point has no disk %q", f.disk)}
	case len(keys) == 0:
		return nil, &outcome.Error{Kind: outcome.KindNotFound, Object: p.ID, Text: "the point has no disks"}
	case f.overlay != "" && len(keys) > 1:
		return nil, outcome.Usage("Choose one with --disk: "+strings.Join(keys, ", ")+".", "an overlay is for one disk, the point has %d", len(keys))
	}
	return keys, nil
}

// exports opens the disks. closeAll is to be called in any case.
func (f *serveFlags) exports(ctx context.Context, r *opened, p pipe.PointInfo, keys []string) (list []nbd.Export, closeAll func() error, err error) {
	var closers []func() error
	closeAll = func() (err error) {
		for i := len(closers) - 1; i >= 0; i-- {
			err = errors.Join(err, closers[i]())
		}
		return err
	}
	for _, key := range keys {
		disk, err := r.Open(context.WithoutCancel(ctx), p.ID, key) // SIGTERM ends ctx; the lease is ended after that
		if err != nil {
			return nil, closeAll, about(f.repo, "open disk "+key, err)
		}
		img := nbd.Ahead(disk, nil)
		closers = append(closers, img.Close)
		if f.overlay != "" {
			overlay, err := nbd.OpenOverlay(f.overlay, img, &nbd.OverlayOptions{Identity: p.ID + "/" + key})
			if err != nil {
				return nil, closeAll, &outcome.Error{Object: f.overlay, Err: err, Hint: overlayHint(err)}
			}
			closers = append(closers, overlay.Close)
			img = overlay
		}
		list = append(list, nbd.Export{Name: key, Description: fmt.Sprintf("disk %s of %s, point %s", key, p.VM, p.ID), Image: img, DroppedIsZero: true})
	}
	return list, closeAll, nil
}

func overlayHint(err error) string {
	if errors.Is(err, nbd.ErrOtherBase) || errors.Is(err, nbd.ErrNotOverlay) {
		return "Choose a file that does not exist, or the one that this point was served with before."
	}
	return ""
}

// servedDoc is the line that says that a server is ready.
type servedDoc struct {
	Listening string         `json:"listening"`
	Point     string         `json:"point"`
	Exports   []servedExport `json:"exports"`
}

type servedExport struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	URI  string `json:"uri"`
}

func (t *tool) ready(l net.Listener, f *serveFlags, p pipe.PointInfo, exports []nbd.Export) error {
	doc := servedDoc{Listening: l.Addr().String(), Point: p.ID}
	a := nbd.Address{Network: l.Addr().Network(), Host: l.Addr().String(), TLS: f.certs != ""}
	if a.Network == "unix" {
		path, err := filepath.Abs(a.Host) // who reads the line may be in another folder
		if err != nil {
			return err
		}
		a.Host, doc.Listening = path, "unix:"+path
	}
	for _, e := range exports {
		a.Export = e.Name
		doc.Exports = append(doc.Exports, servedExport{Name: e.Name, Size: e.Image.Size(), URI: a.String()})
	}
	line, err := json.Marshal(doc)
	if err == nil {
		_, err = t.stdout.Write(append(line, '\n'))
	}
	return err
}
