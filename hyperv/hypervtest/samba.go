package hypervtest

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
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
	smb     atomic.Pointer[smbService]
	cluster *Cluster
	steer   controls
}

// close ends it, in the opposite order.
func (b *beside) close() {
	b.steer.close()
	if s := b.smb.Swap(nil); s != nil {
		s.close()
	}
}

// SMB is HOST:PORT of the host's Samba; empty before StartSMB.
func (h *Host) SMB() string {
	if s := h.beside.smb.Load(); s != nil {
		return s.addr()
	}
	return ""
}

// Services are the names of the services that the host's manager has, in order.
func (h *Host) Services() []string {
	if s := h.beside.smb.Load(); s != nil {
		return s.services()
	}
	return nil
}

// OpenFiles are the files that SMB clients have open, as the host names them, in order.
func (h *Host) OpenFiles(ctx context.Context) ([]string, error) {
	if s := h.beside.smb.Load(); s != nil {
		return s.open(ctx)
	}
	return nil, nil
}

// openNames are files that are open, in small letters.
type openNames map[string]bool

func (o openNames) has(name string) bool { return o[strings.ToLower(name)] }

// openBySMB are the files that SMB clients have open at this moment. No merge can go on in these: clients share them for reading and
// writing, and not for deletion. Where it cannot be told, there are none.
func (h *Host) openBySMB() openNames {
	o := openNames{}
	hosts := []*Host{h}
	if c := h.beside.cluster; c != nil {
		hosts = c.hosts
	}
	for _, other := range hosts {
		s := other.beside.smb.Load()
		if s == nil {
			continue
		}
		names, _ := s.openNow(context.Background())
		for _, name := range names {
			o[strings.ToLower(name)] = true
		}
	}
	return o
}

// smbLeftovers are what an SMB client left behind, in words.
func (h *Host) smbLeftovers(ctx context.Context) (out []string) {
	s := h.beside.smb.Load()
	if s == nil {
		return nil
	}
	files, err := s.open(ctx)
	if err != nil {
		out = append(out, "open SMB files are unknown: "+err.Error())
	}
	for _, name := range files {
		out = append(out, "open SMB file "+name)
	}
	return append(out, s.left()...)
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
