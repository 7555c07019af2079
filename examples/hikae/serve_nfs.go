package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/nbd"
	"github.com/hikae/hikae/vmware"
	"github.com/hikae/hikae/vmware/nfsserve"
)

// nfsFlags are what is served to ESXi, and to whom.
type nfsFlags struct {
	serveFlags
	folder  string
	clients []string
	async   bool
	portmap string
}

func (t *tool) serveNFSCommand() *cobra.Command {
	f := &nfsFlags{}
	cmd := &cobra.Command{
		Use:   "nfs --repo REPO POINT --folder FOLDER --client ADDRESS",
		Short: "Serve the disks of a restore point to an ESXi host, as a datastore",
		Long: text(`
Serve the disks of a restore point as VMDK files over NFS version 3, so that an ESXi host can start a VM from it without
copying it first. What the host writes goes into FOLDER, and the restore point stays as it is. FOLDER outlives the
command: served again with the same FOLDER, the VM finds what it had written.

A host mounts what the line on stdout says, and finds there NAME.vmdk for each disk, and the VM's recorded NAME.vmx. It asks
for the server at port 111 (UDP), and wants it at the port that is answered there: both ports need root, and no other NFS
server or port mapper on this machine. --port-mapper= (empty) leaves port 111 alone.

NFS knows machines and no users: only the addresses of --client are answered, and only under the path that is printed, which
holds a secret. Everything goes over the wire in the clear: use a network that is trusted.

The command stays until it gets SIGTERM or Ctrl-C, and then ends with 0. Switch the VM off before, or move it to another
datastore. When it is ready it prints one line of JSON:

  {"listening": ADDRESS, "point": ID, "path": PATH, "files": FOLDER, "disks": [{"key", "size", "file"}]}`),
		Example: example(`
hikae serve nfs --repo /backup/hikae web1@latest --folder /var/lib/hikae/web1 --client 192.0.2.11
esxcli storage nfs add -H BACKUP-SERVER -s PATH -v hikae-web1    # on the host`),
		Args: want("POINT"),
	}
	f.access = repoFlags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.disk, "disk", "", "only the disk with this `KEY`")
	flags.StringVar(&f.listen, "listen", ":2049", "`HOST:PORT`, with port 0 for a free one")
	flags.StringVar(&f.folder, "folder", "", "`FOLDER` for what the host writes (required)")
	flags.StringArrayVar(&f.clients, "client", nil, "`ADDRESS` of a host that may mount, or ADDRESS/BITS; may repeat (default: this machine alone)")
	flags.StringVar(&f.portmap, "port-mapper", ":111", "`HOST:PORT` where hosts ask for the port; empty: nowhere")
	flags.BoolVar(&f.async, "async", false, "answer writes before they are durable: faster, and a crash of this machine loses the last of them")
	if err := cmd.MarkFlagRequired("folder"); err != nil {
		panic(err) // the flag is defined just above
	}
	cmd.RunE = t.act(func(ctx context.Context, args []string) (*reply, error) { return nil, t.serveNFS(ctx, f, args[0]) })
	return cmd
}

// nfsDoc is the line that says that a server is ready.
type nfsDoc struct {
	Listening string    `json:"listening"`
	Point     string    `json:"point"`
	Path      string    `json:"path"`
	Files     string    `json:"files"`
	Disks     []nfsDisk `json:"disks"`
}

type nfsDisk struct {
	Key  string `json:"key"`
	Size int64  `json:"size"`
	File string `json:"file"`
}

func (t *tool) serveNFS(ctx context.Context, f *nfsFlags, spec string) (err error) {
	clients, err := nfsserve.Allowed(f.clients)
	if err != nil {
		return outcome.Usage("For instance --client 192.0.2.11, or --client 192.0.2.0/24.", "--client: %v", err)
	}
	s, err := t.openServed(ctx, &f.serveFlags, spec)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	config, err := job.PointConfig(ctx, s.repo, s.point)
	if err != nil {
		return about(f.repo, "configuration of "+s.point.VM, err)
	}
	disks, doc := nfsDisks(s.point, s.exports, config)
	server, err := nfsserve.New(disks, &nfsserve.Options{Folder: f.folder, Clients: clients, Async: f.async})
	if err != nil {
		return &outcome.Error{Object: f.folder, Err: err, Hint: overlayHint(err)}
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	if err := putConfig(server.Files(), config); err != nil {
		return err
	}
	return t.runNFS(ctx, f, server, doc)
}

// nfsDisks names the disks' files as the VM's own configuration does, so that it finds them.
func nfsDisks(point pipe.PointInfo, exports []nbd.Export, config map[string][]byte) ([]nfsserve.Disk, nfsDoc) {
	named := map[string]string{}
	if info, err := vmware.ParseConfig(config["config.xml"]); err == nil {
		for _, d := range vmware.DisksOf(info) {
			named[d.Key] = strings.TrimSuffix(filepath.Base(strings.TrimSpace(d.File[strings.IndexByte(d.File, ']')+1:])), ".vmdk")
		}
	}
	doc := nfsDoc{Point: point.ID}
	taken := map[string]bool{}
	var disks []nfsserve.Disk
	for i, e := range exports {
		name := named[e.Name]
		if name == "" || taken[name] {
			name = fmt.Sprintf("disk%d", i)
		}
		taken[name] = true
		disks = append(disks, nfsserve.Disk{Name: name, Image: e.Image, Identity: point.ID + "/" + e.Name})
		doc.Disks = append(doc.Disks, nfsDisk{e.Name, e.Image.Size(), name + ".vmdk"})
	}
	return disks, doc
}

// putConfig lays the VM's own files beside its disks, where the host has not done so yet.
func putConfig(folder string, config map[string][]byte) error {
	for name, data := range config {
		if ending := filepath.Ext(name); ending != ".vmx" && ending != ".nvram" || filepath.Base(name) != name {
			continue
		}
		file, err := os.OpenFile(filepath.Join(folder, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		_, err = file.Write(data)
		if err = errors.Join(err, file.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (t *tool) runNFS(ctx context.Context, f *nfsFlags, server *nfsserve.Server, doc nfsDoc) error {
	l, err := net.Listen("tcp", f.listen)
	if err != nil {
		return &outcome.Error{Object: f.listen, Err: err, Hint: nfsHint(err)}
	}
	asked := make(chan error, 1)
	asked <- nil
	if f.portmap != "" {
		conn, err := net.ListenPacket("udp", f.portmap)
		if err != nil {
			l.Close()
			return &outcome.Error{Object: f.portmap, Err: err, Hint: nfsHint(err)}
		}
		<-asked
		go func() { asked <- server.Portmap(ctx, conn, uint16(l.Addr().(*net.TCPAddr).Port)) }()
	}
	doc.Listening, doc.Path = l.Addr().String(), server.Path()
	if doc.Files, err = filepath.Abs(server.Files()); err != nil {
		return errors.Join(err, l.Close())
	}
	line, err := json.Marshal(doc)
	if err == nil {
		_, err = t.stdout.Write(append(line, '\n'))
	}
	if err != nil {
		return errors.Join(err, l.Close())
	}
	err = server.Serve(ctx, l)
	return errors.Join(err, server.Close(), <-asked)
}

func nfsHint(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "Ports below 1024 need root. --listen HOST:2049 alone does not: --port-mapper= leaves port 111 alone."
	case errors.Is(err, syscall.EADDRINUSE):
		return "Another NFS server or port mapper (rpcbind) runs on this machine: stop it, or serve from another one."
	}
	return ""
}
