package guesttest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// SSHDOptions change the server. Nil and zero fields are good defaults.
type SSHDOptions struct {
	// Settings are lines of sshd_config. They stand before ours, so they win. {base} in them is the folder of the server's
	// files, and Files are more of those: keys and certificates, readable for root alone.
	Settings []string
	Files    map[string][]byte
	// Accounts are there besides root.
	Accounts []Account
	// Setup is a shell script that runs as root in the server's own mount namespace before the server starts: to mount a
	// full or noexec /tmp, or a loop device.
	Setup string
	// MayFreeze leaves CAP_SYS_ADMIN to what runs in there. What is frozen must then be named: the file systems of the
	// machine are within reach.
	MayFreeze bool
}

// Account is one that only this server knows.
type Account struct {
	Name     string
	Password string // empty: it has none, and comes in by the key
	Shell    string // empty: /bin/sh
	RC       string // what its .bashrc and .cshrc say
	Sudo     bool   // it may do all without a password
}

// Host is a running server.
type Host struct {
	*World
	Addr       string // 127.0.0.1:port
	User       string // root: comes in by Key
	Key        []byte // a private key in OpenSSH form that opens every account
	HostKey    ssh.PublicKey
	KnownHosts string // a file that knows HostKey
}

// SSHD starts OpenSSH's server on an unprivileged port of the loopback and stops it with the test.
func SSHD(t testing.TB, opts *SSHDOptions) *Host {
	t.Helper()
	if opts == nil {
		opts = &SSHDOptions{}
	}
	program := Program(t, "sshd")
	h := &Host{World: newWorld(t, "sshd")}
	h.makeKeys()
	h.settle(opts)
	h.start(opts.MayFreeze, program, "-D", "-e", "-f", h.Base+"/config")
	h.await(h.greets)
	return h
}

// NewKey is a fresh Ed25519 key: private in OpenSSH form, and public.
func NewKey(t testing.TB) (private []byte, public ssh.PublicKey) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	block, err := ssh.MarshalPrivateKey(priv, "test")
	require.NoError(t, err)
	public, err = ssh.NewPublicKey(pub)
	require.NoError(t, err)
	return pem.EncodeToMemory(block), public
}

func (h *Host) makeKeys() {
	host, hostPublic := NewKey(h.t)
	h.HostKey = hostPublic
	h.write("hostkey", string(host), 0o600)
	own, ownPublic := NewKey(h.t)
	h.Key = own
	h.write("keys", string(ssh.MarshalAuthorizedKey(ownPublic)), 0o644)
}

// settle writes the configuration and the accounts.
func (h *Host) settle(opts *SSHDOptions) {
	h.t.Helper()
	h.User, h.Addr = "root", freeAddr(h.t)
	_, port, _ := net.SplitHostPort(h.Addr)
	for name, content := range opts.Files {
		h.write(name, string(content), 0o600)
	}
	settings := strings.ReplaceAll(strings.Join(opts.Settings, "\n"), "{base}", h.Base)
	lines := append([]string{settings},
		"Port "+port, "ListenAddress 127.0.0.1", "HostKey "+h.Base+"/hostkey", "AuthorizedKeysFile "+h.Base+"/keys",
		"PidFile none", "UsePAM no", "StrictModes no", "UseDNS no", "PasswordAuthentication yes", "PermitRootLogin yes",
		"MaxStartups 1000")
	if !strings.Contains(settings, "Subsystem ") {
		lines = append(lines, "Subsystem sftp internal-sftp")
	}
	h.write("config", strings.Join(lines, "\n")+"\n", 0o644)
	h.KnownHosts = filepath.Join(h.Dir, "known_hosts")
	h.write("known_hosts", knownhosts.Line([]string{h.Addr}, h.HostKey)+"\n", 0o644)
	h.accounts(opts.Accounts)
	h.write("setup", opts.Setup+"\n", 0o755)
}

// accounts writes the files that say who there is; the start script lays them over the machine's.
func (h *Host) accounts(list []Account) {
	var passwd, shadow, group, sudoers strings.Builder
	passwd.WriteString("root:x:0:0:root:/root:/bin/bash\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\nnobody:x:65534:65534::/:/usr/sbin/nologin\n")
	shadow.WriteString("root:*:19000:0:99999:7:::\nsshd:!:19000::::::\nnobody:*:19000::::::\n")
	group.WriteString("root:x:0:\ntty:x:5:\nsudo:x:27:\nnogroup:x:65534:\n")
	sudoers.WriteString("Defaults use_pty\nroot ALL=(ALL:ALL) ALL\n")
	for i, a := range list {
		id := 2000 + i
		shell := a.Shell
		if shell == "" {
			shell = "/bin/sh"
		}
		fmt.Fprintf(&passwd, "%s:x:%d:%d::/home/%s:%s\n", a.Name, id, id, a.Name, shell)
		fmt.Fprintf(&shadow, "%s:%s:19000:0:99999:7:::\n", a.Name, h.hash(a.Password))
		fmt.Fprintf(&group, "%s:x:%d:\n", a.Name, id)
		if a.Sudo {
			fmt.Fprintf(&sudoers, "%s ALL=(ALL:ALL) NOPASSWD: ALL\n", a.Name)
		}
		h.write("home/"+a.Name+"/.bashrc", a.RC+"\n", 0o644)
		h.write("home/"+a.Name+"/.cshrc", a.RC+"\n", 0o644)
	}
	h.write("etc/passwd", passwd.String(), 0o644)
	h.write("etc/shadow", shadow.String(), 0o600)
	h.write("etc/group", group.String(), 0o644)
	h.write("etc/sudoers", sudoers.String(), 0o440)
}

// hash is what a password looks like in the table of shadows.
func (h *Host) hash(password string) string {
	if password == "" {
		return "*"
	}
	cmd := exec.CommandContext(h.t.Context(), Program(h.t, "openssl"), "passwd", "-6", "-stdin")
	cmd.Stdin = strings.NewReader(password)
	out, err := cmd.Output()
	require.NoError(h.t, err)
	return strings.TrimSpace(string(out))
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

func (h *Host) greets() bool {
	conn, err := net.DialTimeout("tcp", h.Addr, time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	greeting := make([]byte, 4)
	_, err = io.ReadFull(conn, greeting)
	return err == nil && bytes.Equal(greeting, []byte("SSH-"))
}
