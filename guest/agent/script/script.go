package script

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae/guest/agent"
	"github.com/hikae/hikae/guest/agent/wire"
)

// Bounds.
const (
	maxScripts = 64       // of all places
	maxOutput  = 16 << 10 // bytes that are kept
	minLimit   = 100 * time.Millisecond
)

// The phases.
const (
	Freeze     = "freeze"
	Thaw       = "thaw"
	FreezeFail = "freezeFail"
)

// Folder is a place for scripts that get their phase as an argument.
type Folder struct {
	Path   string
	NoFail bool // they know no freezeFail and get thaw
}

// Single is a script for one phase, without an argument.
type Single struct{ Path, Phase string }

// Options choose the places. Nil is the conventional ones.
type Options struct {
	Folders []Folder
	Singles []Single
	// Owner is who must own a script and the folders above it, besides root. Zero: root alone.
	Owner int
}

// Conventional are the places of this system.
func Conventional() *Options {
	return &Options{
		Folders: []Folder{
			{Path: "/etc/hikae/freeze.d"},
			{Path: "/etc/vmware-tools/backupScripts.d"},
			{Path: "/etc/qemu/fsfreeze-hook.d", NoFail: true},
		},
		Singles: []Single{{"/usr/sbin/pre-freeze-script", Freeze}, {"/usr/sbin/post-thaw-script", Thaw}},
	}
}

// Runner runs scripts.
type Runner struct{ opts Options }

var _ agent.Scripts = (*Runner)(nil)

// New makes a runner.
func New(opts *Options) *Runner {
	if opts == nil {
		opts = Conventional()
	}
	return &Runner{*opts}
}

// leftovers are what editors and package managers put beside a file.
var leftovers = []string{"~", ".bak", ".bk", ".orig", ".rej", ".swp", ".dpkg-old", ".dpkg-new", ".dpkg-dist", ".rpmsave", ".rpmnew", ".rpmorig",
	".disabled", ".sample"}

// found is a script with its argument.
type found struct {
	path string
	args []string
}

// find lists what one phase runs, in the order of a freeze. A folder that is not there has nothing; one that cannot be
// read is an error, with what the others have.
func (r *Runner) find(phase string) (out []found, err error) {
	for _, f := range r.opts.Folders {
		entries, unread := os.ReadDir(f.Path)
		if unread != nil && !errors.Is(unread, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("%s: its scripts are not known: %w", f.Path, unread))
		}
		for _, e := range entries {
			if !e.IsDir() && runnable(e.Name()) && executable(filepath.Join(f.Path, e.Name())) {
				out = append(out, found{filepath.Join(f.Path, e.Name()), []string{f.argument(phase)}})
			}
		}
	}
	for _, s := range r.opts.Singles {
		if _, err := os.Lstat(s.Path); err == nil && s.Phase == singlePhase(phase) {
			out = append(out, found{path: s.Path})
		}
	}
	return out, err
}

// executable is the convention of hook folders: what nobody may execute is not a script, but a text beside them. What
// cannot be looked at stays in the list, and is refused when it is to run.
func executable(path string) bool {
	info, err := os.Stat(path)
	return err != nil || !info.IsDir() && info.Mode().Perm()&0o111 != 0
}

func (f Folder) argument(phase string) string {
	if phase == FreezeFail && f.NoFail {
		return Thaw
	}
	return phase
}

// singlePhase: what runs after a thaw also runs after a freeze that failed.
func singlePhase(phase string) string {
	if phase == FreezeFail {
		return Thaw
	}
	return phase
}

func runnable(name string) bool {
	return !strings.HasPrefix(name, ".") && !slices.ContainsFunc(leftovers, func(s string) bool { return strings.HasSuffix(name, s) })
}

// List implements [agent.Scripts].
func (r *Runner) List() []string {
	var out []string
	for _, phase := range []string{Freeze, Thaw} {
		scripts, _ := r.find(phase)
		for _, f := range scripts {
			out = append(out, f.path)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Run implements [agent.Scripts].
func (r *Runner) Run(ctx context.Context, phase string, limitMillis int64) ([]wire.ScriptResult, error) {
	scripts, err := r.find(phase)
	if err != nil && phase == Freeze {
		return nil, &wire.Failure{Code: wire.CodeVeto, Message: err.Error()}
	}
	if len(scripts) > maxScripts {
		return nil, &wire.Failure{Code: wire.CodeVeto, Message: fmt.Sprintf("%d scripts: at most %d are run", len(scripts), maxScripts)}
	}
	if phase != Freeze {
		slices.Reverse(scripts)
	}
	limit := max(time.Duration(limitMillis)*time.Millisecond, minLimit)
	var out []wire.ScriptResult
	for _, s := range scripts {
		res := r.one(ctx, s, limit)
		res.Phase = phase
		out = append(out, res)
		if phase == Freeze && (res.ExitCode != 0 || res.Problem != "") {
			return out, veto(res)
		}
	}
	if err != nil {
		out = append(out, wire.ScriptResult{Phase: phase, ExitCode: -1, Problem: err.Error()})
	}
	return out, nil
}

// one runs a script.
func (r *Runner) one(ctx context.Context, s found, limit time.Duration) wire.ScriptResult {
	res := wire.ScriptResult{Path: s.path, ExitCode: -1}
	start := time.Now()
	path, err := r.trusted(s.path)
	if err != nil {
		res.Problem = "it was not run: " + err.Error()
		return res
	}
	runScript(ctx, path, s.args, limit, &res)
	res.Millis = time.Since(start).Milliseconds()
	return res
}

// veto is the failure of a freeze that a script did not want, or could not make ready for.
func veto(res wire.ScriptResult) error {
	why := cmp.Or(res.Problem, fmt.Sprintf("it ended with %d", res.ExitCode))
	f := &wire.Failure{Code: wire.CodeVeto, Message: fmt.Sprintf("%s: %s", res.Path, why)}
	if out := strings.TrimSpace(res.Output); out != "" {
		f.Message += ": " + tail(out, 2<<10)
	}
	return f
}

// tail is the end of a text, where the reason stands.
func tail(s string, max int) string {
	if len(s) <= max {
		return s
	}
	return "…" + strings.ToValidUTF8(s[len(s)-max:], "")
}

// capture keeps the beginning of what is printed.
type capture struct {
	kept []byte
	more bool
}

func (c *capture) Write(p []byte) (int, error) {
	room := maxOutput - len(c.kept)
	c.kept = append(c.kept, p[:min(room, len(p))]...)
	c.more = c.more || len(p) > room
	return len(p), nil
}
