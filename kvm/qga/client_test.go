//go:build unix

package qga

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// guest plays an agent over a real socket, one client at a time, as far as the protocol goes; what commands do is the
// test's business. An answer of "" is none at all.
type guest struct {
	path   string
	answer func(name string, args json.RawMessage) string
	before string // what the port holds from an earlier client

	mu      sync.Mutex
	calls   []string
	clients int
}

func play(t *testing.T, g *guest) *guest {
	t.Helper()
	dir, err := os.MkdirTemp("", "qga") // short, for the socket
	require.NoError(t, err)
	g.path = filepath.Join(dir, "a")
	l, err := net.Listen("unix", g.path)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			cut := context.AfterFunc(ctx, func() { c.Close() })
			g.serve(c)
			cut()
			c.Close()
		}
	})
	t.Cleanup(func() {
		l.Close()
		stop()
		group.Wait()
		os.RemoveAll(dir)
	})
	return g
}

func (g *guest) serve(c net.Conn) {
	g.mu.Lock()
	g.clients++
	g.mu.Unlock()
	io.WriteString(c, g.before)
	for r := bufio.NewReader(c); ; {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return
		}
		var cmd struct {
			Execute   string
			Arguments json.RawMessage
		}
		json.Unmarshal(bytes.TrimLeft(line, "\xff"), &cmd)
		if cmd.Execute == "guest-sync-delimited" {
			var id struct{ ID int64 }
			json.Unmarshal(cmd.Arguments, &id)
			fmt.Fprintf(c, "\xff{\"return\": %d}\n", id.ID)
			continue
		}
		g.mu.Lock()
		g.calls = append(g.calls, strings.TrimPrefix(cmd.Execute, "guest-"))
		g.mu.Unlock()
		if text := g.answer(cmd.Execute, cmd.Arguments); text != "" {
			if _, err := io.WriteString(c, text+"\n"); err != nil {
				return
			}
		}
	}
}

func (g *guest) seen() (calls []string, clients int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.calls, g.clients
}

func client(t *testing.T, g *guest) *Client {
	t.Helper()
	c := New(g.path, &Options{SyncTimeout: 500 * time.Millisecond})
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func short(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// What an earlier client left in the port is thrown away, half messages and whole ones.
func TestSync(t *testing.T) {
	for _, before := range []string{"", `{"return": {"half`, "{\"return\": 1}\n{\"return\": 2}\n", "\xff{\"return\": 5}\n", "\xff\xff\n\xff{}\n", "\x00\x01\n"} {
		g := play(t, &guest{before: before, answer: func(string, json.RawMessage) string { return `{"return": "thawed"}` }})
		frozen, err := client(t, g).Frozen(t.Context())
		require.NoError(t, err, "%q", before)
		require.False(t, frozen)
	}
}

func TestNobodyThere(t *testing.T) {
	_, err := New(filepath.Join(t.TempDir(), "no"), nil).Frozen(t.Context())
	require.ErrorIs(t, err, os.ErrNotExist)

	dir, err := os.MkdirTemp("", "qga")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "a")) // nobody accepts: another client holds the port
	require.NoError(t, err)
	defer l.Close()
	c := New(filepath.Join(dir, "a"), &Options{SyncTimeout: 50 * time.Millisecond})
	_, err = c.Frozen(t.Context())
	require.ErrorIs(t, err, ErrSilent)
	_, err = c.Freeze(t.Context())
	require.ErrorIs(t, err, ErrSilent)
	require.NoError(t, c.Close())
	require.NoError(t, c.Close())
	require.ErrorIs(t, c.Do(t.Context(), "guest-ping", nil, nil), net.ErrClosed)
}

// A thaw whose answer does not come is asked again on a fresh connection, until the guest says that it is thawed.
func TestThawIsRepeated(t *testing.T) {
	frozen, thaws := true, 0
	g := play(t, &guest{answer: func(name string, _ json.RawMessage) string {
		switch name {
		case "guest-fsfreeze-thaw":
			if thaws++; thaws == 1 {
				return ""
			}
			if thaws == 2 {
				return `{"error": {"class": "GenericError", "desc": "busy"}}`
			}
			frozen = false
			return `{"return": 3}`
		}
		return map[bool]string{true: `{"return": "frozen"}`, false: `{"return": "thawed"}`}[frozen]
	}})
	c := client(t, g)
	c.try = 200 * time.Millisecond
	require.NoError(t, c.Thaw(t.Context()))
	calls, clients := g.seen()
	require.Equal(t, []string{"fsfreeze-thaw", "fsfreeze-thaw", "fsfreeze-status", "fsfreeze-thaw", "fsfreeze-status"}, calls)
	require.Equal(t, 2, clients)
}

