//go:build unix

package script

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hikae/hikae/guest/agent/wire"
)

// trusted is the file that a path leads to, if nobody but root could have put it there.
func (r *Runner) trusted(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	for at := range upwards(path, real) {
		info, err := os.Lstat(at)
		if err != nil {
			return "", err
		}
		if err := r.safe(info); err != nil {
			return "", fmt.Errorf("%s: %w", at, err)
		}
	}
	info, err := os.Stat(real)
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", errors.New("not a file")
	case info.Mode().Perm()&0o111 == 0:
		return "", errors.New("not executable")
	}
	return real, nil
}

// upwards are paths and all folders above them.
func upwards(paths ...string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, at := range paths {
			for {
				if !yield(at) {
					return
				}
				if at == filepath.Dir(at) {
					break
				}
				at = filepath.Dir(at)
			}
		}
	}
}

// safe wants what only root, or the owner that options allow, can change. A folder with the sticky bit lets others add
// names but not replace ours.
func (r *Runner) safe(info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid != 0 && int(st.Uid) != r.opts.Owner {
		return errors.New("it does not belong to root")
	}
	link := info.Mode()&fs.ModeSymlink != 0
	sticky := info.IsDir() && info.Mode()&fs.ModeSticky != 0
	if info.Mode().Perm()&0o022 != 0 && !link && !sticky {
		return errors.New("others than its owner can write to it")
	}
	return nil
}

// grace is how long a killed script's output may stay open: children that it left behind may hold it.
const grace = 500 * time.Millisecond

// runScript runs a file in a process group of its own, which is killed when the limit or the context is over.
func runScript(ctx context.Context, path string, args []string, limit time.Duration, res *wire.ScriptResult) {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out := &capture{}
	cmd := exec.CommandContext(limited, path, args...)
	cmd.Dir, cmd.Env = "/", environment()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = grace
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err := cmd.Run()
	res.Output, res.Truncated = strings.ToValidUTF8(string(out.kept), "\uFFFD"), out.more
	if cmd.ProcessState != nil {
		res.ExitCode = cmd.ProcessState.ExitCode()
	}
	switch {
	case ctx.Err() != nil:
		res.Problem = "it was stopped: " + ctx.Err().Error()
	case limited.Err() != nil:
		res.Problem = fmt.Sprintf("it ran longer than %v and was stopped", limit)
	case err != nil && !errors.As(err, new(*exec.ExitError)) && !errors.Is(err, exec.ErrWaitDelay):
		res.Problem = err.Error()
	case cmd.ProcessState != nil && res.ExitCode < 0:
		res.Problem = cmd.ProcessState.String()
	}
}

// environment is what every script gets, whatever the component was started with.
func environment() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root"}
}
