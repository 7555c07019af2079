package guestops

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hikae/hikae/guest/winrmchannel/pwsh"
)

const shell = "/bin/sh"

// runScript runs a program with its streams in a folder: $1 is the folder, $2 says whether there is an input, the rest are
// the program and its arguments. Of each stream 1 MiB and one byte are kept; the rest is read and thrown away, so that no
// program waits for us. The file pid names the program for killScript: with setsid it leads a group of its own. The program
// has no other descriptor of ours than its three streams, and the exit code is its own.
const runScript = `PATH=$PATH:/usr/bin:/bin; umask 077; d=$1; i=/dev/null; [ "$2" = no ] || i=$d/in; shift 2
keep() { head -c 1048577; cat >/dev/null; }
s=$(command -v setsid) || s=
: >"$d/out"; : >"$d/err"; : >"$d/code"
{ { { $s /bin/sh -c 'echo $$ >"$0/pid"; exec "$@"' "$d" "$@" <"$i" 3>&- 4>&-; echo $? >&4; } 2>&3 | keep >"$d/out" 3>&- 4>&-; } 3>&1 | keep >"$d/err" 4>&-; } 4>"$d/code"
read -r c <"$d/code" && exit "$c"; exit 1`

// killScript ends what runScript has started: first politely. $2 says whether only root may.
const killScript = `for i in 1 2 3 4 5; do [ ! -s "$1/pid" ] || break; sleep 0.1; done
read -r p <"$1/pid" || exit 0
case $p in ''|*[!0-9]*) exit 0;; esac
[ "$p" -gt 1 ] || exit 0
s=; [ "$2" = no ] || s='sudo -n'
k() { $s /bin/sh -c 'kill -"$0" -"$1" 2>/dev/null || kill -"$0" "$1" 2>/dev/null' "$1" "$p"; }
k TERM; sleep 0.2; k KILL; exit 0`

// runWindows does the same: $w[0] is the folder, $w[1] the program, $w[2] its command line, $w[3] the milliseconds it has.
const runWindows = `$f=$w[1];$l=$w[2];$d=[long]$w[3];$in=New-Object byte[] 0
if([IO.File]::Exists("$($w[0])\in")){$in=[IO.File]::ReadAllBytes("$($w[0])\in")}
` + pwsh.Process + `[IO.File]::WriteAllBytes("$($w[0])\out",$k[0].ToArray());[IO.File]::WriteAllBytes("$($w[0])\err",$k[1].ToArray())
exit $p.ExitCode`

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

var errPath = errors.New("not an absolute path of the guest's system")

// systemOf says which system an absolute path belongs to.
func systemOf(path string) (windows bool, err error) {
	if strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return false, errPath
	}
	if strings.HasPrefix(path, "/") && len(path) > 1 {
		return false, nil
	}
	drive := len(path) > 3 && path[1] == ':' && (path[2] == '\\' || path[2] == '/')
	if drive && (path[0]|0x20 >= 'a' && path[0]|0x20 <= 'z') {
		return true, nil
	}
	return false, errPath
}

// shellLine quotes words for the one shell that VMware Tools put between us and a program. Inside single quotes a shell
// reads nothing; a quote itself is written outside of them.
func shellLine(words []string) (string, error) {
	var b strings.Builder
	for i, w := range words {
		if strings.ContainsRune(w, 0) {
			return "", errors.New("a word with a NUL byte")
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString("'" + strings.ReplaceAll(w, "'", `'\''`) + "'")
	}
	if b.Len() > maxLine {
		return "", fmt.Errorf("a command of %d bytes, at most %d", b.Len(), maxLine)
	}
	return b.String(), nil
}
