package service

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Times of a service that systemd does not run.
const (
	startLimit = 20 * time.Second
	stopLimit  = 100 * time.Second // as for systemd
)

func pidPath(dir string) string { return filepath.Join(dir, "service.pid") }

func writePID(dir string) error {
	return os.WriteFile(pidPath(dir), []byte(strconv.Itoa(os.Getpid())), 0o600)
}

// startDetached starts the service as a process that outlives this one, in the place of one that runs, and waits until it
// listens.
func startDetached(ctx context.Context, dir string) (listening string, err error) {
	if err := stop(ctx, dir, ""); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	cmd := exec.Command(Program(dir), "installer", "run", "--dir", dir, "--unit-dir", "none")
	cmd.Dir, cmd.Stdout = "/", w
	detach(cmd)
	err = cmd.Start()
	w.Close()
	if err != nil {
		return "", err
	}
	_ = r.SetReadDeadline(time.Now().Add(startLimit))
	defer context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Now()) })()
	line, err := bufio.NewReader(r).ReadSlice('\n')
	var said struct{ Listening string }
	if err == nil {
		err = json.Unmarshal(line, &said)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("the service did not start: %w", err), cmd.Process.Kill(), cmd.Wait())
	}
	return said.Listening, cmd.Process.Release()
}

// stop ends the service. One that does not run is no error.
func stop(ctx context.Context, dir, unitDir string) error {
	if systemds(unitDir) {
		if _, err := os.Stat(filepath.Join(unitDir, UnitName)); err == nil {
			return systemctl(ctx, "disable", "--now", UnitName)
		}
	}
	text, err := readBounded(pidPath(dir), 32)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	program := Program(dir)
	if real, err := filepath.EvalSymlinks(program); err == nil {
		program = real // as the system knows it
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 || !runs(pid, program) {
		return nil // another process has that number by now
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	if err := end(p); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	for runs(pid, program) {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the service (process %d) does not end: %w", pid, context.Cause(ctx))
		}
	}
	return nil
}
