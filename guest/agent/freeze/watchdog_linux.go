package freeze

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	armLimit     = 10 * time.Second
	releaseLimit = 5 * time.Second
)

// Words between the two processes.
const (
	wordArmed   = "armed"
	wordRelease = "release"
	wordHeld    = "held"
	wordLate    = "late"
)

// watchdog is our side of it.
type watchdog struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	said chan string   // its lines
	gone chan struct{} // closed when it has ended
}

// startWatchdog returns when it is armed.
func startWatchdog(ctx context.Context, opts *Options, files []*frozenFile, hold time.Duration) (*watchdog, error) {
	line := opts.Watchdog
	if line == nil {
		line = []string{"/proc/self/exe", "watchdog"}
	}
	args := append(line[1:len(line):len(line)], "--files", strconv.Itoa(len(files)), "--hold", hold.String())
	if opts.Leave != nil {
		args = append(args, "--leave", opts.Leave.Dir())
	}
	cmd := exec.Command(line[0], args...)
	cmd.Args[0], cmd.Dir = "hikae-agent", "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // what ends our session does not end it
	for _, f := range files {
		cmd.ExtraFiles = append(cmd.ExtraFiles, f.file)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("watchdog: %w", err)
	}
	w := &watchdog{cmd: cmd, in: in, said: make(chan string, 4), gone: make(chan struct{})}
	go w.listen(out)
	word, err := w.hear(ctx, armLimit)
	if err == nil && word != wordArmed {
		err = fmt.Errorf("it said %q", word)
	}
	if err != nil {
		w.kill()
		return nil, fmt.Errorf("watchdog: it did not get ready: %w", err)
	}
	return w, nil
}

// listen reads its lines until it ends.
func (w *watchdog) listen(out io.Reader) {
	lines := bufio.NewScanner(io.LimitReader(out, 4<<10))
	for lines.Scan() {
		select {
		case w.said <- lines.Text():
		default:
		}
	}
	w.cmd.Wait()
	close(w.gone)
}

// hear waits for a line.
func (w *watchdog) hear(ctx context.Context, limit time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	select {
	case word := <-w.said:
		return word, nil
	case <-w.gone:
		select {
		case word := <-w.said: // its last
			return word, nil
		default:
			return "", errNoWatchdog
		}
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// release lets it go. held is false where it has thawed, or died, before.
func (w *watchdog) release() (held bool) {
	io.WriteString(w.in, wordRelease+"\n")
	word, err := w.hear(context.Background(), releaseLimit)
	w.in.Close()
	select {
	case <-w.gone:
	case <-time.After(releaseLimit):
		w.kill()
	}
	return err == nil && word == wordHeld
}

func (w *watchdog) kill() {
	w.cmd.Process.Kill()
	<-w.gone
}

var errUsage = errors.New("watchdog: it is started by the component, not by hand")

// charge is what a watchdog is told on its command line.
type charge struct {
	files int
	hold  time.Duration
	leave string
}

func parseCharge(args []string) (c charge, err error) {
	for len(args) >= 2 {
		switch args[0] {
		case "--files":
			c.files, err = strconv.Atoi(args[1])
		case "--hold":
			c.hold, err = time.ParseDuration(args[1])
		case "--leave":
			c.leave = args[1]
		default:
			err = errUsage
		}
		if err != nil {
			return c, err
		}
		args = args[2:]
	}
	if len(args) > 0 || c.files < 1 || c.files > maxTargets || c.hold <= 0 || strings.HasPrefix(c.leave, "-") {
		return c, errUsage
	}
	return c, nil
}

// descriptors are those that it was given, behind its standard streams.
func (c charge) descriptors() []*os.File {
	var out []*os.File
	for i := range c.files {
		out = append(out, os.NewFile(uintptr(3+i), "frozen"+strconv.Itoa(i)))
	}
	return out
}
