package nfc

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware/nfc/internal/vector"
)

// script is the other end of a connection: it takes exactly the bytes of the client's vectors and answers with those of
// the server's.
type script struct {
	t    *testing.T
	set  vector.Set
	used map[string]bool
}

func newScript(t *testing.T) *script {
	set, err := vector.Load("testdata/vectors")
	require.NoError(t, err)
	return &script{t, set, map[string]bool{}}
}

func (s *script) get(file, name string) []byte {
	s.used[file+"/"+name] = true
	return s.set.Get(file, name).Bytes
}

// play starts the other end. done must be called when the client has nothing more to say.
func (s *script) play(file string, names ...string) (near net.Conn, done func()) {
	near, far := net.Pipe()
	far.SetDeadline(time.Now().Add(10 * time.Second))
	wrong := make(chan string, 1)
	var messages []vector.Message
	for _, name := range names {
		s.used[file+"/"+name] = true
		messages = append(messages, s.set.Get(file, name))
	}
	go func() {
		defer close(wrong)
		for _, m := range messages {
			if m.FromServer {
				far.Write(m.Bytes)
				continue
			}
			got := make([]byte, len(m.Bytes))
			if n, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, m.Bytes) {
				wrong <- m.Name + ": " + string(got[:n])
				far.Close()
				return
			}
		}
	}()
	return near, func() {
		s.t.Helper()
		require.Empty(s.t, <-wrong)
		far.Close()
	}
}

// Each message that the client sends, and each that it takes, is what the vectors say.
func TestVectors(t *testing.T) {
	s := newScript(t)
	const handle = 0x1122334455667788
	path := "[datastore0] web0/web0-000001.vmdk"
	content := make([]byte, 66048)
	for i := range content {
		content[i] = 0xd1
	}
	for _, c := range []struct {
		file  string
		call  *call
		names []string
	}{
		{"aio", newCall(kindOpenSession, openSession(65536, 4), nil), []string{"open session", "open session answer"}},
		{"aio", newCall(kindOpenSession, openSession(2<<20, 4), nil), []string{"open session large", "open session answer"}},
		{"aio", newCall(kindSockOpts, make([]byte, 12), nil), []string{"socket options", "socket options answer"}},
		{"aio", newCall(kindResPool, words(1), nil), []string{"resource pool", "resource pool answer"}},
		{"aio", newCall(kindOpenFile, openFile(path, false), []byte(path)), []string{"open file ro", "open file ro answer"}},
		{"aio", newCall(kindOpenFile, openFile(path, true), []byte(path)), []string{"open file rw", "open file rw answer"}},
		{"aio", newProperty(handle, "isDigest"), []string{"ddb get", "ddb get answer"}},
		{"aio", newProperty(handle, "adapterType"), []string{"ddb get found", "ddb get found answer"}},
		{"aio", newAllocated(handle, 64<<10, 0, 40), []string{"query allocated", "query allocated answer"}},
		{"aio", lastCall(kindCloseFile, binary.LittleEndian.AppendUint64(nil, handle)), []string{"close file", "close file answer"}},
		{"aio", lastCall(kindCloseSession, words(0)), []string{"close session", "close session answer"}},
		{"transfer", newRead(handle, make([]byte, 512), 512), []string{"read one", "read one answer"}},
		{"transfer", newRead(handle, make([]byte, 0x20200), 1<<20), []string{"read three", "read three, last", "read three, first", "read three, second"}},
		{"transfer", newWrite(handle, content[:512], 512), []string{"write one", "write one answer"}},
	} {
		require.NoError(t, s.exchange(c.call, c.file, c.names...), c.names[0])
		switch {
		case c.names[0] == "read three":
			require.Equal(t, "\xc1\xc2\xc3", string([]byte{c.call.buf[65535], c.call.buf[65536], c.call.buf[131072]}))
		case c.names[0] == "ddb get found":
			require.Equal(t, "lsilogic", string(c.call.reply))
		case c.names[0] == "ddb get":
			require.Empty(t, c.call.reply)
		case c.call.kind == kindAllocated:
			a := window{bits: c.call.buf}
			for i := range 40 {
				want := map[bool]pipe.Kind{true: pipe.Data, false: pipe.Zero}[i == 0 || i == 2 || i == 31 || i == 39]
				require.Equal(t, want, a.kind(i), "chunk %d", i)
			}
		case c.call.kind == kindOpenFile:
			file, err := parseOpened(c.call.reply, c.names[0] == "open file rw")
			require.NoError(t, err)
			require.Equal(t, opened{handle, 10 << 30, 512}, file)
		}
	}
	var refused *HostError
	err := s.exchange(newCall(kindOpenFile, openFile(path, true), []byte(path)), "aio", "open file rw", "open file rw refused")
	require.ErrorAs(t, err, &refused)
	require.EqualValues(t, codeReadOnly, refused.Code)

	s.writeOfTwo(handle)
	s.dialogues()
	for _, m := range s.set {
		id := m.File + "/" + m.Name
		require.True(t, s.used[id], "nobody looked at %s", id)
	}
}

