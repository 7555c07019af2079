package service

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var mover = Description{
	Name: "hikae-mover", Title: "Hikae mover", Program: "/usr/local/bin/hikae",
	Args:    []string{"mover", "serve", "--listen", ":7420", "--repo", "/srv/my backups/100%", "--limit", "20MB/s; mon-fri 08:00-18:00 2MB/s"},
	Write:   []string{"/srv/my backups/100%"},
	Secrets: []Secret{{Name: "secret", File: "/etc/hikae/100%/the password", Flag: "--password-file"}, {Name: "smb", File: "/etc/smb", Variable: "HIKAE_SMB_CREDENTIALS"}},
}

func TestUnit(t *testing.T) {
	unit, err := mover.Unit()
	require.NoError(t, err)
	require.Contains(t, unit, `ExecStart=/usr/local/bin/hikae mover serve --listen :7420 --repo "/srv/my backups/100%%" --limit "20MB/s; mon-fri 08:00-18:00 2MB/s" --password-file %d/secret`+"\n")
	require.Contains(t, unit, `ReadWritePaths="/srv/my backups/100%%"`+"\n")
	require.Contains(t, unit, "StateDirectory=hikae-mover\n")
	require.NotContains(t, unit, "%!")
	if analyze, err := exec.LookPath("systemd-analyze"); err == nil {
		path := filepath.Join(t.TempDir(), "hikae-mover.service")
		require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(unit, "/usr/local/bin/hikae", "/bin/true")), 0o600))
		out, err := exec.Command(analyze, "verify", path).CombinedOutput()
		require.NotContains(t, string(out), "hikae-mover.service:", err)
	}
}

// Each setting has its own rules of how a path is written.
func TestUnitPaths(t *testing.T) {
	unit, err := mover.Unit()
	require.NoError(t, err)
	require.Contains(t, unit, "LoadCredential=secret:/etc/hikae/100%%/the password\n")
	require.Contains(t, unit, "LoadCredential=smb:/etc/smb\nEnvironment=HIKAE_SMB_CREDENTIALS=%d/smb\n")
	require.Contains(t, unit, "PrivateDevices=yes\n")
	d := mover
	d.Write, d.Devices, d.Args = []string{"/srv/a$b"}, true, []string{"--source", "a=/srv/a$b"}
	unit, err = d.Unit()
	require.NoError(t, err)
	require.Contains(t, unit, "ReadWritePaths=\"/srv/a$b\"\n", "variables are of command lines alone")
	require.Contains(t, unit, "--source a=/srv/a$$b ")
	require.Contains(t, unit, "PrivateDevices=no\n")
}

// What would mean something else in a unit, or begin another setting, is refused.
func TestUnitRefuses(t *testing.T) {
	for _, d := range []Description{
		{Args: []string{"a\nExecStart=/bin/sh"}},
		{Program: "/bin/a\x7f"},
		{Title: "a\nb"},
		{Secrets: []Secret{{File: "/etc/pw\nExecStartPre=/bin/sh -c id"}}},
		{Secrets: []Secret{{File: "/etc/pw "}}},
		{Secrets: []Secret{{File: `/etc/pw\`}}},
		{Write: []string{"/srv/a\nb"}},
		{Write: []string{`/srv/a"b`}},
		{Write: []string{`/srv/a\x20b`}},
	} {
		unit, err := d.Unit()
		require.Error(t, err, "%+v:\n%s", d, unit)
	}
}

// What systemd is told, and how often.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Skipf("no datagrams on unix sockets here: %v", err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", "")
	next := func() string {
		require.NoError(t, l.SetReadDeadline(time.Now().Add(5*time.Second)))
		buf := make([]byte, 100)
		n, err := l.Read(buf)
		require.NoError(t, err)
		return string(buf[:n])
	}
	Ready()
	require.Equal(t, "READY=1", next())
	ctx, cancel := context.WithCancel(t.Context())
	done, asked := make(chan struct{}), 0
	go func() {
		defer close(done)
		Alive(ctx, func(context.Context) error {
			if asked++; asked < 3 {
				return errors.New("stuck")
			}
			return nil
		})
	}()
	require.Equal(t, "WATCHDOG=1", next())
	cancel()
	<-done
	require.GreaterOrEqual(t, asked, 3)
	t.Setenv("WATCHDOG_PID", "1")
	require.Zero(t, watchdog(), "meant for another process")
	t.Setenv("NOTIFY_SOCKET", "")
	Stopping() // nobody to tell
}
