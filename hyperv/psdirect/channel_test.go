package psdirect

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/winrmchannel/pwsh"
	"github.com/hikae/hikae/guest/winrmchannel/winrmtest"
	"github.com/stretchr/testify/require"
)

const (
	secret = "pa55-of-the-guest"
	vm     = "6d1f2c8e-0b1a-4a55-9a0e-3f2b6c7d8e9f"
)

var cred = guest.Credential{User: "Administrator", Password: secret}

// fakeHost does what the scripts say with the data that they carry: no PowerShell runs. Its guest keeps files in memory.
type fakeHost struct {
	t     testing.TB
	guest *winrmtest.Windows
	fail  int    // the exit code of a script that does not come to its end
	said  string // by it
	noise string // before what a script says
	max   int    // bytes of a stream that the host's channel keeps
	runs  [][]string
	alter func(*hikae.RunResult)
}

func (h *fakeHost) Run(_ context.Context, path string, args []string, stdin []byte) (r hikae.RunResult, err error) {
	require.Equal(h.t, pwsh.Path, path)
	h.runs = append(h.runs, args)
	text, words, err := winrmtest.Decode(strings.Join(args, " "))
	require.NoError(h.t, err)
	require.Equal(h.t, vm, words[0])
	var lines [][]byte
	for line := range strings.Lines(string(stdin)) {
		b, err := base64.StdEncoding.DecodeString(strings.TrimRight(line, "\r\n"))
		require.NoError(h.t, err)
		lines = append(lines, b)
	}
	require.Equal(h.t, "Administrator", string(lines[0]))
	require.Equal(h.t, secret, string(lines[1]))
	mark := words[1]
	if h.fail != 0 {
		return hikae.RunResult{ExitCode: h.fail, Stderr: []byte(h.noise + mark + " " + h.said)}, nil
	}
	var code int
	var out, errs bytes.Buffer
	switch {
	case strings.Contains(text, "Diagnostics.ProcessStartInfo"):
		code = h.guest.Run(h.t.Context(), &winrmtest.Process{Path: string(lines[2]), Line: string(lines[3]),
			Stdin: bytes.NewReader(lines[4]), Stdout: &out, Stderr: &errs})
	case strings.Contains(text, "CreateNew"):
		code = h.upload(lines)
	default:
		code = h.download(&out, words, string(lines[2]))
	}
	o, e := first(out.Bytes(), maxStream+1), first(errs.Bytes(), maxStream+1)
	all := fmt.Appendf(nil, "%s%s %d %d %d\n%s", h.noise, mark, code, len(o), len(e), o)
	r = hikae.RunResult{Stdout: first(all, h.max), Stderr: first(fmt.Appendf(nil, "%s%s\n%s", h.noise, mark, e), h.max)}
	r.Truncated = len(all) > h.max || len(e)+len(mark)+1 > h.max
	if h.alter != nil {
		h.alter(&r)
	}
	return r, nil
}

func first(b []byte, n int) []byte { return b[:min(len(b), n)] }

func (h *fakeHost) upload(lines [][]byte) int {
	if _, there := h.guest.Files[string(lines[2])]; there {
		return exitExists
	}
	z, err := gzip.NewReader(bytes.NewReader(bytes.Join(lines[4:], nil)))
	require.NoError(h.t, err)
	data, err := io.ReadAll(z)
	require.NoError(h.t, err)
	_, err = hex.DecodeString(string(lines[3]))
	require.NoError(h.t, err)
	h.guest.Files[string(lines[2])] = data
	return 0
}

func (h *fakeHost) download(out *bytes.Buffer, words []string, path string) int {
	data, there := h.guest.Files[path]
	var n [3]int
	for i := range n {
		var err error
		n[i], err = strconv.Atoi(words[2+i])
		require.NoError(h.t, err)
	}
	if !there {
		return exitNone
	}
	if len(data) > n[2] {
		return exitLong
	}
	out.Write(first(data[min(n[0], len(data)):], n[1]))
	return 0
}

func newHost(t testing.TB) *fakeHost {
	return &fakeHost{t: t, guest: winrmtest.NewWindows(), max: maxStream}
}

func open(t testing.TB, h Host) *Channel {
	t.Helper()
	c, err := Open(h, vm, cred)
	require.NoError(t, err)
	return c
}

