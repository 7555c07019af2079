package qmp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
)

const hello = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "x"}, "capabilities": ["oob"]}}`

// peer plays a QEMU that says what a test wants: for each command, the text that answer makes of its name and id.
func peer(t *testing.T, greeting string, answer func(name string, id uint64) string) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	var group sync.WaitGroup
	group.Go(func() {
		defer theirs.Close()
		if _, err := io.WriteString(theirs, greeting); err != nil {
			return
		}
		for r := bufio.NewReader(theirs); ; {
			line, err := r.ReadBytes('\n')
			if err != nil {
				return
			}
			var cmd struct {
				Execute string
				OOB     string `json:"exec-oob"`
				ID      uint64
			}
			if json.Unmarshal(line, &cmd) != nil {
				return
			}
			text := fmt.Sprintf(`{"return": {}, "id": %d}`, cmd.ID)
			if cmd.Execute != "qmp_capabilities" {
				text = answer(cmd.Execute+cmd.OOB, cmd.ID)
			} else if answer == nil {
				text = "" // it answers nobody
			}
			if _, err := io.WriteString(theirs, text+"\r\n"); err != nil {
				return
			}
		}
	})
	t.Cleanup(func() {
		ours.Close()
		theirs.Close()
		group.Wait()
	})
	return ours
}

func connect(t *testing.T, answer func(name string, id uint64) string) *Conn {
	t.Helper()
	c, err := New(t.Context(), peer(t, hello, answer))
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestExecute(t *testing.T) {
	c := connect(t, func(name string, id uint64) string {
		switch name {
		case "query-name": // spread over lines, with an event and a stray answer before it
			return fmt.Sprintf("{\"event\":\"STOP\",\"timestamp\":{\"seconds\":1,\"microseconds\":2}}\n{\"return\": 1, \"id\": 9999}\n{\n \"return\": {\"name\":\n\"a\"},\n \"id\": %d}", id)
		case "long":
			return fmt.Sprintf(`{"return": "%s", "id": %d}`, strings.Repeat("x", 3<<20), id)
		case "wrong":
			return fmt.Sprintf(`{"return": [1], "id": %d}`, id)
		}
		return fmt.Sprintf(`{"error": {"class": "CommandNotFound", "desc": "The command %s has not been found"}, "id": %d}`, name, id)
	})
	require.True(t, c.Version().AtLeast(7, 2))
	require.False(t, c.Version().AtLeast(7, 3))
	require.False(t, c.Version().AtLeast(8, 0))
	w := c.Watch()
	defer w.Close()

	var name struct{ Name string }
	require.NoError(t, c.Execute(t.Context(), "query-name", nil, &name))
	require.Equal(t, "a", name.Name)
	events, lost := w.Take()
	require.Zero(t, lost)
	require.Len(t, events, 1)
	require.Equal(t, "STOP", events[0].Name)
	require.Equal(t, time.Unix(1, 2000), events[0].Time)

	var text string
	require.NoError(t, c.Execute(t.Context(), "long", nil, &text))
	require.Len(t, text, 3<<20)
	require.ErrorIs(t, c.Execute(t.Context(), "wrong", nil, &text), ErrProtocol)

	err := c.ExecuteOOB(t.Context(), "nope", map[string]int{"a": 1}, nil)
	require.True(t, IsClass(err, ClassNotFound))
	require.True(t, Refused(err))
	require.ErrorContains(t, err, "nope: The command nope")

	cmds := []*Command{{Name: "nope"}, {Name: "query-name", Out: &name}, {Name: "nope"}}
	require.NoError(t, c.Batch(t.Context(), cmds))
	require.Error(t, cmds[0].Err)
	require.NoError(t, cmds[1].Err)
	require.Error(t, cmds[2].Err)
	require.Error(t, c.Execute(t.Context(), "x", func() {}, nil), "arguments that are no JSON")
}

// A wait ends with its deadline, and with the connection, whatever the other end does.
func TestSilence(t *testing.T) {
	silent := make(chan struct{})
	c := connect(t, func(string, uint64) string { <-silent; return "" })
	defer close(silent)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := c.Execute(ctx, "x", nil, nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.False(t, Refused(err))
	require.ErrorIs(t, c.Execute(t.Context(), "x", nil, nil), ErrClosed, "after a lost answer")
}

func TestDecodeAnswer(t *testing.T) {
	var name struct{ Name string }
	require.NoError(t, DecodeAnswer("query-name", []byte(`{"return":{"name":"a"},"id":"libvirt-7"}`), &name))
	require.Equal(t, "a", name.Name)
	require.NoError(t, DecodeAnswer("cont", []byte(`{"return":{}}`), nil))
	err := DecodeAnswer("x", []byte(`{"id":"libvirt-8","error":{"class":"CommandNotFound","desc":"no"}}`), nil)
	require.True(t, IsClass(err, ClassNotFound))
	for _, bad := range []string{"", "[1]", "{}", `{"return":null}`, `{"return":[1]}`} {
		require.ErrorIs(t, DecodeAnswer("x", []byte(bad), &name), ErrProtocol, bad)
	}
}

func TestTaken(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := New(ctx, peer(t, "", nil))
	require.ErrorIs(t, err, ErrTaken)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// A QEMU that greets and does no more is told from one that is somebody else's.
func TestSilent(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := New(ctx, peer(t, hello, nil))
	require.ErrorIs(t, err, ErrSilent)
	require.NotErrorIs(t, err, ErrTaken)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err = New(ctx, peer(t, hello, nil))
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, ErrSilent, "it was not given the time")
}

// A session has hours, and an answer has not: however late the context's deadline is.
func TestAnswersThatNeverCome(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		quiet := make(chan struct{})
		c := connect(t, func(string, uint64) string { <-quiet; return "" })
		defer close(quiet)
		ctx, cancel := context.WithTimeout(t.Context(), 12*time.Hour)
		defer cancel()
		begun := time.Now()
		require.ErrorIs(t, c.Execute(ctx, "blockdev-del", nil, nil), context.DeadlineExceeded)
		require.Equal(t, MaxWait, time.Since(begun))
		require.NoError(t, ctx.Err())
	})
}

func TestBrokenPeers(t *testing.T) {
	for name, greeting := range map[string]string{
		"no JSON": "SSH-2.0\r\n", "no greeting": `{"return": {}}`, "no object": `[1]`, "no member": `{"x": 1}`,
		"wrong type": `{"QMP": 5}`, "nul": "\x00", "deep": strings.Repeat("[", 20000),
	} {
		ours := peer(t, greeting, nil)
		time.AfterFunc(100*time.Millisecond, func() { ours.Close() })
		_, err := New(t.Context(), ours)
		require.Error(t, err, name)
	}
	c := connect(t, func(string, uint64) string { return "}{" })
	require.ErrorIs(t, c.Execute(t.Context(), "x", nil, nil), ErrClosed)
	require.ErrorIs(t, c.Until(t.Context(), func(context.Context) (bool, error) { return false, nil }), ErrClosed)
}

// What never ends is not read for ever.
func TestTooLong(t *testing.T) {
	r := newReader(io.MultiReader(strings.NewReader(`{"return": "`), endless{}), 1<<20)
	_, err := r.next()
	require.ErrorIs(t, err, ErrTooLong)
	r = newReader(strings.NewReader(strings.Repeat(`{"event": "E"}`, 1000)), 4096)
	for range 1000 {
		_, err := r.next()
		require.NoError(t, err, "each message has the whole bound")
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func TestUntil(t *testing.T) {
	n := 0
	c := connect(t, func(name string, id uint64) string {
		n++
		answers := []string{
			`[{"id": "j", "type": "backup", "status": "running"}]`,
			`[{"id": "other", "status": "running"}, {"id": "j", "status": "concluded", "error": "no space"}]`,
			`[{"id": "other"}]`, `[{"id": "e"}]`, `[]`,
		}
		return fmt.Sprintf(`{"event": "JOB_STATUS_CHANGE", "data": {}}{"return": %s, "id": %d}{"event": "BLOCK_EXPORT_DELETED"}`, answers[n-1], id)
	})
	require.ErrorContains(t, c.WaitJob(t.Context(), "j"), "no space")
	require.NoError(t, c.WaitJob(t.Context(), "j"), "it has gone")
	begun := time.Now()
	require.NoError(t, c.WaitExport(t.Context(), "e"))
	require.Less(t, time.Since(begun), pollEvery, "the event woke it")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, c.Until(ctx, func(context.Context) (bool, error) { return false, nil }), context.DeadlineExceeded)
}

// Events that nobody takes are counted, and do not pile up.
func TestManyEvents(t *testing.T) {
	c := connect(t, func(_ string, id uint64) string {
		return strings.Repeat(`{"event": "E"}`, maxEvents+7) + strings.Repeat(`{"event": "F"}`, 3) + fmt.Sprintf(`{"return": {}, "id": %d}`, id)
	})
	w := c.Watch("E")
	require.NoError(t, c.Execute(t.Context(), "x", nil, nil))
	events, lost := w.Take()
	require.Len(t, events, maxEvents)
	require.Equal(t, 7, lost)
	w.Close()
	require.NoError(t, c.Execute(t.Context(), "x", nil, nil))
	events, _ = w.Take()
	require.Empty(t, events)
}

func TestConcurrent(t *testing.T) {
	c := connect(t, func(name string, id uint64) string { return fmt.Sprintf(`{"return": %q, "id": %d}`, name, id) })
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			name, got := fmt.Sprintf("c%d", i), ""
			if err := c.Execute(t.Context(), name, nil, &got); err != nil || got != name {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		})
	}
	group.Wait()
}

// What a message says survives being written again.
func FuzzReader(f *testing.F) {
	f.Add([]byte(hello))
	f.Add([]byte(`{"return": {"a": [1, null]}, "id": 7}{"event": "E", "data": {"x": 1}, "timestamp": {"seconds": 1, "microseconds": 5}}`))
	f.Add([]byte(`{"error": {"class": "GenericError", "desc": "no"}, "id": 1}`))
	f.Add([]byte("{\n\"id\":18446744073709551615,\"return\":0}\xff"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := newReader(bytes.NewReader(stream), 1<<16)
		for {
			m, err := r.next()
			if err != nil {
				return
			}
			text, err := json.Marshal(m)
			require.NoError(t, err)
			again, err := newReader(bytes.NewReader(text), 1<<20).next()
			require.NoError(t, err)
			text2, err := json.Marshal(again)
			require.NoError(t, err)
			require.JSONEq(t, string(text), string(text2))
		}
	})
}