func TestThawThatNeverComes(t *testing.T) {
	g := play(t, &guest{answer: func(name string, _ json.RawMessage) string {
		if name == "guest-fsfreeze-thaw" {
			return `{"return": 0}`
		}
		return `{"return": "frozen"}`
	}})
	c := client(t, g)
	require.ErrorContains(t, c.Thaw(short(t)), "not confirmed")
	_, err := c.Freeze(t.Context())
	require.ErrorIs(t, err, ErrFrozen)
}

// A freeze is not repeated, and its lost answer leaves open what happened.
func TestFreezeWhoseAnswerIsLost(t *testing.T) {
	g := play(t, &guest{answer: func(name string, _ json.RawMessage) string {
		return map[string]string{"guest-fsfreeze-status": `{"return": "thawed"}`}[name]
	}})
	_, err := client(t, g).Freeze(short(t))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.False(t, Refused(err))
	calls, _ := g.seen()
	require.Equal(t, []string{"fsfreeze-status", "fsfreeze-freeze"}, calls)
}

func TestStatusIsRepeated(t *testing.T) {
	n := 0
	g := play(t, &guest{answer: func(string, json.RawMessage) string {
		if n++; n == 1 {
			return ""
		}
		return `{"return": "frozen"}`
	}})
	frozen, err := client(t, g).Frozen(short(t))
	require.NoError(t, err)
	require.True(t, frozen)
}

// A guest that sends without an end, or what makes no sense, is an error within bounds.
func TestHostile(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON": "hello", "empty": "{}", "null": "null", "list": "[]", "type": `{"return": 5}`, "word": `{"return": "melted"}`,
		"deep": strings.Repeat(`{"return":`, 20000),
	} {
		g := play(t, &guest{answer: func(string, json.RawMessage) string { return text }})
		_, err := client(t, g).Frozen(t.Context())
		require.ErrorIs(t, err, ErrProtocol, name)
	}
	g := play(t, &guest{before: strings.Repeat("x", mib+1)})
	c := client(t, g)
	c.max = mib
	_, err := c.Frozen(t.Context())
	require.ErrorIs(t, err, ErrTooLong, "before the first answer")
	long := strings.Repeat("y", mib)
	g = play(t, &guest{answer: func(string, json.RawMessage) string { return long }})
	c = client(t, g)
	require.ErrorIs(t, c.Do(t.Context(), "guest-info", nil, nil), ErrProtocol, "long, and no JSON")
	c.max = mib
	require.ErrorIs(t, c.Do(t.Context(), "guest-info", nil, nil), ErrTooLong)
}

const mib = 1 << 20

func TestExec(t *testing.T) {
	out := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("a"), 5000))
	asked, status := 0, ""
	g := play(t, &guest{answer: func(name string, args json.RawMessage) string {
		if name == "guest-exec" {
			require.JSONEq(t, `{"path": "/bin/x", "arg": ["1"], "capture-output": true, "input-data": "aW4="}`, string(args))
			return `{"return": {"pid": 7}}`
		}
		if asked++; asked < 3 {
			return `{"return": {"exited": false}}`
		}
		return status
	}})
	c := client(t, g)
	run := func(max int) ExecResult {
		asked = 0
		r, err := c.Exec(t.Context(), "/bin/x", []string{"1"}, []byte("in"), max)
		require.NoError(t, err)
		return r
	}
	status = `{"return": {"exited": true, "exitcode": 3, "out-data": "` + out + `"}}`
	r := run(5000)
	require.Equal(t, 3, r.ExitCode)
	require.Len(t, r.Stdout, 5000)
	require.False(t, r.Truncated)
	r = run(4999)
	require.Len(t, r.Stdout, 4999)
	require.True(t, r.Truncated)
	status = `{"return": {"exited": true, "signal": 9, "err-data": "YQ==", "err-truncated": true}}`
	r = run(1)
	require.Equal(t, ExecResult{Stderr: []byte("a"), ExitCode: -1, Truncated: true}, r)
	status = `{"return": {"exited": true, "out-data": "!"}}`
	asked = 0
	_, err := c.Exec(t.Context(), "/bin/x", []string{"1"}, []byte("in"), 9)
	require.ErrorIs(t, err, ErrProtocol)
	status = `{"return": {"exited": false}}`
	_, err = c.Exec(short(t), "/bin/x", []string{"1"}, []byte("in"), 9)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// A file of the guest that never ends, and one whose writing makes no progress.
