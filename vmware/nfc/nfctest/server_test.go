package nfctest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func ready(t *testing.T, s *Server, write, ssl bool) *client {
	t.Helper()
	require.NoError(t, s.AddTicket(Ticket{Session: vectorSession, Write: write}))
	c := dial(t, s)
	c.login(ssl)
	mode := "ro"
	if write {
		mode = "rw"
	}
	c.open(mode)
	return c
}

func (c *client) bye() {
	c.ask("close file")
	c.ask("close session")
	c.say("classic", "complete")
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(c.t, err, io.EOF)
}

func requireClean(t *testing.T, s *Server) {
	t.Helper()
	require.Eventually(t, func() bool { return len(s.Leftovers()) == 0 }, 5*time.Second, 5*time.Millisecond, "%v", s.Leftovers())
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Zero(t, s.memory)
}

// The service says what the vectors say, in the clear and encrypted.
func TestVectors(t *testing.T) {
	for _, ssl := range []bool{false, true} {
		t.Run(fmt.Sprintf("ssl=%v", ssl), func(t *testing.T) {
			s := listen(t, nil)
			c := ready(t, s, true, ssl)
			require.NotEmpty(t, s.Leftovers())
			for _, name := range []string{"ddb get", "ddb get found", "query allocated"} {
				c.ask(name)
			}
			c.say("transfer", "read one")
			c.expect("transfer", "read one answer")
			c.say("transfer", "read three")
			for _, name := range []string{"first", "second", "last"} {
				c.expect("transfer", "read three, "+name)
			}
			c.say("transfer", "write one")
			c.expect("transfer", "write one answer")
			c.say("transfer", "write two, first")
			c.say("transfer", "write two, second")
			c.expect("transfer", "write two answer")
			c.bye()
			requireClean(t, s)
			require.Equal(t, Stats{Connections: 1, Sessions: 1, Reads: 2, Writes: 2, ReadBytes: 512 + 131584,
				WrittenBytes: 512 + 66048, Fragments: 4}, s.Stats())
		})
	}
}

func TestLargeBuffers(t *testing.T) {
	s := listen(t, nil)
	require.NoError(t, s.AddTicket(Ticket{Session: vectorSession}))
	c := dial(t, s)
	c.login(true)
	c.handshake()
	c.say("aio", "open session large")
	c.expect("aio", "open session answer")
	c.ask("open file ro")
	c.say("transfer", "read three")
	got := make([]byte, 60+131584)
	_, err := io.ReadFull(c, got)
	require.NoError(t, err)
	require.Equal(t, []byte{0xc1, 0xc2, 0xc3}, []byte{got[60], got[60+65536], got[60+131072]})
	require.Eventually(t, func() bool { return s.Stats().Fragments == 1 }, 5*time.Second, 5*time.Millisecond)
}

func TestTicketsAreForOnce(t *testing.T) {
	s := listen(t, nil)
	refused := func() {
		t.Helper()
		c := dial(t, s)
		c.expect("authd", "banner")
		c.Conn = outer(c.Conn)
		c.say("authd", "session")
		c.say("authd", "proxy nbd")
		c.expect("authd", "refused")
	}
	refused()
	c := ready(t, s, false, false)
	c.bye()
	refused()
	require.NoError(t, s.AddTicket(Ticket{Session: vectorSession, Expires: time.Now().Add(-time.Second)}))
	refused()
	require.NoError(t, s.AddTicket(Ticket{Session: "a"}))
	require.Error(t, s.AddTicket(Ticket{Session: "a"}))
	require.Error(t, s.AddTicket(Ticket{}))
}

func TestReadTicketDoesNotWrite(t *testing.T) {
	s := listen(t, nil)
	require.NoError(t, s.AddTicket(Ticket{Session: vectorSession}))
	c := dial(t, s)
	c.login(true)
	c.handshake()
	c.ask("open session")
	c.say("aio", "open file rw")
	c.expect("aio", "open file rw refused")
	c.ask("open file ro")
	c.say("transfer", "write one")
	require.EqualValues(t, CodeReadOnly, c.refusal())
}

// refusal reads an error frame and returns its code.
func (c *client) refusal() byte {
	c.t.Helper()
	p := make([]byte, headBytes+errBytes)
	_, err := io.ReadFull(c, p)
	require.NoError(c.t, err)
	require.EqualValues(c.t, typeError, p[4])
	return p[headBytes]
}

func TestBufferMemory(t *testing.T) {
	s := listen(t, &Options{BufferMemory: 300 << 10})
	first := ready(t, s, false, false)
	require.NoError(t, s.AddTicket(Ticket{Session: vectorSession}))
	c := dial(t, s)
	c.login(false)
	c.handshake()
	c.say("aio", "open session")
	require.EqualValues(t, CodeMemory, c.refusal())
	c.Close()
	first.bye()
	requireClean(t, s)
	ready(t, s, false, false).bye()
}