// R141: folders, files and programs of a guest that no network leads to, with what PowerShell says of its own in between; the
// password is in no command line.
func TestGuest(t *testing.T) {
	h := newHost(t)
	h.noise = "#< CLIXML\r\nnoise\n"
	h.guest.Other = func(_ context.Context, p *winrmtest.Process) int {
		io.Copy(p.Stdout, p.Stdin)
		fmt.Fprint(p.Stderr, p.Line)
		return -7
	}
	c, err := guest.Over(t.Context(), guest.PSDirect, open(t, h), &guest.OverOptions{OS: "windows"})
	require.NoError(t, err)
	require.Equal(t, "WEB1", c.System().Name)
	dir := `C:\Windows\Temp\it's $(calc)`
	require.NoError(t, c.MakeDir(t.Context(), dir))
	require.ErrorIs(t, c.MakeDir(t.Context(), dir), fs.ErrExist)
	data := make([]byte, 2_000_000)
	rand.Read(data)
	require.NoError(t, c.Upload(t.Context(), dir+`\a`, data, 0))
	require.ErrorIs(t, c.Upload(t.Context(), dir+`\a`, data, 0), fs.ErrExist)
	got, err := c.Download(t.Context(), dir+`\a`, 3_000_000)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))
	_, err = c.Download(t.Context(), dir+`\a`, 1_999_999)
	require.ErrorIs(t, err, errLong)
	_, err = c.Download(t.Context(), dir+`\b`, 10)
	require.ErrorIs(t, err, fs.ErrNotExist)
	r, err := c.Run(t.Context(), `C:\x y.exe`, []string{`a b`, `"`, ""}, data[:900_000])
	require.NoError(t, err)
	require.True(t, bytes.Equal(data[:900_000], r.Stdout))
	require.Equal(t, `"a b" "\"" ""`, string(r.Stderr))
	require.Equal(t, -7, r.ExitCode)
	require.False(t, r.Truncated)
	require.NoError(t, c.Remove(t.Context(), dir))
	require.Empty(t, h.guest.Left())
	for _, args := range h.runs {
		text, words, err := winrmtest.Decode(strings.Join(args, " "))
		require.NoError(t, err)
		require.NotContains(t, text+strings.Join(words, ""), secret)
		require.NotContains(t, text, base64.StdEncoding.EncodeToString([]byte(secret)))
		require.NotContains(t, text, "calc")
	}
}

// Of what a program prints 1 MiB comes, and it says so.
func TestTruncated(t *testing.T) {
	for n, want := range map[int]bool{1000: false, maxStream - 200: false, maxStream + 1: true, 5 * maxStream: true} {
		h := newHost(t)
		h.guest.Other = func(_ context.Context, p *winrmtest.Process) int {
			p.Stdout.Write(make([]byte, n))
			return 0
		}
		r, err := open(t, h).Run(t.Context(), `C:\x.exe`, nil, nil)
		require.NoError(t, err)
		require.Equal(t, want, r.Truncated, n)
		require.LessOrEqual(t, len(r.Stdout), maxStream)
	}
}

// R141, R158: what is missing on the host, of the machine or in the guest is told in words, with what to change.
func TestReasons(t *testing.T) {
	for code, want := range map[int]string{exitPowerShell: "host", exitHost: "host", exitNoHyperV: "host", exitNoMachine: "machine",
		exitState: "power", exitSession: "login", exitGuest: "guest"} {
		h := newHost(t)
		h.fail, h.said, h.noise = code, "4.0\x1b[31m", "noise "
		_, err := open(t, h).Run(t.Context(), `C:\x.exe`, nil, nil)
		var way *guest.WayError
		require.ErrorAs(t, err, &way)
		require.Equal(t, guest.PSDirect, way.Kind)
		require.Equal(t, want, way.Step)
		require.NotEmpty(t, way.Hint)
		require.NotContains(t, err.Error(), "\x1b")
		require.NotContains(t, err.Error(), secret)
		require.NotContains(t, err.Error(), "noise")
	}
	h := newHost(t)
	h.fail, h.said = 1, "x"
	_, err := open(t, h).Run(t.Context(), `C:\x.exe`, nil, nil)
	var way *guest.WayError
	require.ErrorAs(t, err, &way)
	require.Equal(t, "host", way.Step)

	_, err = Open(h, "web1'; calc", cred)
	require.ErrorIs(t, err, errMachine)
	_, err = Open(h, vm, guest.Credential{User: "x"})
	require.ErrorIs(t, err, errAccount)
	for _, bad := range []string{"", "x", `\x`, `C:`, "C:\\a\nb", `C:\a"b`, `\\h\x`} {
		_, err := open(t, h).Run(t.Context(), bad, nil, nil)
		require.ErrorIs(t, err, errProgram)
		require.ErrorIs(t, open(t, h).Upload(t.Context(), bad, nil, 0), errProgram)
		_, err = open(t, h).Download(t.Context(), bad, 1)
		require.ErrorIs(t, err, errProgram)
	}
}

