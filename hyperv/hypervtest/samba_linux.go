package hypervtest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hikae/hikae/guest/smbchannel/scm/scmtest"
	"github.com/hikae/hikae/guest/smbchannel/smbtest"
)

// smbService is a host's Samba, and the service control manager behind its pipes.
type smbService struct {
	guest  *smbtest.Guest
	shares []share
}

// StartSMB serves the host's files by a real Samba on 127.0.0.1, with C$ and the other drives, ADMIN$, and the shares of file
// servers; and its service control manager. Who may log on is who may at the host. Where this machine cannot run Samba the error
// is errors.ErrUnsupported, and says why. Samba ends with the host; the context bounds the start.
func (h *Host) StartSMB(ctx context.Context, opts *SMBOptions) error {
	var o SMBOptions
	if opts != nil {
		o = *opts
	}
	if h.beside.smb.Load() != nil {
		return fmt.Errorf("host %s: its Samba runs already", h.opts.Name)
	}
	list, err := h.layShares(&o)
	if err != nil {
		return err
	}
	set := smbtest.Settings{Name: h.opts.Name, User: h.opts.User, Password: h.opts.Password, Windows: filepath.Join(h.dir, "C", "Windows"),
		// A volume that several hosts have is a link to one folder.
		Global: append([]string{"allow insecure wide links = yes"}, o.Settings...)}
	for _, s := range list {
		set.Shares = append(set.Shares, smbtest.Share{Name: s.name, Path: s.folder, Lines: []string{"wide links = yes"}})
	}
	g, err := smbtest.LaunchGuest(ctx, set, smbtest.Component(o.Program))
	if err != nil {
		return fmt.Errorf("host %s: %w", h.opts.Name, err)
	}
	h.beside.smb.Store(&smbService{guest: g, shares: list})
	return nil
}

// layShares makes the folders behind shares, and lists these.
func (h *Host) layShares(o *SMBOptions) (list []share, err error) {
	for _, sub := range []string{"C", filepath.Join("C", "Windows"), "UNC"} {
		if err := os.MkdirAll(filepath.Join(h.dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	for _, server := range o.Servers {
		for _, name := range server.Shares {
			if err := os.MkdirAll(filepath.Join(h.dir, "UNC", strings.ToLower(server.Name), strings.ToLower(name)), 0o755); err != nil {
				return nil, err
			}
		}
	}
	drives, err := filepath.Glob(filepath.Join(h.dir, "[A-Z]"))
	if err != nil {
		return nil, err
	}
	for _, d := range drives {
		letter := filepath.Base(d)
		list = append(list, share{name: letter + "$", folder: d, prefix: letter + ":"})
	}
	folders, err := filepath.Glob(filepath.Join(h.dir, "UNC", "*", "*"))
	if err != nil {
		return nil, err
	}
	for _, d := range folders {
		name, server := filepath.Base(d), filepath.Base(filepath.Dir(d))
		list = append(list, share{name: name, folder: d, prefix: `\\` + server + `\` + name})
	}
	return list, uniqueShares(list)
}

// Machine is the host's service control manager, for faults; nil before StartSMB.
func (h *Host) Machine() *scmtest.Machine {
	if s := h.beside.smb.Load(); s != nil {
		return s.guest.Machine
	}
	return nil
}

// KillSMB ends Samba as a power cut does: whoever is connected learns nothing. StartSMB starts it anew, at another address.
func (h *Host) KillSMB() {
	if s := h.beside.smb.Swap(nil); s != nil {
		s.close()
	}
}

func (s *smbService) addr() string       { return s.guest.HostPort() }
func (s *smbService) services() []string { return s.guest.Machine.Names() }
func (s *smbService) left() []string     { return s.guest.Left() }
func (s *smbService) close()             { s.guest.Close() }

// open asks Samba which files are open. A client's last close may be on its way, so what is open is asked for again for a moment.
func (s *smbService) open(ctx context.Context) (names []string, err error) {
	for range 4 {
		if names, err = s.openNow(ctx); err != nil || len(names) == 0 {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return names, nil
		case <-time.After(50 * time.Millisecond):
		}
	}
	return names, nil
}

func (s *smbService) openNow(ctx context.Context) ([]string, error) {
	text, err := s.guest.Status(ctx)
	if err != nil {
		return nil, err
	}
	return s.named(text)
}

// named reads smbstatus' list of open files.
func (s *smbService) named(text []byte) (names []string, err error) {
	var status struct {
		Files map[string]struct {
			Share string `json:"service_path"`
			Name  string `json:"filename"`
		} `json:"open_files"`
	}
	if err := json.Unmarshal(text, &status); err != nil {
		return nil, fmt.Errorf("smbstatus: %w", err)
	}
	for _, f := range status.Files {
		if f.Name == "." {
			continue // the share itself: a session that looks about
		}
		prefix := f.Share
		for _, share := range s.shares {
			if share.folder == f.Share {
				prefix = share.prefix
			}
		}
		names = append(names, prefix+`\`+strings.ReplaceAll(f.Name, "/", `\`))
	}
	return sorted(names), nil
}
