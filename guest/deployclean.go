package guest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/hikae/hikae"
)

// Cleaner is an optional ability of a channel that starts programs in a way of its own, such as by services: it ends a
// program, takes it and its folder away, and looks whether they are gone. What is left is named in words. A program that
// was never started, or a folder that was never made, is no error.
type Cleaner interface {
	Clean(ctx context.Context, p Program) (left []string, err error)
}

// TakeAway ends a program that was brought in and removes its folder with all in it. It returns nil when it has looked and
// found nothing; otherwise the error is ErrLeftover. What is not there is no error.
func TakeAway(ctx context.Context, ch Channel, p Program) error {
	if !ourFolder.MatchString(baseOf(folderOf(p.Path))) || !plain(p.Path) {
		return fmt.Errorf("%s is no folder of ours: %w", printable(folderOf(p.Path)), errPath)
	}
	ctx, cancel := bounded(ctx, cleanLimit)
	defer cancel()
	clean := cleanByScript
	if cleaner, ok := ch.(Cleaner); ok {
		clean = func(ctx context.Context, _ Channel, p Program) ([]string, error) { return cleaner.Clean(ctx, p) }
	}
	left, err := clean(ctx, ch, p)
	switch {
	case err != nil:
		return fmt.Errorf("%w, maybe: %s: nobody could look: %w", ErrLeftover, folderOf(p.Path), err)
	case len(left) > 0:
		return fmt.Errorf("%w: %s", ErrLeftover, strings.Join(left, "; "))
	}
	return nil
}

// plain reports whether a path says where it leads.
func plain(path string) bool {
	return !slices.ContainsFunc(strings.FieldsFunc(path, func(r rune) bool { return r == '/' || r == '\\' }), func(part string) bool {
		return part == ".." || part == "."
	})
}

// ourFolder is what our folders are called. Nothing else is ever removed whole.
var ourFolder = regexp.MustCompile(`^hikae-[a-z0-9]{16,40}$`)

// cleanScript gives the program a moment to end, asks it to, kills it, and never its watchdog: that thaws what the program had frozen,
// and ends then. Only after that the folder goes. $1 is the folder, $2 the program. Names of programs come from the kernel: a
// program that was deleted while it runs still has its path.
//
// Anybody in the guest may give a folder and a program any name, line breaks too. So the list of links says only which
// processes to look at; ours is one that is this account's own, and whose program is ours to the last byte.
const cleanScript = `d=$1 f=$2
ours() {
	ls -l /proc/[0-9]*/exe 2>/dev/null | while IFS= read -r l; do
		case $l in *" -> $f"|*" -> $f (deleted)") ;; *) continue;; esac
		q=${l#*/proc/}; q=${q%%/*}
		case $q in ''|*[!0-9]*) continue;; esac
		[ -O "/proc/$q" ] || continue
		e=$(readlink "/proc/$q/exe" 2>/dev/null; echo .)
		case $e in "$f
."|"$f (deleted)
.") echo "$q";; esac
	done
}
nap() { sleep 0.02 2>/dev/null || sleep 1; }
i=0
while p=$(ours); [ -n "$p" ] && [ $i -lt 600 ]; do
	i=$((i+1))
	signal=
	[ $i -ne 20 ] || signal=TERM
	[ $i -lt 80 ] || signal=KILL
	[ -z "$signal" ] || for q in $p; do
		grep -q watchdog "/proc/$q/cmdline" 2>/dev/null || kill -$signal "$q" 2>/dev/null
	done
	nap
done
rm -rf -- "$d"
for q in $p; do echo "left=process $q"; done
if [ -e "$d" ] || [ -L "$d" ]; then echo "left=folder $d"; fi
echo looked`

const cleanWindows = `$d=$w[0];$o=[Console]::Out;
for($i=0;$i -lt 100;$i++){$p=@(Get-Process|Where-Object{$_.Path -and $_.Path.StartsWith($d+'\',[StringComparison]::OrdinalIgnoreCase)});
if($p.Count -eq 0){break};if($i -ge 50){$p|Stop-Process -Force -ErrorAction SilentlyContinue};Start-Sleep -Milliseconds 40}
for($i=0;$i -lt 20 -and [IO.Directory]::Exists($d);$i++){try{[IO.Directory]::Delete($d,$true)}catch{Start-Sleep -Milliseconds 100}}
$p|ForEach-Object{$o.Write("left=process $($_.Id)` + "`n" + `")};if([IO.Directory]::Exists($d)){$o.Write("left=folder $d` + "`n" + `")};
$o.Write("looked` + "`n" + `")`

