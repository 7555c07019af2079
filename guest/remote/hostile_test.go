package remote

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest"
)

// raw is a connection to a town's proxy without a client.
func (w *town) raw(t *testing.T) net.Conn {
	t.Helper()
	conn, err := w.dial(t.Context())
	require.NoError(t, err)
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	t.Cleanup(func() { conn.Close() })
	return conn
}

func attachment(change func(*attachArgs)) frame {
	a := attachArgs{Version: Version, Task: strings.Repeat("a", 26), LeaseMillis: 60_000}
	if change != nil {
		change(&a)
	}
	payload, _ := json.Marshal(a)
	return frame{kind: kindAttach, payload: payload}
}

func encoded(t *testing.T, f frame) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, writeFrame(&b, f))
	return b.Bytes()
}

// header is one of any kind, whatever it claims.
func header(n uint32, kind byte, reserved byte, number uint64) []byte {
	h := make([]byte, headerSize)
	binary.BigEndian.PutUint32(h, n)
	h[4], h[6] = kind, reserved
	binary.BigEndian.PutUint64(h[8:], number)
	return h
}

// Whatever comes first that is not an Attach in its one form is refused, and the proxy goes on.
func TestBadBeginnings(t *testing.T) {
	t.Parallel()
	w := newTown(t, nil)
	c := w.client()
	for name, bad := range map[string][]byte{
		"nothing":            {},
		"half a header":      header(0, kindAttach, 0, 0)[:9],
		"HTTP":               []byte("GET / HTTP/1.1\r\nHost: proxy\r\n\r\n"),
		"kind 0":             header(0, 0, 0, 0),
		"kind 200":           header(0, 200, 0, 0),
		"4 GiB":              header(1<<32-1, kindAttach, 0, 0),
		"reserved":           header(0, kindAttach, 1, 0),
		"a number":           header(0, kindAttach, 0, 1),
		"a request first":    encoded(t, frame{kind: kindRequest, number: 1, payload: []byte(`{}`)}),
		"data first":         encoded(t, frame{kind: kindData, payload: []byte(`x`)}),
		"no JSON":            encoded(t, frame{kind: kindAttach, payload: []byte(`hello`)}),
		"two values":         encoded(t, frame{kind: kindAttach, payload: append(attachment(nil).payload, " {}"...)}),
		"an unknown field":   encoded(t, frame{kind: kindAttach, payload: []byte(`{"version":1,"admin":true}`)}),
		"another version":    encoded(t, attachment(func(a *attachArgs) { a.Version = 2 })),
		"no task":            encoded(t, attachment(func(a *attachArgs) { a.Task = "" })),
		"a path as task":     encoded(t, attachment(func(a *attachArgs) { a.Task = "../../../../etc/passwd----" })),
		"a lease of no time": encoded(t, attachment(func(a *attachArgs) { a.LeaseMillis = 1 })),
		"a lease for ever":   encoded(t, attachment(func(a *attachArgs) { a.LeaseMillis = 1 << 62 })),
		"an unknown task":    encoded(t, attachment(func(a *attachArgs) { a.Again = true })),
	} {
		conn := w.raw(t)
		go func() { _, _ = conn.Write(bad); time.AfterFunc(100*time.Millisecond, func() { conn.Close() }) }()
		f, err := readFrame(conn)
		if err == nil {
			require.Equal(t, kindRefuse, f.kind, name)
			_, err = readFrame(conn)
		}
		require.Error(t, err, name)
	}
	w.server.mu.Lock()
	require.Empty(t, w.server.tasks)
	w.server.mu.Unlock()
	_, err := c.Status(t.Context())
	require.NoError(t, err)
}

