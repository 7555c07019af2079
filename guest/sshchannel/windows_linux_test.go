package sshchannel

import (
	"encoding/base64"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/guesttest"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

// windowsHost plays OpenSSH for Windows as far as its greeting and its command lines go. It was written from what
// Microsoft documents; nobody has seen a real one do the same yet.
type windowsHost struct {
	t     *testing.T
	conf  *ssh.ServerConfig
	group sync.WaitGroup
	mu    sync.Mutex
	lines []string
}

func playWindows(t *testing.T) (*windowsHost, *Way) {
	t.Helper()
	private, public := guesttest.NewKey(t)
	signer, err := ssh.ParsePrivateKey(private)
	require.NoError(t, err)
	h := &windowsHost{t: t, conf: &ssh.ServerConfig{NoClientAuth: true, ServerVersion: "SSH-2.0-OpenSSH_for_Windows_9.5"}}
	h.conf.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h.group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			h.group.Go(func() { h.serve(conn) })
		}
	})
	t.Cleanup(func() { l.Close(); h.group.Wait() })
	return h, New(l.Addr().String(), guest.Credential{User: "Administrator", Password: "x"},
		&Options{Fingerprints: []string{ssh.FingerprintSHA256(public)}})
}

func (h *windowsHost) serve(conn net.Conn) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, h.conf)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for offer := range channels {
		c, requests, err := offer.Accept()
		if err != nil {
			return
		}
		h.group.Go(func() { h.session(c, requests) })
	}
}

func (h *windowsHost) session(c ssh.Channel, requests <-chan *ssh.Request) {
	defer c.Close()
	for r := range requests {
		if r.Type != "exec" {
			r.Reply(false, nil)
			continue
		}
		r.Reply(true, nil)
		line := string(r.Payload[4:])
		h.mu.Lock()
		h.lines = append(h.lines, line)
		h.mu.Unlock()
		if strings.HasSuffix(line, " serve --dir "+`C:\Windows\Temp\hikae-x`) {
			io.Copy(c, c)
		} else {
			h.answer(c, line)
		}
		c.SendRequest("exit-status", false, []byte{0, 0, 0, 0})
		return
	}
}

// answer is what the probe's script would print.
func (h *windowsHost) answer(c ssh.Channel, line string) {
	coded, err := base64.StdEncoding.DecodeString(line[strings.LastIndexByte(line, ' ')+1:])
	if err != nil {
		return
	}
	script := strings.ReplaceAll(string(coded), "\x00", "")
	_, rest, _ := strings.Cut(script, "FromBase64String('")
	mark, _, _ := strings.Cut(rest, "'")
	word, _ := base64.StdEncoding.DecodeString(mark)
	io.WriteString(c, "\n"+string(word)+" begin\nos=windows\narch=AMD64\nhost=WEB1\nuser=web1\\administrator\nadmin=True\ntemp=C:\\Windows\\Temp\n"+string(word)+" end\n")
}

// Windows is recognised by its server's greeting, and gets lines that cmd and PowerShell read alike.
func TestWindows(t *testing.T) {
	t.Parallel()
	h, w := playWindows(t)
	c := open(t, w)
	require.Equal(t, "windows", c.System().OS)
	require.Equal(t, "amd64", c.System().Arch)
	require.Equal(t, []string{`C:\Windows\Temp`}, c.System().Temp)
	require.Equal(t, "/C:/Windows/Temp/x", c.link.remote(`C:\Windows\Temp\x`))

	s, err := c.Launch(within(t, 10e9), guest.Program{Path: `C:\Windows\Temp\hikae-x\hikae-agent.exe`})
	require.NoError(t, err)
	_, err = s.Write([]byte("frames"))
	require.NoError(t, err)
	got := make([]byte, 6)
	_, err = io.ReadFull(s, got)
	require.NoError(t, err)
	require.Equal(t, "frames", string(got))
	require.NoError(t, s.Close())
	require.NoError(t, c.MakeDir(t.Context(), `C:\Windows\Temp\it's %PATH% & $(calc)`))

	require.NoError(t, c.Close())
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, line := range h.lines {
		require.NotContains(t, line, "calc")
		require.Empty(t, strings.Trim(line, `ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:\.+/= -`))
		require.Less(t, len(line), 8000)
	}
}