func cleanByScript(ctx context.Context, ch Channel, p Program) (left []string, err error) {
	var r hikae.RunResult
	if ch.System().OS == "windows" {
		r, err = powershell(ctx, ch, cleanWindows, folderOf(p.Path))
	} else {
		r, err = RunAdmin(ctx, ch, shell, []string{"-c", cleanScript, "sh", folderOf(p.Path), p.Path}, nil)
	}
	if err != nil {
		return nil, err
	}
	looked := false
	for line := range strings.Lines(string(r.Stdout)) {
		line = strings.TrimRight(line, "\r\n")
		looked = looked || line == "looked"
		if what, ok := strings.CutPrefix(line, "left="); ok && len(left) < 20 {
			left = append(left, printable(what))
		}
	}
	if !looked {
		return nil, fmt.Errorf("exit code %d: %s", r.ExitCode, printable(string(r.Stderr)))
	}
	return left, nil
}

// EffectKind is what a component in a guest is called in the journal.
const EffectKind = "guest.component"

// effectOf is what the journal keeps of a deployment.
func effectOf(name string, ch Channel, p Program) hikae.Effect {
	return hikae.Effect{Kind: EffectKind, VM: name, Facts: map[string]string{
		"way": string(ch.Kind()), "folder": folderOf(p.Path), "program": p.Path, "service": p.Name, "os": ch.System().OS,
	}}
}

// UndoDeploy takes away what an effect of kind [EffectKind] tells of, over a channel to the same guest. It returns nil when
// it has looked and found nothing. An effect that tells of anything but a folder of ours is refused.
func UndoDeploy(ctx context.Context, ch Channel, e hikae.Effect) error {
	p := Program{Path: e.Facts["program"], Name: e.Facts["service"]}
	if e.Kind != EffectKind || folderOf(p.Path) != e.Facts["folder"] || p.Name != baseOf(e.Facts["folder"]) {
		return fmt.Errorf("effect %s is not one of a component: %w", e.ID, errPath)
	}
	if err := TakeAway(ctx, ch, p); err != nil {
		return &StepError{Guest: e.VM, Step: "remove", Err: err}
	}
	return nil
}

// ErrUpload says that what arrived in a guest is not what was sent.
var ErrUpload = errors.New("the component in the guest is not the one that was sent")

const hashScript = `sha256sum "$1" 2>/dev/null || shasum -a 256 "$1" 2>/dev/null || openssl dgst -r -sha256 "$1" 2>/dev/null`

const hashWindows = `$s=[Security.Cryptography.SHA256]::Create();$f=[IO.File]::OpenRead($w[0]);
try{[Console]::Out.Write([BitConverter]::ToString($s.ComputeHash($f)).Replace('-','').ToLower())}finally{$f.Close()}`

// proveUpload compares hashes in the guest, or, where it has no program for that, reads the file back.
func proveUpload(ctx context.Context, ch Channel, path string, b *Build) error {
	sum, ok := hashInGuest(ctx, ch, path)
	if !ok {
		back, err := ch.Download(ctx, path, int64(len(b.Content)))
		if err != nil {
			return fmt.Errorf("read the component back: %w", err)
		}
		sum = sha256.Sum256(back)
	}
	if sum != b.SHA256 {
		return fmt.Errorf("%w: SHA-256 is %x, not %x", ErrUpload, sum, b.SHA256)
	}
	return nil
}

func hashInGuest(ctx context.Context, ch Channel, path string) (sum [sha256.Size]byte, ok bool) {
	var r hikae.RunResult
	var err error
	if ch.System().OS == "windows" {
		r, err = powershell(ctx, ch, hashWindows, path)
	} else {
		r, err = ch.Run(ctx, shell, []string{"-c", hashScript, "sh", path}, nil)
	}
	if err != nil || len(r.Stdout) < 2*len(sum) {
		return sum, false
	}
	_, err = hex.Decode(sum[:], r.Stdout[:2*len(sum)])
	return sum, err == nil
}

// guestPath is a path in the guest's own notation.
func guestPath(s System, parts ...string) string {
	if s.OS == "windows" {
		return strings.Join(parts, `\`)
	}
	return strings.Join(parts, "/")
}

func folderOf(path string) string {
	if i := strings.LastIndexAny(path, `/\`); i > 0 {
		return path[:i]
	}
	return ""
}

func baseOf(path string) string { return path[strings.LastIndexAny(path, `/\`)+1:] }