// fakeWay opens the way to the host.
type fakeWay struct {
	guest.Way
	err    error
	host   *fakeHost
	closed int
}

type fakeChannel struct {
	guest.Channel
	way *fakeWay
}

func (w *fakeWay) Open(context.Context) (guest.Channel, error) {
	return &fakeChannel{way: w}, w.err
}
func (c *fakeChannel) Run(ctx context.Context, path string, args []string, stdin []byte) (hikae.RunResult, error) {
	return c.way.host.Run(ctx, path, args, stdin)
}
func (c *fakeChannel) Close() error { c.way.closed++; return nil }

// The host's channel is closed with the guest's, and when there is none.
func TestWay(t *testing.T) {
	w := &fakeWay{host: newHost(t)}
	f := New(w, vm, cred, nil).Probe(t.Context())
	require.True(t, f.Open, f)
	require.Equal(t, guest.PSDirect, f.Kind)
	require.Equal(t, 1, w.closed)
	w.host.fail, w.host.said = exitState, "Saved"
	f = New(w, vm, cred, nil).Probe(t.Context())
	require.Equal(t, "power", f.Step)
	require.Contains(t, f.Problem, "Saved")
	require.Equal(t, 2, w.closed)
	f = New(w, "web1", cred, nil).Probe(t.Context())
	require.False(t, f.Open)
	require.Equal(t, 3, w.closed)
	w.err = &guest.WayError{Kind: guest.WinRM, Step: "login", Problem: "refused"}
	f = New(w, vm, cred, nil).Probe(t.Context())
	require.Equal(t, "login", f.Step)
}

// A host that ends early, at any byte, is an error and never half an answer.
func TestCutAnswer(t *testing.T) {
	h := newHost(t)
	h.guest.Other = func(_ context.Context, p *winrmtest.Process) int {
		fmt.Fprint(p.Stdout, "out")
		fmt.Fprint(p.Stderr, "err")
		return 3
	}
	whole := 0
	for n := range 80 {
		h.alter = func(r *hikae.RunResult) {
			whole = len(r.Stdout)
			r.Stdout = first(r.Stdout, n)
		}
		r, err := open(t, h).Run(t.Context(), `C:\x.exe`, nil, nil)
		if n < whole {
			require.ErrorIs(t, err, errAnswer, n)
		} else {
			require.NoError(t, err)
			require.Equal(t, "out", string(r.Stdout))
		}
	}
	failing := &lost{}
	_, err := open(t, failing).Run(t.Context(), `C:\x.exe`, nil, nil)
	require.ErrorIs(t, err, errLost)
}

type lost struct{}

var errLost = errors.New("the line was cut")

func (*lost) Run(ctx context.Context, _ string, _ []string, _ []byte) (hikae.RunResult, error) {
	if end, ok := ctx.Deadline(); !ok || time.Until(end) > callLimit {
		return hikae.RunResult{}, nil
	}
	return hikae.RunResult{}, errLost
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte("m 0 1 1\na"), []byte("m\nb"))
	f.Add([]byte("m 0 99999999 -1\n"), []byte(""))
	f.Add([]byte("m -99999999999 0 0\n"), []byte("m"))
	f.Fuzz(func(t *testing.T, out, errs []byte) {
		r, err := answer(hikae.RunResult{Stdout: out, Stderr: errs}, "m")
		if err == nil {
			require.LessOrEqual(t, len(r.Stdout), maxStream)
			require.LessOrEqual(t, len(r.Stderr), maxStream)
		}
	})
}