// What breaks the protocol later breaks the connection, and nothing else: the task is there for another one.
func TestBadFrames(t *testing.T) {
	t.Parallel()
	w := newTown(t, nil)
	req := func(n uint64, payload string) []byte {
		return encoded(t, frame{kind: kindRequest, number: n, payload: []byte(payload)})
	}
	for name, bad := range map[string][]byte{
		"an answer":           encoded(t, frame{kind: kindAnswer, number: 1, payload: []byte(`{}`)}),
		"a second attach":     encoded(t, attachment(nil)),
		"request 2 first":     req(2, `{"verb":"status","args":{}}`),
		"no JSON":             req(1, `{`),
		"data without stream": encoded(t, frame{kind: kindData, payload: []byte("x")}),
		"ack without stream":  encoded(t, frame{kind: kindAck}),
		"end without stream":  encoded(t, frame{kind: kindEnd}),
		"request 0":           header(0, kindRequest, 0, 0),
		"too long a request":  header(maxMessage+1, kindRequest, 0, 1),
		"empty data":          header(0, kindData, 0, 0),
	} {
		conn := w.raw(t)
		go func() { _, _ = conn.Write(encoded(t, attachment(nil))) }()
		f, err := readFrame(conn)
		require.NoError(t, err, name)
		require.Equal(t, kindAttached, f.kind, name)
		go func() { _, _ = conn.Write(bad) }()
		_, err = readFrame(conn)
		require.Error(t, err, name)
	}
	for name, bad := range map[string]string{
		"an unknown verb": `{"verb":"run","args":{}}`, "no arguments": `{"verb":"probe","args":{}}`, "an unknown field": `{"verb":"status","args":{"x":1}}`,
		"no guest":        `{"verb":"probe","args":{"guest":"","ways":[{"kind":"ssh","settings":{},"credential":{}}],"limitMillis":0}}`,
		"a long name":     fmt.Sprintf(`{"verb":"probe","args":{"guest":%q,"ways":[]}}`, strings.Repeat("x", 300)),
		"a hidden name":   `{"verb":"probe","args":{"guest":"a\u202eb","ways":[{"kind":"ssh","settings":{"Host":"a"},"credential":{}}],"limitMillis":0}}`,
		"no ways":         `{"verb":"deploy","args":{"guest":"a","ways":[]}}`,
		"twice one way":   `{"verb":"deploy","args":{"guest":"a","ways":[{"kind":"ssh","settings":{}},{"kind":"ssh","settings":{}}]}}`,
		"a limit below 0": `{"verb":"deploy","args":{"guest":"a","ways":[{"kind":"ssh","settings":{}}],"limitMillis":-1}}`,
		"bad settings":    `{"verb":"deploy","args":{"guest":"a","ways":[{"kind":"ssh","settings":7}]}}`,
	} {
		conn := w.raw(t)
		task := strings.ToLower(strings.Repeat(string(rune('b'+len(name)%20)), 26))
		go func() {
			_, _ = conn.Write(encoded(t, attachment(func(a *attachArgs) { a.Task = task })))
			_, _ = conn.Write(req(1, bad))
		}()
		_, err := readFrame(conn)
		require.NoError(t, err)
		f, err := readFrame(conn)
		require.NoError(t, err, name)
		require.Equal(t, kindFailure, f.kind, name)
		fail := &failure{}
		require.NoError(t, json.Unmarshal(f.payload, fail))
		require.Equal(t, CodeInvalid, fail.Code, "%s: %s", name, fail.Text)
		go func() { _, _ = conn.Write(encoded(t, frame{kind: kindLeave})) }()
		_, _ = readFrame(conn)
	}
}