func TestConnections(t *testing.T) {
	s := listen(t, &Options{Connections: 1})
	first := dial(t, s)
	first.expect("authd", "banner")
	c := dial(t, s)
	_, err := c.Read(make([]byte, 1))
	require.Error(t, err)
	require.EqualValues(t, 1, s.Stats().Refused)
}

func TestFaults(t *testing.T) {
	fragment := func(c *client) (t transfer) {
		p := make([]byte, headBytes+ioBytes)
		_, err := io.ReadFull(c, p)
		require.NoError(c.t, err)
		var f frame
		require.NoError(c.t, f.read(bytes.NewReader(p)))
		require.EqualValues(c.t, typeIO, f.kind)
		_, err = io.CopyN(io.Discard, c, int64(min(f.transfer().n, 65536)))
		require.NoError(c.t, err)
		return f.transfer()
	}
	dests := map[FaultKind][]uint32{
		Reversed: {131072, 65536, 0}, Duplicate: {0, 0, 65536, 131072}, Short: {0, 65536}, Stray: {131584},
		Stall: {0, 65536, 131072}, WrongLength: {0}, Oversized: {0},
	}
	for kind, want := range dests {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			s := listen(t, nil)
			c := ready(t, s, false, false)
			s.Fail(Fault{Kind: kind, Delay: 50 * time.Millisecond, Skip: 1})
			c.say("transfer", "read one")
			c.expect("transfer", "read one answer")
			since := time.Now()
			c.say("transfer", "read three")
			for i, dest := range want {
				got := fragment(c)
				require.Equal(t, dest, got.dest, i)
				require.Equal(t, kind == WrongLength, got.n != got.wireLen)
				require.Equal(t, kind == Oversized, got.total != 131584)
			}
			require.Equal(t, kind == Stall, time.Since(since) >= 50*time.Millisecond && kind == Stall)
		})
	}
	t.Run("refuse and drop", func(t *testing.T) {
		s := listen(t, nil)
		c := ready(t, s, false, true)
		s.Fail(Fault{Code: 77, Times: 2})
		s.Fail(Fault{Kind: Drop, After: 264*3 + 10})
		for range 2 {
			c.say("transfer", "read one")
			require.EqualValues(t, 77, c.refusal())
		}
		c.bye()
		require.NoError(t, s.AddTicket(Ticket{Session: vectorSession}))
		c = dial(t, s)
		c.login(false)
		c.handshake()
		c.say("aio", "open session")
		rest, _ := io.ReadAll(c)
		require.Len(t, rest, 10)
		requireClean(t, s)
	})
}

// Every byte of a session cut off ends it, and leaves nothing.
func TestCutAnywhere(t *testing.T) {
	s := listen(t, nil)
	for _, bad := range []string{"transfer/write two, second", "authd/banner", "classic/complete", "classic/version"} {
		c := ready(t, s, true, false)
		file, name, _ := bytes.Cut([]byte(bad), []byte("/"))
		p := c.set.Get(string(file), string(name)).Bytes
		_, err := c.Write(p[:min(len(p), 200)])
		require.NoError(t, err)
		c.Close()
		requireClean(t, s)
	}
}

// FuzzSession throws bytes at the decoder, after a handshake and an open file.
func FuzzSession(f *testing.F) {
	set := loadVectors(f)
	var preface []byte
	for _, m := range set {
		if m.File == "classic" && !m.FromServer && m.Name != "complete" {
			preface = append(preface, m.Bytes...)
		}
	}
	for _, name := range []string{"open session", "open file rw"} {
		preface = append(preface, set.Get("aio", name).Bytes...)
	}
	for _, m := range set {
		if !m.FromServer && (m.File == "aio" || m.File == "transfer") {
			f.Add(m.Bytes)
		}
	}
	s := listen(f, nil)
	f.Fuzz(func(t *testing.T, tail []byte) {
		here, there := net.Pipe()
		defer here.Close()
		watchdog := time.AfterFunc(10*time.Second, func() { panic("the session does not end") })
		defer watchdog.Stop()
		done := make(chan struct{})
		go func() {
			defer close(done)
			if handshake(there) == nil {
				newSession(s, there, Ticket{Write: true}).run()
			}
		}()
		drained := make(chan struct{})
		go func() { defer close(drained); _, _ = io.Copy(io.Discard, here) }()
		_, _ = here.Write(append(bytes.Clone(preface), tail...))
		here.Close()
		<-done
		<-drained
		s.mu.Lock()
		defer s.mu.Unlock()
		require.Empty(t, s.open)
		require.Zero(t, s.memory)
	})
}

func TestListenRefuses(t *testing.T) {
	_, err := Listen("127.0.0.1:0", nil)
	require.Error(t, err)
	_, err = Listen("127.0.0.1:0", &Options{FragmentBytes: 100, Open: func(context.Context, string, string, bool) (Disk, error) { return newDisk(), nil }})
	require.Error(t, err)
}
