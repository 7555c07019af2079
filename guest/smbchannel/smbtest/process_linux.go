package smbtest

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/hikae/hikae/guest/smbchannel/scm"
	"github.com/hikae/hikae/guest/smbchannel/scm/scmtest"
)

// Component is what a service's program does: args are those of its command line, and stream is its pipe, nil where it
// has none. It returns its exit code. The context ends when the service is stopped.
type Component func(ctx context.Context, program string, args []string, stream io.ReadWriteCloser) int

// Exec runs the file that was uploaded, as "serve --dir FOLDER" on the stream where there is one: a component that was
// built for this system instead of Windows. A folder that is closed to others in Windows' terms is so in ours.
func Exec(ctx context.Context, program string, args []string, stream io.ReadWriteCloser) int {
	folder := filepath.Dir(program)
	if stream != nil {
		args = []string{"serve", "--dir", folder}
	}
	for _, path := range []string{program, folder} {
		if err := os.Chmod(path, 0o700); err != nil {
			return 2
		}
	}
	cmd := exec.CommandContext(ctx, program, args...)
	if stream != nil {
		in, err := cmd.StdinPipe()
		if err != nil {
			return 2
		}
		var feeding sync.WaitGroup
		feeding.Go(func() {
			_, _ = io.Copy(in, stream)
			_ = in.Close()
		})
		defer feeding.Wait()
		defer stream.Close()
		cmd.Stdout = stream
	}
	_ = cmd.Run() // its exit code says it all
	if cmd.ProcessState == nil {
		return 2
	}
	return max(cmd.ProcessState.ExitCode(), 0)
}

// process is a program that runs as a service.
type process struct {
	cancel context.CancelFunc
	done   chan struct{}
	code   int
}

var _ scmtest.Process = (*process)(nil)

func (p *process) Stop()                 { p.cancel() }
func (p *process) Done() <-chan struct{} { return p.done }
func (p *process) Code() int             { return p.code }

// startService is what the machine does with a service's command.
func (g *Guest) startService(command string) (scmtest.Process, error) {
	words, err := SplitCommand(command)
	if err != nil {
		return nil, err
	}
	program, err := g.Path(words[0])
	if err != nil {
		return nil, err
	}
	if fi, err := os.Stat(program); err != nil || !fi.Mode().IsRegular() {
		return nil, &scm.Error{Code: scm.FileNotFound}
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{cancel: cancel, done: make(chan struct{})}
	name := argument(words, "--name")
	if name == "" {
		g.run(p, func() int { return g.Component(ctx, program, words[1:], nil) })
		return p, nil
	}
	l, err := g.ListenPipe(name)
	if err != nil {
		cancel()
		return nil, err
	}
	g.run(p, func() int { return g.servePipe(ctx, l, program, words[1:]) })
	return p, nil
}

func (g *Guest) run(p *process, f func() int) {
	g.running.Go(func() {
		defer close(p.done)
		defer p.cancel()
		p.code = f()
	})
	g.mu.Lock()
	defer g.mu.Unlock()
	g.processes = append(g.processes, p)
}

// servePipe waits for the one client of a component.
func (g *Guest) servePipe(ctx context.Context, l net.Listener, program string, args []string) int {
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	stream, err := l.Accept()
	if err != nil {
		return 1
	}
	_ = l.Close()
	closed := sync.OnceValue(stream.Close)
	defer func() { _ = closed() }()
	defer context.AfterFunc(ctx, func() { _ = closed() })()
	return g.Component(ctx, program, args, stream)
}

func argument(words []string, flag string) string {
	for i, w := range words {
		if w == flag && i+1 < len(words) {
			return words[i+1]
		}
	}
	return ""
}

// SplitCommand takes a command line apart as Windows does: backslashes mean themselves but before a quote.
func SplitCommand(line string) (words []string, err error) {
	var b strings.Builder
	quoted, begun := false, false
	for i := 0; i < len(line); i++ {
		slashes := 0
		for ; i < len(line) && line[i] == '\\'; i++ {
			slashes++
		}
		switch {
		case i < len(line) && line[i] == '"':
			b.WriteString(strings.Repeat(`\`, slashes/2))
			if slashes%2 == 1 {
				b.WriteByte('"')
			} else {
				quoted = !quoted
			}
			begun = true
		case i < len(line) && (line[i] == ' ' || line[i] == '\t') && !quoted:
			b.WriteString(strings.Repeat(`\`, slashes))
			if begun || slashes > 0 {
				words = append(words, b.String())
				b.Reset()
			}
			begun = false
		default:
			b.WriteString(strings.Repeat(`\`, slashes))
			if i < len(line) {
				b.WriteByte(line[i])
			}
			begun = true
		}
	}
	if quoted {
		return nil, fmt.Errorf("a quote that does not end: %s", line)
	}
	if begun {
		words = append(words, b.String())
	}
	if len(words) == 0 {
		return nil, fmt.Errorf("an empty command")
	}
	return words, nil
}
