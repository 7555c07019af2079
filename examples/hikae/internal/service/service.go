// Package service is what a program needs to be a service of the operating system: it tells systemd how it is, makes a
// unit file, and on Windows speaks with the service manager.
package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// Description is a service to be installed.
type Description struct {
	Name    string   // of the unit or service: letters, digits and -
	Title   string   // for people
	Program string   // absolute path
	Args    []string // of the program
	Write   []string // folders that it writes to; all else is read-only to it, where the system can do that
	// Secret is a file that only the service may read, and SecretFlag the flag that names it to the program.
	Secret, SecretFlag string
}

// ErrNoManager says that this system has no manager of services that we know.
var ErrNoManager = errors.New("no service manager that this program knows")

// StopSeconds is how long a service may take to end in good order.
const StopSeconds = 90

// Unit is the unit file of systemd for a service (systemd.unit(5), systemd.exec(5)).
func (d Description) Unit() (string, error) {
	line := []string{d.Program}
	line = append(line, d.Args...)
	secret := ""
	if d.Secret != "" {
		secret = "LoadCredential=secret:" + d.Secret + "\n"
		line = append(line, d.SecretFlag, "%d/secret")
	}
	for i, word := range line {
		if strings.ContainsFunc(word, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return "", fmt.Errorf("%q cannot stand in a unit file", word)
		}
		if i > 0 && word == "%d/secret" && d.Secret != "" && i == len(line)-1 {
			continue // a specifier, and meant as one
		}
		line[i] = quote(word)
	}
	var write strings.Builder
	for _, folder := range d.Write {
		fmt.Fprintf(&write, "ReadWritePaths=%s\n", quote(folder))
	}
	return fmt.Sprintf(`[Unit]
Description=%s
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
ExecStart=%s
Environment=HIKAE_STATE_DIR=%%S/%[3]s HIKAE_CACHE_DIR=%%C/%[3]s
StateDirectory=%[3]s
StateDirectoryMode=0700
CacheDirectory=%[3]s
CacheDirectoryMode=0700
%[4]s%[5]sRestart=on-failure
RestartSec=5
TimeoutStopSec=%[6]d
WatchdogSec=60
LimitNOFILE=65536
UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectSystem=strict
ProtectHome=read-only
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
LockPersonality=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
`, d.Title, strings.Join(line, " "), d.Name, secret, write.String(), StopSeconds+10), nil
}

// quote writes a word as systemd reads it: specifiers, variables, spaces, quotes and backslashes as they are.
func quote(word string) string {
	word = strings.NewReplacer("%", "%%", "$", "$$", `\`, `\\`, `"`, `\"`).Replace(word)
	if word == "" || strings.ContainsAny(word, " \t'\"\\;") {
		return `"` + word + `"`
	}
	return word
}

// Ready tells the manager that the service does its work (sd_notify(3)). Without a manager it does nothing.
func Ready() { notify("READY=1") }

// Stopping tells the manager that the service is about to end.
func Stopping() { notify("STOPPING=1") }

// Alive tells the manager, until ctx ends, that the service is not stuck, as often as it wants to hear it. alive is asked
// each time; what it does not answer in time is not told.
func Alive(ctx context.Context, alive func(context.Context) error) {
	every := watchdog()
	if every <= 0 {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		bounded, cancel := context.WithTimeout(ctx, every)
		err := alive(bounded)
		cancel()
		if err == nil {
			notify("WATCHDOG=1")
		}
	}
}

// watchdog is half of the time after which systemd takes a silent service for stuck.
func watchdog() time.Duration {
	micros, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if pid := os.Getenv("WATCHDOG_PID"); err != nil || micros <= 0 || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	return time.Duration(micros) * time.Microsecond / 2
}

func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if path[0] == '@' {
		path = "\x00" + path[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return // nobody listens: nothing that this program does depends on it
	}
	defer conn.Close()
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = conn.Write([]byte(state))
}