// answering is a proxy that says what a test wants.
func answering(t *testing.T, say func(net.Conn)) *Client {
	t.Helper()
	c, err := NewClient(&ClientOptions{Name: "evil", Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
		Dial: func(context.Context) (net.Conn, error) {
			near, far := net.Pipe()
			go func() {
				defer far.Close()
				_ = far.SetDeadline(time.Now().Add(time.Second))
				if _, err := readFrame(far); err == nil {
					say(far)
				}
			}()
			return near, nil
		}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// A hostile proxy: a clear error that names it, nothing that hangs, no terminal that is steered.
func TestHostileProxy(t *testing.T) {
	t.Parallel()
	attached := []byte(`{"version":1,"product":"x","received":0}`)
	answer := func(kind byte, number uint64, payload string) func(net.Conn) {
		return func(conn net.Conn) {
			if writeFrame(conn, frame{kind: kindAttached, payload: attached}) != nil {
				return
			}
			if _, err := readFrame(conn); err != nil {
				return
			}
			_ = writeFrame(conn, frame{kind: kind, number: number, payload: []byte(payload)})
			_, _ = io.Copy(io.Discard, conn)
		}
	}
	for name, say := range map[string]func(net.Conn){
		"silence":            func(net.Conn) {},
		"nonsense":           func(conn net.Conn) { _, _ = conn.Write(bytes.Repeat([]byte("x"), 4096)) },
		"the wrong kind":     func(conn net.Conn) { _ = writeFrame(conn, frame{kind: kindPong}) },
		"another answer":     answer(kindAnswer, 99, `{}`),
		"data for no stream": answer(kindData, 0, `x`),
		"a client's frame":   answer(kindAttach, 0, `{}`),
		"no JSON":            answer(kindAnswer, 1, `{`),
		"an unknown field":   answer(kindAnswer, 1, `{"evil":true}`),
		"more was received": func(conn net.Conn) {
			_ = writeFrame(conn, frame{kind: kindAttached, payload: []byte(`{"received":18446744073709551615}`)})
		},
		"a failure that lies": answer(kindFailure, 1, `{"code":"way","text":"\u001b[2J\u202egone","step":"x","kind":"\u0007","hint":"","reconnects":-7}`),
	} {
		c := answering(t, say)
		_, err := c.Probe(t.Context(), "vm1", way("vm1"), 0)
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "\x1b", name)
		require.NotContains(t, err.Error(), "\u202e", name)
		_, err = c.Deploy(t.Context(), "vm1", way("vm1"), nil)
		require.Error(t, err, name)
	}
}

// Settings of a client that make no sense are told before anything is connected.
func TestOptions(t *testing.T) {
	t.Parallel()
	_, err := NewClient(nil)
	require.ErrorIs(t, err, fs.ErrInvalid)
	_, err = NewClient(&ClientOptions{Address: "proxy:1"})
	require.ErrorIs(t, err, fs.ErrInvalid)
	for _, o := range []*ServerOptions{nil, {}, {Ways: sshOnly, Programs: programs{}, Tasks: -1}, {Ways: sshOnly}} {
		_, err := NewServer(o)
		require.ErrorIs(t, err, fs.ErrInvalid)
	}
	w := newTown(t, nil)
	c := w.client()
	for _, ways := range [][]Way{nil, make([]Way, maxWays+1), {{Kind: guest.SSH, Settings: strings.Repeat("x", maxSettings)}}, {{Kind: guest.SSH, Credential: guest.Credential{Password: strings.Repeat("x", maxSmall+1)}}}} {
		_, err := c.Deploy(t.Context(), "vm1", ways, nil)
		require.ErrorIs(t, err, fs.ErrInvalid)
	}
	require.Zero(t, w.dialled())
	require.NoError(t, c.Close())
	_, err = c.Status(t.Context())
	require.ErrorIs(t, err, fs.ErrClosed)
}

var sshOnly = Ways{guest.SSH: nil}

// Secrets are in no printed form of what carries them.
func TestSecretsDoNotPrint(t *testing.T) {
	t.Parallel()
	args, err := argsOf(way("vm1"))
	require.NoError(t, err)
	for _, v := range []any{args, way("vm1"), deployArgs{Ways: args}} {
		require.NotContains(t, fmt.Sprintf("%v %+v %#v", v, v, v), password)
	}
}

// Every frame that is read is written as it was, byte for byte.
func FuzzFrame(f *testing.F) {
	for _, x := range []frame{attachment(nil), {kind: kindPing}, {kind: kindAck, number: 1 << 40}, {kind: kindData, number: 5, payload: []byte("data")},
		{kind: kindRequest, number: 1, payload: []byte(`{"verb":"status","args":{}}`)}, {kind: kindEnd, number: 9, payload: []byte("why")}, {kind: kindRefuse, payload: []byte("{}")}} {
		var b bytes.Buffer
		require.NoError(f, writeFrame(&b, x))
		f.Add(b.Bytes())
	}
	f.Add(header(1<<32-1, kindData, 0, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		x, err := readFrame(r)
		if err != nil {
			return
		}
		var b bytes.Buffer
		require.NoError(t, writeFrame(&b, x))
		require.Equal(t, data[:len(data)-r.Len()], b.Bytes())
		if x.kind == kindFailure || x.kind == kindRefuse {
			fail := &failure{}
			if decode(x.payload, fail) == nil {
				require.Error(t, fail.error("vm", "p"))
			}
		}
	})
}
