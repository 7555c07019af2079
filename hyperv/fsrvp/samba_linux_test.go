package fsrvp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloudsoda/go-smb2"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest/smbchannel/smbtest"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// fileServer is a Samba whose agent makes shadow copies by copying a folder.
type fileServer struct {
	*smbtest.Samba
	t      *testing.T
	root   string // of a host whose \\fs1\vms the share is
	folder string // behind the share vms
	snaps  string // where copies of it are
}

const scripts = `#!/bin/sh
set -e
case "$1" in
check) echo "$2" ;;
create) d=$(mktemp -d %SNAPS%/copy.XXXXXX); cp -a "$2/." "$d"; echo "$d" ;;
delete) rm -rf "$3" ;;
esac
`

func startFileServer(t *testing.T) *fileServer { t.Helper(); return startFileServerThat(t, 3) }

// startFileServerThat gives a set up after so many seconds without a call.
func startFileServerThat(t *testing.T, waitsSeconds int) *fileServer {
	t.Helper()
	for _, name := range []string{"/usr/libexec/samba/rpcd_fsrvp", "/usr/lib/x86_64-linux-gnu/samba/vfs/shell_snap.so"} {
		if _, err := os.Stat(name); err != nil {
			t.Skip("Samba's agent for shadow copies is not installed (Debian: samba, samba-vfs-modules)")
		}
	}
	netTool, err := exec.LookPath("net")
	if err != nil {
		t.Skip("Samba's program net is not installed (Debian: samba-common-bin)")
	}
	dir := t.TempDir()
	s := &fileServer{t: t, root: filepath.Join(dir, "host"), snaps: filepath.Join(dir, "snaps")}
	s.folder = filepath.Join(s.root, "UNC", "fs1", "vms")
	require.NoError(t, os.MkdirAll(s.folder, 0o755))
	require.NoError(t, os.Mkdir(s.snaps, 0o755))
	script := filepath.Join(dir, "snap")
	require.NoError(t, os.WriteFile(script, []byte(strings.ReplaceAll(scripts, "%SNAPS%", s.snaps)), 0o755))
	s.Samba = smbtest.StartSamba(t, smbtest.Settings{Helpers: true, NoAdmin: true,
		Global: []string{"registry shares = yes", "include = registry", fmt.Sprint("fss: sequence timeout = ", waitsSeconds),
			"rpcd_fsrvp:num_workers = 1"}, // each of several would know its own sets alone
		Shares: []smbtest.Share{{Name: "vms", Path: s.folder, Lines: []string{"vfs objects = shell_snap",
			"shell_snap:check path command = " + script + " check", "shell_snap:create command = " + script + " create",
			"shell_snap:delete command = " + script + " delete"}}}})
	out, err := exec.CommandContext(t.Context(), netTool, "-s", s.Config(), "groupmap", "add", "sid=S-1-5-32-551", "unixgroup=root", "type=builtin").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return s
}

func (s *fileServer) login() Login { return Login{User: s.User, Password: smbtest.Password} }

func (s *fileServer) options() Options {
	return Options{Address: func(string) string { return s.HostPort() }, CommitTimeout: 30 * time.Second}
}

func (s *fileServer) dial() *Conn {
	s.t.Helper()
	o := s.options()
	c, err := Dial(s.t.Context(), "fs1", s.login(), &o)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, c.Close()) })
	return c
}

