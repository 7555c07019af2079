//go:build linux

// Figures: the bars of the data movers, measured between processes in network namespaces. They run in the long tier
// only, print what they measured beside the bar, and fail only where a figure is so far off that something is broken:
// whether a bar is met is read from the table, which is made on a quiet machine.
package mover_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/netlab"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// figures skips a test that measures where nobody wants to wait for it. Each has ten minutes.
func figures(t *testing.T) context.Context {
	t.Helper()
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier != "long" && tier != "release" {
		t.Skip("HIKAE_TEST_TIER is neither long nor release")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// timed is figures for what says nothing under the race detector, which makes everything ten times as slow.
func timed(t *testing.T) context.Context {
	t.Helper()
	if raced {
		t.Skip("not measured under the race detector: go test -run Figure ./pipe/mover")
	}
	return figures(t)
}

// figure prints a row of the table, with the machine's load of the last minute; with HIKAE_FIGURES it is also appended to
// that file.
func figure(t *testing.T, what, bar, format string, args ...any) {
	t.Helper()
	load, err := os.ReadFile("/proc/loadavg")
	require.NoError(t, err)
	last, _, _ := strings.Cut(string(load), " ")
	row := fmt.Sprintf("| %s | %s | %s | %s |", what, bar, fmt.Sprintf(format, args...), last)
	t.Log(row)
	name := os.Getenv("HIKAE_FIGURES")
	if name == "" {
		return
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	require.NoError(t, err)
	defer f.Close()
	_, err = fmt.Fprintln(f, row)
	require.NoError(t, err)
}

// lab is a lab that ends with the test.
func lab(t *testing.T, ctx context.Context) *netlab.Lab {
	t.Helper()
	if err := netlab.Check(); err != nil {
		t.Skip(err)
	}
	l, err := netlab.New(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

// space makes a site.
func space(t *testing.T, ctx context.Context, l *netlab.Lab, what string) *netlab.Space {
	t.Helper()
	s, err := l.Space(ctx, what)
	require.NoError(t, err)
	return s
}

// party are the folders of a mover and of one who is enrolled there.
type party struct {
	dir string // server: id, book, repo, state; client: id
	pin trust.Pin
}

func newParty(t *testing.T) *party {
	t.Helper()
	p := &party{dir: t.TempDir()}
	id, err := trust.LoadIdentity(p.server("id"))
	require.NoError(t, err)
	p.pin = id.Pin()
	p.enrol(t, "site", trust.Full)
	return p
}

func (p *party) server(what string) string { return filepath.Join(p.dir, "server", what) }
func (p *party) client(name string) string { return filepath.Join(p.dir, "client", name) }

// enrol makes a client known, as a token and its use would.
func (p *party) enrol(t *testing.T, name string, role trust.Role) {
	t.Helper()
	id, err := trust.LoadIdentity(p.client(name))
	require.NoError(t, err)
	book, err := trust.OpenBook(p.server("book"))
	require.NoError(t, err)
	token, err := book.AddToken(p.pin, name, role, time.Hour)
	require.NoError(t, err)
	once, err := token.Identity()
	require.NoError(t, err)
	_, err = book.Enrol(once.Pin(), id.PublicKey(), "figures")
	require.NoError(t, err)
}

// serve and as are specs for the two sides.
func (p *party) serve(role, listen string) spec {
	return spec{Role: role, Address: listen, Dir: filepath.Join(p.dir, "server")}
}

func (p *party) as(role, name, address string) spec {
	return spec{Role: role, Address: address, Dir: p.client(name), Pin: p.pin, VM: "vm"}
}

// child is a process that plays a role, so that its memory, its processor time and its namespace are its own.
type child struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *json.Decoder
	stderr *strings.Builder
}

// start starts a child in a space; nil: in ours. It is killed when ctx or the test ends.
func start(t *testing.T, ctx context.Context, s *netlab.Space, role spec) *child {
	t.Helper()
	text, err := json.Marshal(role)
	require.NoError(t, err)
	c := &child{t: t, cmd: exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestFigureChild$"), stderr: &strings.Builder{}}
	c.cmd.Env = append(os.Environ(), specEnv+"="+string(text))
	c.cmd.Stderr, c.cmd.WaitDelay = c.stderr, 5*time.Second
	c.in, err = c.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := c.cmd.StdoutPipe()
	require.NoError(t, err)
	c.out = json.NewDecoder(out)
	if s == nil {
		require.NoError(t, c.cmd.Start())
	} else {
		require.NoError(t, s.Start(c.cmd))
	}
	t.Cleanup(func() {
		c.cmd.Process.Kill()
		c.cmd.Wait()
	})
	return c
}

// next is the next thing that the child says.
func (c *child) next() said {
	c.t.Helper()
	var s said
	if err := c.out.Decode(&s); err != nil {
		c.cmd.Process.Kill()
		c.cmd.Wait()
		require.NoError(c.t, err, "the child said: %s", c.stderr.String())
	}
	require.Empty(c.t, s.Error, "the child said: %s", c.stderr.String())
	return s
}

// ask makes the child say what it has used so far.
func (c *child) ask() said {
	c.t.Helper()
	_, err := io.WriteString(c.in, "mark\n")
	require.NoError(c.t, err)
	return c.next()
}

// end closes the child's input, which ends a server, and waits for it.
func (c *child) end() {
	c.t.Helper()
	c.in.Close()
	require.NoError(c.t, c.cmd.Wait(), c.stderr.String())
}

// noiseFile is a file of bytes that do not compress.
func noiseFile(t *testing.T, size int64) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, writeNoise(name, size, uint64(size)))
	return name
}