// exchange sends a call over a link and has it answered.
func (s *script) exchange(c *call, file string, names ...string) error {
	near, done := s.play(file, names...)
	opts, err := (*Options)(nil).fill()
	require.NoError(s.t, err)
	l := newLink(near, near, &opts)
	l.opID = binary.LittleEndian.Uint32(s.get(file, names[0])[12:])
	err = l.do(s.t.Context(), c)
	done()
	l.fail(errClosed)
	<-l.gone
	return err
}

// writeOfTwo is what this client never sends: it is understood all the same, and its answer is that of one piece.
func (s *script) writeOfTwo(handle uint64) {
	for i, name := range []string{"write two, first", "write two, second"} {
		b := s.get("transfer", name)
		f := parseIO(b[headLen:])
		require.Equal(s.t, ioFrame{handle: handle, off: 4096, total: 66048, at: uint32(i) * 65536, n: f.n, wire: f.n}, f)
		require.Equal(s.t, b[headLen:headLen+ioLen], f.append(nil))
		require.Len(s.t, b, headLen+ioLen+int(f.wire))
	}
	c := newWrite(handle, make([]byte, 66048), 4096)
	require.NoError(s.t, c.accept(parseIO(s.get("transfer", "write two answer")[headLen:])))
	b := s.get("aio", "error")
	h, err := parseHead(b)
	require.NoError(s.t, err)
	require.EqualValues(s.t, kindError, h.kind)
	require.Len(s.t, b, headLen+int(h.size))
}

// dialogues are the authentication daemon's and the classic one.
func (s *script) dialogues() {
	near, done := s.play("authd", "banner")
	banner := lines{from: oneByOne{near}}
	_, err := banner.expect("220", "", "")
	require.NoError(s.t, err)
	done()
	ticket := Ticket{SessionID: "52cdebc5-b7ee-359a-1dec-76f0bc105ac5"}
	for proxy, answer := range map[string]string{"proxy nbd": "connect nbd", "proxy nbdssl": "connect nbdssl"} {
		near, done = s.play("authd", "session", "banner request", "banner again", "thumbprint", "thumbprint answer", proxy, answer)
		require.NoError(s.t, login(near, ticket, map[string]string{"proxy nbd": "vpxa-nfc", "proxy nbdssl": "vpxa-nfcssl"}[proxy]))
		done()
	}
	near, done = s.play("authd", "session", "banner request", "banner again", "thumbprint", "thumbprint answer", "proxy nbd", "refused")
	var refused *RefusedError
	require.ErrorAs(s.t, login(near, ticket, "vpxa-nfc"), &refused)
	done()
	near, done = s.play("classic", "handshake", "session params", "session params answer", "version", "version answer",
		"connection data", "connection name", "connection operation", "features", "aio open", "aio open answer")
	require.NoError(s.t, shakeHands(near, "vddk", "nbdmode"))
	done()
	require.Equal(s.t, s.get("classic", "complete"), newClassic(classicComplete)[:])
}