func (s *fileServer) left() []string {
	list, err := os.ReadDir(s.snaps)
	require.NoError(s.t, err)
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// Open implements hyperv.Files by SMB, as whoever reads the exposed share does.
func (s *fileServer) Open(ctx context.Context, name string) (pipe.Image, error) {
	share, rest, ok := shareOf(name)
	if !ok {
		return nil, fs.ErrNotExist
	}
	_, shareName, _ := splitShare(share)
	conn, err := net.Dial("tcp", s.HostPort())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	session, err := (&smb2.Dialer{Initiator: &smb2.NTLMInitiator{User: s.User, Password: smbtest.Password}}).DialConn(ctx, conn, s.HostPort())
	if err != nil {
		return nil, err
	}
	defer session.Logoff()
	mounted, err := session.Mount(shareName)
	if err != nil {
		return nil, err
	}
	defer mounted.Umount()
	data, err := mounted.ReadFile(strings.ReplaceAll(rest, `/`, `\`))
	if err != nil {
		return nil, err
	}
	local := filepath.Join(s.t.TempDir(), "f")
	if err := os.WriteFile(local, data, 0o600); err != nil {
		return nil, err
	}
	return diskfile.Open(local, nil)
}

func (s *fileServer) snapshotter() *Snapshotter {
	return &Snapshotter{Login: func(context.Context, string) (Login, error) { return s.login(), nil }, Files: s, Options: s.options()}
}

func read(t *testing.T, files interface {
	Open(context.Context, string) (pipe.Image, error)
}, name string) string {
	t.Helper()
	img, err := files.Open(t.Context(), name)
	require.NoError(t, err)
	defer img.Close()
	b := make([]byte, img.Size())
	_, err = img.ReadAt(t.Context(), b, 0)
	if err != io.EOF {
		require.NoError(t, err)
	}
	return string(b)
}

// R096, R097, R099: a share is pinned, read through the exposed share while production goes on, and nothing is left.
func TestPinned(t *testing.T) {
	s := startFileServer(t)
	require.NoError(t, os.WriteFile(filepath.Join(s.folder, "web1.vhdx"), []byte("as it was"), 0o644))
	p, j := s.snapshotter(), &journal{}
	volume, err := p.Volume(t.Context(), "HV1", `\\FS1\vms\web1.vhdx`)
	require.NoError(t, err)
	require.Equal(t, `\\fs1\vms`, volume)
	snap, err := p.Take(t.Context(), "HV1", "mark", []string{volume}, j)
	require.NoError(t, err)
	require.Len(t, s.left(), 1)
	require.NoError(t, os.WriteFile(filepath.Join(s.folder, "web1.vhdx"), []byte("as it is now"), 0o644))
	require.Equal(t, "as it was", read(t, snap, `\\fs1\VMS\web1.vhdx`))
	_, err = snap.Open(t.Context(), `\\fs2\vms\web1.vhdx`)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = snap.Open(t.Context(), `C:\web1.vhdx`)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.Len(t, j.effects, 2, "when it was begun, and with its copies")
	require.Equal(t, Name, j.effects[1].Facts["snapshotter"])
	require.Equal(t, snap.ID(), j.effects[1].Facts["set"])
	require.Equal(t, 1, j.done)
	require.NoError(t, snap.Delete(t.Context()))
	require.Equal(t, 2, j.done)
	require.Empty(t, s.left())
	require.NoError(t, snap.Delete(t.Context()), "again")
}

// A dead session's set is ended by the journal alone, and once more without harm.
func TestUndo(t *testing.T) {
	s := startFileServer(t)
	p, j := s.snapshotter(), &journal{}
	_, err := p.Take(t.Context(), "HV1", "mark", []string{`\\fs1\vms`}, j)
	require.NoError(t, err)
	require.Len(t, s.left(), 1)
	for range 2 {
		require.NoError(t, s.snapshotter().Undo(t.Context(), j.effects[1]))
		require.Empty(t, s.left())
	}
	require.ErrorIs(t, p.Undo(t.Context(), hikae.Effect{Kind: kindSet}), fs.ErrInvalid)
	require.ErrorIs(t, p.Undo(t.Context(), hikae.Effect{Facts: map[string]string{"server": "fs1", "set": "x", "copy0": "y \\\\fs1\\vms"}}), ErrMalformed)
}

// What goes wrong on the way leaves nothing.
func TestTakenBack(t *testing.T) {
	s := startFileServer(t)
	p := s.snapshotter()
	full := errors.New("the journal is full")
	_, err := p.Take(t.Context(), "HV1", "mark", []string{`\\fs1\vms`}, &journal{fail: full})
	require.ErrorIs(t, err, full)
	require.Empty(t, s.left())
	_, err = p.Volume(t.Context(), "HV1", `C:\VMs\web1.vhdx`)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = p.Volume(t.Context(), "HV1", `\\fs1\nothing\web1.vhdx`)
	require.Error(t, err)
	_, err = s.dial().Take(t.Context(), []string{`\\fs1\vms`, `\\fs1\nothing`}, nil)
	var refused *Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "AddToShadowCopySet", refused.Op)
	require.Empty(t, s.left())
	// and the server takes the next set
	set, err := s.dial().Take(t.Context(), []string{`\\fs1\vms`}, nil)
	require.NoError(t, err)
	require.NoError(t, s.dial().Delete(t.Context(), set))
	require.Empty(t, s.left())
}

// cut begins a set on a connection that is cut once its ids are known.
func (s *fileServer) cut() (dead Set) {
	s.t.Helper()
	o := s.options()
	var line net.Conn
	o.Dial = func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		line, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		return line, err
	}
	c, err := Dial(s.t.Context(), "fs1", s.login(), &o)
	require.NoError(s.t, err)
	defer c.Close()
	begun := time.Now()
	_, err = c.Take(s.t.Context(), []string{`\\fs1\vms`}, func(set Set) error {
		if dead = set; len(set.Copies) == 0 {
			return nil
		}
		return line.Close()
	})
	require.Error(s.t, err)
	require.Less(s.t, time.Since(begun), 20*time.Second)
	return dead
}

// A connection that is lost at any call, before it arrives or with its answer, of a server that goes on: what the journal knows by then leads
// to all that there is, and nobody else's shadow copy goes.
func TestCutAtEachCall(t *testing.T) {
	s := startFileServerThat(t, 60)
	proxy := startProxy(t, s.HostPort())
	_, err := s.dial().Take(t.Context(), []string{`\\fs1\vms`}, nil)
	require.NoError(t, err)
	theirs := s.left()
	take := func(at int, after bool) (known []Set, err error) {
		o := s.options()
		o.Address = func(string) string { return proxy.addr }
		proxy.arm(at, after, func() {})
		c, err := Dial(t.Context(), "fs1", s.login(), &o)
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Take(t.Context(), []string{`\\fs1\vms`}, func(set Set) error { known = append(known, set); return nil })
		return known, err
	}
	whole, err := take(0, false)
	require.NoError(t, err)
	require.NoError(t, s.dial().Delete(t.Context(), whole[1]))
	ops := proxy.seen()
	require.Contains(t, ops, "CommitShadowCopySet")
	for i, op := range ops {
		for _, after := range []bool{false, true} {
			if op == "StartShadowCopySet" && after {
				continue // only the server knows of it, and gives it up by its clock
			}
			known, err := take(i+1, after)
			require.Error(t, err)
			if len(known) > 0 {
				require.NoError(t, s.dial().Delete(t.Context(), known[len(known)-1]), "%s, after: %v", op, after)
			}
			require.Equal(t, theirs, s.left(), "%s, after: %v", op, after)
		}
	}
	require.Len(t, s.exposed(), 1)
}

// impatient does not wait for its turn.
func (s *fileServer) impatient() *Conn {
	s.t.Helper()
	o := s.options()
	o.TurnTimeout = time.Nanosecond
	c, err := Dial(s.t.Context(), "fs1", s.login(), &o)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, c.Close()) })
	return c
}

// A server makes one set at a time: who finds another under way waits for a while, and is told what is in the way.
func TestTurn(t *testing.T) {
	s := startFileServer(t)
	s.cut()
	c := s.impatient()
	c.opts.TurnTimeout = 1500 * time.Millisecond
	begun := time.Now()
	_, err := c.Take(t.Context(), []string{`\\fs1\vms`}, nil)
	var refused *Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, setInProgress, refused.Code)
	require.NotEmpty(t, refused.Hint())
	require.Greater(t, time.Since(begun), time.Second)
}

// What the journal knows of a set gives it up at once.
func TestGivenUp(t *testing.T) {
	s := startFileServer(t)
	dead, c := s.cut(), s.impatient()
	_, err := c.Take(t.Context(), []string{`\\fs1\vms`}, nil)
	require.Error(t, err)
	require.NoError(t, c.Delete(t.Context(), dead))
	set, err := c.Take(t.Context(), []string{`\\fs1\vms`}, nil)
	require.NoError(t, err)
	require.NoError(t, c.Delete(t.Context(), set))
	require.Empty(t, s.left())
}

func TestRefused(t *testing.T) {
	s := startFileServer(t)
	o := s.options()
	who := s.login()
	who.Password = "wrong"
	_, err := Dial(t.Context(), "fs1", who, &o)
	var reach *ReachError
	require.ErrorAs(t, err, &reach)
	require.Equal(t, "login", reach.Step)
	require.NotContains(t, err.Error(), "wrong")

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	o = Options{Address: func(string) string { return l.Addr().String() }, CallTimeout: 300 * time.Millisecond}
	begun := time.Now()
	_, err = Dial(t.Context(), "fs1", s.login(), &o)
	require.ErrorAs(t, err, &reach, "a server that says nothing")
	require.Less(t, time.Since(begun), 10*time.Second)
}