func TestFiles(t *testing.T) {
	wrote := `{"return": {"count": 100}}`
	g := play(t, &guest{answer: func(name string, _ json.RawMessage) string {
		switch name {
		case "guest-file-open":
			return `{"return": 1000}`
		case "guest-file-read":
			return `{"return": {"count": 3, "buf-b64": "YWFh", "eof": false}}`
		case "guest-file-write":
			return wrote
		}
		return `{"return": {}}`
	}})
	c := client(t, g)
	_, err := c.ReadFile(t.Context(), "/dev/zero", 1000)
	require.ErrorIs(t, err, ErrTooLong)
	require.NoError(t, c.WriteFile(t.Context(), "/x", make([]byte, 1000)))
	for _, wrote = range []string{`{"return": {"count": 0}}`, `{"return": {"count": -1}}`, `{"return": {"count": 1001}}`} {
		require.ErrorIs(t, c.WriteFile(t.Context(), "/x", make([]byte, 1000)), ErrProtocol)
	}
}

// An answer never panics, and one that is taken has a result.
func FuzzDecode(f *testing.F) {
	for _, text := range []string{`{"return": {"exited": true, "out-data": "YQ=="}}`, `{"error": {"class": "a", "desc": "b"}}`, `{"return": null}`,
		"\xff{\"return\": 1}\n", `{"return": {"exitcode": 1e99}}`, ""} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var s execStatus
		if err := decode("x", text, &s); err == nil {
			r := s.result(10)
			require.LessOrEqual(t, len(r.Stdout), 10)
			require.LessOrEqual(t, len(r.Stderr), 10)
		} else {
			require.True(t, Refused(err) || strings.Contains(err.Error(), ErrProtocol.Error()))
		}
	})
}

// A carrier stands in for the socket: freezing and thawing are the same by it, and so are refusals.
func TestVia(t *testing.T) {
	frozen := false
	c := Via(func(_ context.Context, request []byte) ([]byte, error) {
		var cmd struct{ Execute string }
		require.NoError(t, json.Unmarshal(request, &cmd))
		switch cmd.Execute {
		case "guest-fsfreeze-status":
			return fmt.Appendf(nil, `{"return": %q}`, map[bool]string{true: "frozen", false: "thawed"}[frozen]), nil
		case "guest-fsfreeze-freeze":
			frozen = true
			return []byte(`{"return": 3}`), nil
		case "guest-fsfreeze-thaw":
			frozen = false
			return []byte(`{"return": 3}`), nil
		case "long":
			return make([]byte, MaxMessage+1), nil
		case "lost":
			return nil, ErrSilent
		}
		return nil, &Error{Desc: "not found"}
	})
	defer c.Close()
	n, err := c.Freeze(t.Context())
	require.NoError(t, err)
	require.Equal(t, 3, n)
	_, err = c.Freeze(t.Context())
	require.ErrorIs(t, err, ErrFrozen)
	require.NoError(t, c.Thaw(t.Context()))
	require.False(t, frozen)
	err = c.Do(t.Context(), "nonsense", nil, nil)
	require.True(t, Refused(err))
	require.ErrorContains(t, err, "nonsense: not found")
	require.ErrorIs(t, c.Do(t.Context(), "long", nil, nil), ErrTooLong)
	require.ErrorIs(t, c.Do(t.Context(), "lost", nil, nil), ErrSilent)
}

// Where nobody listens any more there is nothing to thaw, and nothing to wait for.
func TestThawOfNobody(t *testing.T) {
	c := New(filepath.Join(t.TempDir(), "none"), nil)
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	begun := time.Now()
	require.ErrorIs(t, c.Thaw(ctx), fs.ErrNotExist)
	require.Less(t, time.Since(begun), 30*time.Second)
	require.GreaterOrEqual(t, time.Since(begun), refusedFor)
}
