package guest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/hikae/hikae"
)

// shell is in every guest that is not Windows.
const shell = "/bin/sh"

// Bounds of what a guest may tell about itself.
const (
	maxWord    = 300
	maxFolders = 3 // that are good; the search ends there
)

// probeScript prints lines of key=value between two marks: whatever else an account prints is thrown away. $1 is the mark,
// the rest are folders to try first. A folder is good if a program that lies there can be started: mount options, security
// modules and full disks are all found by trying. It is no good if others could put their own folder in the place of ours.
const probeScript = `LC_ALL=C; export LC_ALL
PATH=$PATH:/usr/bin:/bin:/usr/sbin:/sbin; export PATH
mark=$1; shift; t=
trap 'rm -rf -- "$t"' EXIT
trap 'exit 1' HUP INT TERM PIPE
echo; echo "$mark begin"
echo "os=$(uname -s)"; echo "arch=$(uname -m)"; echo "host=$(uname -n)"; echo "user=$(id -un)"
uid=$(id -u); echo "uid=$uid"
if [ "$uid" != 0 ]; then
	if sudo -n true </dev/null >/dev/null 2>&1; then echo sudo=yes
	elif command -v sudo >/dev/null 2>&1; then echo sudo=refused
	else echo sudo=none; fi
fi
good=0 seen=:
for d in "$@" /tmp /var/tmp "$XDG_RUNTIME_DIR" "$HOME" /dev/shm /var/lib /opt; do
	case $d in /*) ;; *) continue;; esac
	d=$(cd "$d" 2>/dev/null && pwd -P) || continue
	case $seen in *":$d:"*) continue;; esac
	seen=$seen$d:
	[ "$d" != / ] || continue
	[ -w "$d" ] || { echo "no=$d cannot be written to"; continue; }
	u=$d why=
	while :; do
		case $(ls -ldn "$u/.") in
		d????w???[!tT]*|d???????w[!tT]*) why="$u lets others replace what is in it";;
		esac
		o=$(ls -ldn "$u/." | { read -r m n o x; echo "$o"; })
		[ "$o" = 0 ] || [ "$o" = "$uid" ] || why="$u belongs to somebody else"
		[ -z "$why" ] && [ -n "$u" ] || break
		u=${u%/*}
	done
	[ -z "$why" ] || { echo "no=$d: $why"; continue; }
	t=$d/.hikae-$mark
	mkdir -m 0700 "$t" 2>/dev/null || { echo "no=$d takes no folder"; t=; continue; }
	{ echo '#!/bin/sh' && echo 'exit 0'; } 2>/dev/null >"$t/x" && chmod 700 "$t/x" && [ -s "$t/x" ] || { echo "no=$d is full"; rm -rf "$t"; continue; }
	"$t/x" 2>/dev/null; rc=$?
	rm -rf "$t"; t=
	case $rc in
	0) echo "temp=$d"; good=$((good+1)); [ $good -lt 3 ] || break;;
	126) echo "no=$d lets no program run (mounted noexec?)";;
	*) echo "no=$d: a program in it ended with $rc";;
	esac
done
echo "$mark end"`

// probe fills in what the guest is.
func (o *over) probe(ctx context.Context, opts *OverOptions) error {
	var problems []error
	for _, try := range []struct {
		os    string
		probe func(context.Context, string, *OverOptions) (hikae.RunResult, error)
	}{{"linux", o.probeShell}, {"windows", o.probeWindows}} {
		if opts.OS != "" && opts.OS != try.os {
			continue
		}
		mark := strings.ToLower(rand.Text())
		r, err := try.probe(ctx, mark, opts)
		if err == nil {
			err = o.learn(mark, r)
		}
		var way *WayError
		if err == nil || errors.As(err, &way) {
			return err
		}
		problems = append(problems, err)
		if ctx.Err() != nil {
			break
		}
	}
	err := errors.Join(problems...)
	if ctx.Err() != nil {
		return &WayError{Kind: o.kind, Step: "link", Problem: fmt.Sprintf("no answer: %v", err), Err: errors.Join(ctx.Err(), err)}
	}
	return &WayError{Kind: o.kind, Step: "shell", Problem: printable(err.Error()), Err: err,
		Hint: "the account needs a shell that runs commands without a terminal"}
}

func (o *over) probeShell(ctx context.Context, mark string, opts *OverOptions) (hikae.RunResult, error) {
	return o.Run(ctx, shell, append([]string{"-c", probeScript, "sh", mark}, opts.Temp...), nil)
}

// learn reads what the probe printed. Everything in it is the guest's word: bounded, cleaned, and without effect beyond
// this guest.
func (o *over) learn(mark string, r hikae.RunResult) error {
	_, text, begun := strings.Cut(string(r.Stdout), "\n"+mark+" begin")
	text, _, ended := strings.Cut(text, "\n"+mark+" end")
	if !begun || !ended {
		return fmt.Errorf("a probe ended with exit code %d: %s", r.ExitCode, printable(string(r.Stderr)+string(r.Stdout)))
	}
	facts, refused := map[string]string{}, []string{}
	var s System
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "=")
		switch {
		case !ok:
		case key == "temp" && len(s.Temp) < maxFolders && len(value) <= maxWord && printable(value) == value:
			s.Temp = append(s.Temp, value)
		case key == "no" && len(refused) < 10:
			refused = append(refused, printable(value))
		default:
			facts[key] = printable(value)
		}
	}
	s.OS, s.Arch, s.Name, s.User = strings.ToLower(facts["os"]), archName(facts["arch"]), facts["host"], facts["user"]
	s.Admin = facts["uid"] == "0" || facts["admin"] == "True" || facts["sudo"] == "yes"
	if facts["sudo"] == "yes" {
		s.Elevate = []string{"sudo", "-n"}
	}
	if len(s.Temp) == 0 {
		return &WayError{Kind: o.kind, Step: "temp", Problem: "no folder takes the component: " + strings.Join(refused, "; "),
			Hint: "mount /tmp or /var/tmp without noexec, or name another folder", Err: ErrNoTemp}
	}
	o.system = s
	return nil
}

// ErrNoTemp says that a guest has no folder in which a component can be put and run.
var ErrNoTemp = errors.New("no folder for a component")

// archName turns the words of uname and of Windows into Go's.
func archName(s string) string {
	switch s = strings.ToLower(s); s {
	case "x86_64", "amd64":
		return "amd64"
	case "aarch64", "arm64":
		return "arm64"
	case "i386", "i486", "i586", "i686", "x86":
		return "386"
	}
	return s
}

// printable is what is shown of words that a guest chose.
func printable(s string) string { return Printable(strings.Join(strings.Fields(s), " "), maxWord) }
