package hypervtest

import (
	"context"
	"fmt"
	"io"
	"slices"
)

// SMBOptions change what a host's Samba serves. Nil and zero fields are good defaults.
type SMBOptions struct {
	// Program is what runs when the host's service control manager starts a service: its program as it was uploaded lies at path,
	// args are those of the command line, and stream is the service's pipe, nil where it has none. It returns an exit code. The context
	// ends when the service is stopped. Nil: the uploaded file itself, started as "serve --dir FOLDER".
	Program func(ctx context.Context, path string, args []string, stream io.ReadWriteCloser) int
	// Servers are file servers whose shares the same Samba serves: \\fs1\vms is the folder Dir/UNC/fs1/vms. What else lies there
	// when Samba is started is served too.
	Servers []FileServer
	// Settings are lines of smb.conf's global section.
	Settings []string
}

// FileServer is a machine that shares folders for VMs.
type FileServer struct {
	Name   string
	Shares []string
}

// beside is what stands beside a host's objects: files over SMB, a cluster, control from outside.
type beside struct {
	smb     *smbService
	cluster *Cluster
	steer   controls
}

// close ends it, in the opposite order.
func (b *beside) close() {
	b.steer.close()
	if b.smb != nil {
		b.smb.close()
	}
}

// SMB is HOST:PORT of the host's Samba; empty before StartSMB.
func (h *Host) SMB() string {
	if h.beside.smb == nil {
		return ""
	}
	return h.beside.smb.addr()
}

// Services are the names of the services that the host's manager has, in order.
func (h *Host) Services() []string {
	if h.beside.smb == nil {
		return nil
	}
	return h.beside.smb.services()
}

// OpenFiles are the files that SMB clients have open, as the host names them, in order.
func (h *Host) OpenFiles(ctx context.Context) ([]string, error) {
	if h.beside.smb == nil {
		return nil, nil
	}
	return h.beside.smb.open(ctx)
}

// smbLeftovers are what an SMB client left behind, in words.
func (h *Host) smbLeftovers(ctx context.Context) (out []string) {
	if h.beside.smb == nil {
		return nil
	}
	files, err := h.beside.smb.open(ctx)
	if err != nil {
		out = append(out, "open SMB files are unknown: "+err.Error())
	}
	for _, name := range files {
		out = append(out, "open SMB file "+name)
	}
	return append(out, h.beside.smb.left()...)
}

// shareOf are the shares that a host's Samba has besides ADMIN$: each drive's, and those of file servers.
type share struct {
	name   string
	folder string // of this machine
	prefix string // as the host names it: C:, \\fs1\vms
}

// uniqueShares refuses two shares of a name: one Samba stands for all servers.
func uniqueShares(list []share) error {
	seen := map[string]string{}
	for _, s := range list {
		if other := seen[s.name]; other != "" {
			return fmt.Errorf("share %s: both %s and %s: names are the same for every server here", s.name, other, s.prefix)
		}
		seen[s.name] = s.prefix
	}
	return nil
}

func sorted(list []string) []string { slices.Sort(list); return list }
