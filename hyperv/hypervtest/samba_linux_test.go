package hypervtest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	smb2 "github.com/cloudsoda/go-smb2"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/smbchannel/scm"
)

// withSMB is a host whose files are served.
func withSMB(t *testing.T, opts *SMBOptions) *Host {
	t.Helper()
	h := host(t)
	err := h.StartSMB(t.Context(), opts)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	require.NoError(t, err)
	return h
}

func dial(t *testing.T, h *Host, user, domain, password string) (*smb2.Session, error) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", h.SMB())
	require.NoError(t, err)
	s, err := (&smb2.Dialer{Initiator: &smb2.NTLMInitiator{User: user, Domain: domain, Password: password}}).DialConn(t.Context(), conn, h.SMB())
	if err != nil {
		conn.Close()
		return nil, err
	}
	t.Cleanup(func() { _ = s.Logoff() })
	return s, nil
}

// The host's files by a real Samba: who may log on at the host may here, names are those of Windows, and what is open is told.
func TestSamba(t *testing.T) {
	h := withSMB(t, &SMBOptions{Servers: []FileServer{{Name: "FS1", Shares: []string{"vms"}}}})
	id := h.AddVM(VM{Name: "web1", Disks: []Disk{{Size: 8 << 20, BlockSize: 1 << 20}}})
	other := h.AddVM(VM{Name: "web2", Folder: `\\fs1\vms\web2`, Disks: []Disk{{Size: 4 << 20, BlockSize: 1 << 20}}})
	require.NoError(t, h.VM(id).Write(0, 1<<20, []byte("over the wire")))
	require.NoError(t, h.VM(id).PowerOff())
	require.NoError(t, h.VM(other).PowerOff())
	_, err := dial(t, h, "eva", "", "wrong")
	require.Error(t, err)
	s, err := dial(t, h, "Eva", "CORP", "pw")
	require.NoError(t, err)

	drive, err := s.Mount("C$")
	require.NoError(t, err)
	f, err := drive.Open(`vms\WEB1\DISK_1.vhdx`)
	require.NoError(t, err)
	got, err := io.ReadAll(f)
	require.NoError(t, err)
	want, err := os.ReadFile(filepath.Join(h.Dir(), "C", "VMs", "web1", "disk_1.vhdx"))
	require.NoError(t, err)
	require.Equal(t, want, got)
	open, err := h.OpenFiles(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{`C:\VMs\web1\disk_1.vhdx`}, open)
	require.Equal(t, []string{`open SMB file C:\VMs\web1\disk_1.vhdx`}, h.Leftovers())
	require.NoError(t, f.Close())
	require.Empty(t, h.Leftovers())

	shared, err := s.Mount("vms")
	require.NoError(t, err)
	_, err = shared.Stat(`web2\disk_1.vhdx`)
	require.NoError(t, err)
	admin, err := s.Mount("ADMIN$")
	require.NoError(t, err)
	require.NoError(t, admin.Mkdir("hikae-x", 0o700))
	require.Equal(t, []string{"folder hikae-x"}, h.Leftovers())
	require.DirExists(t, filepath.Join(h.Dir(), "C", "Windows", "hikae-x"))
	require.Empty(t, h.Services())
	require.Error(t, h.StartSMB(t.Context(), nil), "it runs already")
}

// A service of the host's runs the program that the test gave, on its pipe, and is a leftover until it is deleted.
func TestServices(t *testing.T) {
	ran := make(chan []string, 1)
	h := withSMB(t, &SMBOptions{Program: func(ctx context.Context, path string, args []string, _ io.ReadWriteCloser) int {
		ran <- append([]string{filepath.Base(path)}, args...)
		<-ctx.Done()
		return 0
	}})
	folder := filepath.Join(h.Dir(), "C", "Windows", "hikae-y")
	require.NoError(t, os.Mkdir(folder, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "helper.exe"), []byte("MZ"), 0o700))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	m, err := scm.Open(ctx, func(context.Context) (io.ReadWriteCloser, error) {
		a, b := net.Pipe()
		go func() { _ = h.Machine().Serve(b) }()
		return a, nil
	})
	require.NoError(t, err)
	defer m.Close()
	require.NoError(t, m.Create(ctx, scm.Service{Name: "hikae-y", Command: `"C:\Windows\hikae-y\helper.exe" serve now`}))
	require.NoError(t, m.Start(ctx, "hikae-y"))
	require.Equal(t, []string{"helper.exe", "serve", "now"}, <-ran)
	require.Equal(t, []string{"folder hikae-y", "service hikae-y"}, h.Leftovers())
	require.Equal(t, []string{"hikae-y"}, h.Services())
}

// Nothing is left of a host that is closed: no process, no folder.
func TestCloseLeavesNothing(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	h, err := Start(nil)
	require.NoError(t, err)
	if err := h.StartSMB(t.Context(), nil); err != nil {
		h.Close()
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	addr, dir := h.SMB(), h.Dir()
	h.Close()
	require.NoDirExists(t, dir)
	require.Eventually(t, func() bool { // what Samba forked dies a moment after it
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			conn.Close()
		}
		return err != nil
	}, 10*time.Second, 20*time.Millisecond)
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	require.Empty(t, left)
}

// A checkpoint's files are merged when nobody has them open: a client that keeps one open has the merge fail, and its child stays
// until the next.
func TestMergeNeedsClosedFiles(t *testing.T) {
	h := withSMB(t, nil)
	g := h.VM(h.AddVM(VM{Name: "web1", Disks: []Disk{{Size: 4 << 20, BlockSize: 1 << 20}}}))
	first, err := g.Checkpoint("first")
	require.NoError(t, err)
	require.NoError(t, g.Write(0, 0, []byte("in the child")))
	s, err := dial(t, h, "eva", "", "pw")
	require.NoError(t, err)
	drive, err := s.Mount("C$")
	require.NoError(t, err)
	f, err := drive.Open(`VMs\web1\disk_1.vhdx`)
	require.NoError(t, err)
	require.NoError(t, g.RemoveCheckpoint(first))
	require.True(t, h.Settled(5*time.Second))
	require.Contains(t, g.Tip(0), ".avhdx")
	events := h.Events()
	require.Equal(t, "merge failed", events[len(events)-1].Name)
	require.Contains(t, events[len(events)-1].Detail, ErrSharing.Error())
	require.Contains(t, h.Leftovers(), "VM "+g.ID()+": "+g.Tip(0)+" is not merged")

	require.NoError(t, f.Close())
	second, err := g.Checkpoint("second")
	require.NoError(t, err)
	require.NoError(t, g.RemoveCheckpoint(second))
	require.True(t, h.Settled(5*time.Second))
	require.Equal(t, `C:\VMs\web1\disk_1.vhdx`, g.Tip(0))
	require.Empty(t, h.Leftovers())
}
