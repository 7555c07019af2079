package guesttest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func dial(t *testing.T, h *Host, user string, auth ssh.AuthMethod) (*ssh.Client, error) {
	t.Helper()
	return ssh.Dial("tcp", h.Addr, &ssh.ClientConfig{User: user, Auth: []ssh.AuthMethod{auth},
		HostKeyCallback: ssh.FixedHostKey(h.HostKey), Timeout: 10 * time.Second})
}

func output(t *testing.T, c *ssh.Client, command string) string {
	t.Helper()
	s, err := c.NewSession()
	require.NoError(t, err)
	defer s.Close()
	out, err := s.CombinedOutput(command)
	require.NoError(t, err, string(out))
	return string(out)
}

func TestSSHD(t *testing.T) {
	h := SSHD(t, nil)
	signer, err := ssh.ParsePrivateKey(h.Key)
	require.NoError(t, err)
	c, err := dial(t, h, h.User, ssh.PublicKeys(signer))
	require.NoError(t, err, h.Log())
	defer c.Close()
	require.Equal(t, "hello\n", output(t, c, "echo hello"))
	require.Empty(t, h.Left())

	h.Cut()
	require.Error(t, c.Wait())
	h.Stop()
	_, err = dial(t, h, h.User, ssh.PublicKeys(signer))
	require.Error(t, err)
}

// The accounts and mounts of a server are its own.
func TestOwnWorld(t *testing.T) {
	h := SSHD(t, &SSHDOptions{
		Accounts: []Account{{Name: "ann", Password: "pass word", Sudo: true}},
		Setup:    "mount -t tmpfs -o noexec,size=1m none /tmp",
	})
	_, err := dial(t, h, "ann", ssh.Password("wrong"))
	require.Error(t, err)
	c, err := dial(t, h, "ann", ssh.Password("pass word"))
	require.NoError(t, err, h.Log())
	defer c.Close()
	require.Contains(t, output(t, c, "id -un; grep /tmp /proc/mounts; touch /tmp/hikae-x"), "noexec")
	require.Len(t, h.Left(), 1)
	_, err = os.Stat("/tmp/hikae-x")
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Equal(t, "hikae-x\n", h.Run("ls /tmp"))
	require.NotContains(t, h.Run("cat /proc/self/mounts | grep ' /home '"), "ext4")
}

// A server that hangs answers again when it goes on.
func TestPause(t *testing.T) {
	h := SSHD(t, nil)
	h.Pause()
	conn := make(chan bool)
	go func() { conn <- h.greets() }()
	select {
	case <-conn:
		t.Fatal("it answered while it was stopped")
	case <-time.After(200 * time.Millisecond):
	}
	h.Resume()
	require.True(t, <-conn)
}

// QEMU's agent lives in a world of its own too.
func TestQGA(t *testing.T) {
	a := QGA(t, "touch /tmp/hikae-x", false)
	require.Len(t, a.Left(), 1)
	conn, err := net.Dial("unix", a.Socket)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = io.WriteString(conn, `{"execute":"guest-ping"}`+"\n")
	require.NoError(t, err)
	answer, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, answer, `"return"`)
}

// What runs in a world cannot freeze the machine's file systems, unless a test says so.
func TestNoFreezing(t *testing.T) {
	const sysAdmin = 1 << 21
	for may, h := range map[bool]*Host{false: SSHD(t, nil), true: SSHD(t, &SSHDOptions{MayFreeze: true})} {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.server()))
		require.NoError(t, err)
		_, after, _ := strings.Cut(string(status), "CapBnd:")
		caps, err := strconv.ParseUint(strings.Fields(after)[0], 16, 64)
		require.NoError(t, err)
		require.Equal(t, may, caps&sysAdmin != 0)
	}
}
