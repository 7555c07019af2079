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
	"unicode"
	"unicode/utf8"
)

// Description is a service to be installed. All paths are absolute.
type Description struct {
	Name    string   // of the unit or service: letters, digits and -
	Title   string   // for people
	Program string   // path
	Args    []string // of the program
	Write   []string // folders that it writes to; all else is read-only to it, where the system can do that
	Devices bool     // it reads disks that are devices
	Secrets []Secret
}

// Secret is a file that only the service may read, where the system can do that. The program is told of it by a flag, or
// by a variable of its environment.
type Secret struct {
	Name     string // letters: of the copy that the service sees
	File     string
	Flag     string
	Variable string
}

// ErrNoManager says that this system has no manager of services that we know.
var ErrNoManager = errors.New("no service manager that this program knows")

// StopSeconds is how long a service may take to end in good order.
const StopSeconds = 90

// Unit is the unit file of systemd for a service (systemd.unit(5), systemd.exec(5)). A path that cannot be written into
// one is an error.
func (d Description) Unit() (string, error) {
	if err := d.check(); err != nil {
		return "", err
	}
	line := []string{quote(d.Program)}
	for _, word := range d.Args {
		line = append(line, quote(word))
	}
	var more strings.Builder
	for _, s := range d.Secrets {
		fmt.Fprintf(&more, "LoadCredential=%s:%s\n", s.Name, specifiers.Replace(s.File))
		if s.Flag != "" {
			line = append(line, s.Flag, "%d/"+s.Name)
		}
		if s.Variable != "" {
			fmt.Fprintf(&more, "Environment=%s=%%d/%s\n", s.Variable, s.Name)
		}
	}
	for _, folder := range d.Write {
		fmt.Fprintf(&more, "ReadWritePaths=\"%s\"\n", specifiers.Replace(folder))
	}
	devices := "yes"
	if d.Devices {
		devices = "no"
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
%[4]sRestart=on-failure
RestartSec=5
TimeoutStopSec=%[5]d
WatchdogSec=60
LimitNOFILE=65536
UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes
PrivateDevices=%[6]s
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
`, d.Title, strings.Join(line, " "), d.Name, more.String(), StopSeconds+10, devices), nil
}

// check sees that everything can be written into a unit as it is meant. A control character would begin another setting;
// a credential's path is the rest of its line and knows no quotes, so that a blank or a backslash at its end is another
// path; in lists of paths a quote or a backslash means something else in one version of systemd than in another.
func (d Description) check() error {
	for _, word := range append([]string{d.Program, d.Title}, d.Args...) {
		if control(word) {
			return fmt.Errorf("%q cannot stand in a unit file", word)
		}
	}
	for _, s := range d.Secrets {
		if control(s.File) || s.File != strings.TrimSpace(s.File) || strings.HasSuffix(s.File, `\`) {
			return fmt.Errorf("the path %q of a secret cannot stand in a unit file", s.File)
		}
	}
	for _, folder := range d.Write {
		if control(folder) || strings.ContainsAny(folder, `\"'`) {
			return fmt.Errorf("the folder %q cannot stand in a unit file: a control character, a quote or a backslash is in it", folder)
		}
	}
	return nil
}

func control(word string) bool {
	return strings.ContainsFunc(word, unicode.IsControl) || !utf8.ValidString(word)
}

// specifiers keeps what is a percent sign from being more than that.
var specifiers = strings.NewReplacer("%", "%%")

// quote writes a word of a command line as systemd reads it: specifiers, variables, spaces, quotes and backslashes as they
// are.
func quote(word string) string {
	word = strings.NewReplacer("%", "%%", "$", "$$", `\`, `\\`, `"`, `\"`).Replace(word)
	if word == "" || strings.ContainsAny(word, " \t'\"\\;") {
		return `"` + word + `"`
	}
	return word
}

// Ready tells the manager that the service does its work (sd_notify(3)). Without a manager it does nothing.
func Ready() {
	notify("READY=1")
	ready()
}

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
