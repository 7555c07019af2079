package nfc

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is a disk service that can break any rule of the protocol at any byte. It is written from the tables of the sources
// and shares no code with the client; the one that keeps all rules is nfctest.
type host struct {
	t    testing.TB
	ln   net.Listener
	cert tls.Certificate
	wg   sync.WaitGroup

	mu    sync.Mutex
	disk  []byte
	conns map[net.Conn]bool
	ids   map[string]bool // tickets that were not used yet
	next  int

	path      string
	size      uint64 // of the disk, as it says
	sector    uint32
	uuid      string
	banner    string
	inner     tls.Certificate                      // of the second TLS
	lines     map[string]string                    // the daemon's answers, by the command's first word
	mangle    func(a *answer) []answer             // what becomes of an answer
	classics  func(kind uint32, msg []byte)        // what becomes of a classic message
	cut       func(conn int) int64                 // after how many bytes of a connection it breaks; negative: never
	frames    atomic.Int64                         // requests seen
	served    atomic.Int64                         // connections seen
	frameLoop func(in *bufio.Reader, out net.Conn) // in place of its own
	log       []uint32                             // types of requests and of classic messages, under mu
}

// answer is one frame that the host is about to send.
type answer struct {
	magic, kind, opID uint32
	size              uint32 // as it says; payload is what comes
	payload, extra    []byte
	silent            bool // nothing is sent
}

func newHost(t testing.TB, disk []byte) *host {
	h := &host{
		t: t, disk: disk, conns: map[net.Conn]bool{}, ids: map[string]bool{}, path: "[datastore1] web0/web0.vmdk",
		size: uint64(len(disk)), sector: 512, uuid: "60 00 C2 9d", banner: "220 VMware Authentication Daemon Version 1.10: SSL Required, NFCSSL supported/t\r\n",
	}
	h.cert = certificate(t)
	h.inner = h.cert
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h.ln = ln
	h.wg.Go(h.accept)
	t.Cleanup(h.stop)
	return h
}

func certificate(t testing.TB) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "esx0"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (h *host) stop() {
	h.ln.Close()
	h.drop()
	h.wg.Wait()
}

// drop breaks all connections.
func (h *host) drop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.conns {
		c.Close()
	}
}

func (h *host) ticket() Ticket {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next++
	id := fmt.Sprintf("52cdebc5-%d", h.next)
	h.ids[id] = true
	sum := sha1.Sum(h.cert.Certificate[0])
	addr := h.ln.Addr().(*net.TCPAddr)
	return Ticket{Host: "127.0.0.1", Port: addr.Port, Service: "vpxa-nfc", SessionID: id, Thumbprint: hex.EncodeToString(sum[:])}
}

func (h *host) thumbprintSHA256() string {
	sum := sha256.Sum256(h.cert.Certificate[0])
	return thumbprint(sum[:]).String()
}

func (h *host) accept() {
	for {
		c, err := h.ln.Accept()
		if err != nil {
			return
		}
		n := int(h.served.Add(1))
		h.mu.Lock()
		if h.cut != nil {
			if left := h.cut(n); left >= 0 {
				c = &cutConn{Conn: c, left: left}
			}
		}
		h.conns[c] = true
		h.mu.Unlock()
		h.wg.Go(func() {
			defer c.Close()
			h.serve(c)
			h.mu.Lock()
			delete(h.conns, c)
			h.mu.Unlock()
		})
	}
}

// cutConn breaks after it sent so many bytes.
type cutConn struct {
	net.Conn
	left int64
}

func (c *cutConn) Write(p []byte) (int, error) {
	if int64(len(p)) <= c.left {
		c.left -= int64(len(p))
		return c.Conn.Write(p)
	}
	n, _ := c.Conn.Write(p[:c.left])
	c.left = 0
	c.Conn.Close()
	return n, io.ErrClosedPipe
}

func (h *host) serve(raw net.Conn) {
	raw.SetDeadline(time.Now().Add(30 * time.Second))
	io.WriteString(raw, h.banner)
	outer := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{h.cert}})
	service, ok := h.daemon(outer)
	if !ok {
		return
	}
	conn := raw
	if strings.HasSuffix(service, "ssl") {
		conn = tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{h.inner}, DynamicRecordSizingDisabled: true})
	}
	in := bufio.NewReaderSize(conn, 64<<10)
	switch {
	case !h.classic(in, conn):
	case h.frameLoop != nil:
		h.frameLoop(in, conn)
	default:
		h.aio(in, conn)
	}
}

func (h *host) daemon(outer net.Conn) (service string, ok bool) {
	in, session := bufio.NewReader(outer), false
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return "", false
		}
		word, rest, _ := strings.Cut(strings.TrimSuffix(line, "\r\n"), " ")
		answer := map[string]string{
			"BANNER": h.banner, "THUMBPRINT_SHA2": "200 " + h.thumbprintSHA256() + "\r\n",
			"PROXY": "200 Connect " + strings.Replace(rest, "vpxa", "ha", 1) + "\r\n",
		}[word]
		switch word {
		case "SESSION":
			h.mu.Lock()
			session = h.ids[rest]
			delete(h.ids, rest)
			h.mu.Unlock()
			continue
		case "PROXY":
			if !session {
				answer = "530 Please login with USER and PASS\r\n"
			}
		}
		if other, ok := h.lines[word]; ok {
			answer = other
		}
		io.WriteString(outer, answer)
		if word == "PROXY" {
			return rest, session
		}
	}
}

func (h *host) note(kind uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.log = append(h.log, kind)
}

func (h *host) classic(in io.Reader, out io.Writer) bool {
	var msg [264]byte
	send := func(kind uint32, at int, v uint32) {
		var m [264]byte
		binary.LittleEndian.PutUint32(m[:], kind)
		if at > 0 {
			binary.LittleEndian.PutUint32(m[at:], v)
		}
		if h.classics != nil {
			h.classics(kind, m[:])
		}
		out.Write(m[:])
	}
	for {
		if _, err := io.ReadFull(in, msg[:]); err != nil {
			return false
		}
		kind := binary.LittleEndian.Uint32(msg[:])
		h.note(kind)
		switch kind {
		case 33:
			send(36, 16, 1)
		case 51:
			send(51, 4, 11)
		case 54:
			n := binary.LittleEndian.Uint32(msg[4:]) + binary.LittleEndian.Uint32(msg[8:])
			if _, err := io.CopyN(io.Discard, in, int64(n)); err != nil {
				return false
			}
		case 52:
			send(52, 0, 0)
			return true
		case 43, 55:
		default:
			return false
		}
	}
}

const hostHandle = 0xfeed00000001

// aio answers frames, each in a goroutine of its own, so that answers overtake each other.
func (h *host) aio(in io.Reader, out io.Writer) {
	var turn sync.Mutex
	var wg sync.WaitGroup
	defer wg.Wait()
	buffer, written := 65536, map[uint32]uint32{}
	for {
		var head [16]byte
		if _, err := io.ReadFull(in, head[:4]); err != nil {
			return
		}
		if binary.LittleEndian.Uint32(head[:]) == 4 { // the classic end
			h.note(4)
			io.CopyN(io.Discard, in, 260)
			return
		}
		if _, err := io.ReadFull(in, head[4:]); err != nil {
			return
		}
		a := answer{magic: 0xA100DA7A, kind: binary.LittleEndian.Uint32(head[4:]), opID: binary.LittleEndian.Uint32(head[12:])}
		req := make([]byte, binary.LittleEndian.Uint32(head[8:]))
		if _, err := io.ReadFull(in, req); err != nil {
			return
		}
		h.frames.Add(1)
		h.note(a.kind)
		var extra []byte
		switch {
		case a.kind == 4:
			extra = make([]byte, binary.LittleEndian.Uint32(req))
		case a.kind == 11:
			extra = make([]byte, binary.LittleEndian.Uint32(req[8:]))
		case a.kind == 7 && req[8] == 0:
			extra = make([]byte, binary.LittleEndian.Uint32(req[36:]))
		}
		if _, err := io.ReadFull(in, extra); err != nil {
			return
		}
		if a.kind == 2 && binary.LittleEndian.Uint32(req[4:]) != 0 {
			buffer = int(binary.LittleEndian.Uint32(req[4:]))
		}
		if a.kind == 7 && req[8] == 0 { // a write is answered when all its pieces are there
			total := binary.LittleEndian.Uint32(req[24:])
			h.store(req, extra)
			if written[a.opID] += uint32(len(extra)); written[a.opID] < total {
				continue
			}
			delete(written, a.opID)
		}
		wg.Go(func() {
			for _, a := range h.answers(a, req, string(extra), buffer) {
				turn.Lock()
				h.send(out, a)
				turn.Unlock()
			}
		})
	}
}

func (h *host) store(req, p []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	off := binary.LittleEndian.Uint64(req[16:]) + uint64(binary.LittleEndian.Uint32(req[28:]))
	copy(h.disk[off:], p)
}

func (h *host) send(out io.Writer, a answer) {
	if a.silent {
		return
	}
	b := binary.LittleEndian.AppendUint32(nil, a.magic)
	b = binary.LittleEndian.AppendUint32(b, a.kind)
	b = binary.LittleEndian.AppendUint32(b, a.size)
	b = binary.LittleEndian.AppendUint32(b, a.opID)
	out.Write(append(append(b, a.payload...), a.extra...))
}

// answers are the frames that answer a request, mangled.
func (h *host) answers(a answer, req []byte, path string, buffer int) []answer {
	var list []answer
	switch a.kind {
	case 4:
		a.payload = make([]byte, 60)
		binary.LittleEndian.PutUint64(a.payload[8:], hostHandle)
		copy(a.payload[16:24], req[16:24])
		binary.LittleEndian.PutUint64(a.payload[28:], h.size)
		binary.LittleEndian.PutUint32(a.payload[36:], h.sector)
		if path != h.path {
			a.kind, a.payload = 1, []byte{4, 0, 0, 0}
		}
		list = []answer{a}
	case 7:
		list = h.content(a, req, buffer)
	case 13:
		list = []answer{h.allocated(a, req)}
	case 11:
		if a.payload = make([]byte, 16); path == "uuid" {
			a.extra = []byte(h.uuid)
			binary.LittleEndian.PutUint32(a.payload[12:], uint32(len(h.uuid)))
		}
		list = []answer{a}
	default:
		a.payload = make([]byte, len(req))
		list = []answer{a}
	}
	var out []answer
	for _, a := range list {
		a.size = uint32(len(a.payload))
		if h.mangle != nil {
			out = append(out, h.mangle(&a)...)
			continue
		}
		out = append(out, a)
	}
	return out
}

func (h *host) content(a answer, req []byte, buffer int) []answer {
	off, total := binary.LittleEndian.Uint64(req[16:]), int(binary.LittleEndian.Uint32(req[24:]))
	if req[8] == 0 {
		a.payload = append([]byte(nil), req...)
		clear(a.payload[:8])
		binary.LittleEndian.PutUint64(a.payload[24:], uint64(total))
		binary.LittleEndian.PutUint32(a.payload[32:], uint32(total))
		return []answer{a}
	}
	var list []answer
	for at := 0; at < total; at += buffer {
		n := min(buffer, total-at)
		p := append([]byte(nil), req...)
		clear(p[:8])
		binary.LittleEndian.PutUint32(p[24:], uint32(total))
		binary.LittleEndian.PutUint32(p[28:], uint32(at))
		binary.LittleEndian.PutUint32(p[32:], uint32(n))
		binary.LittleEndian.PutUint32(p[36:], uint32(n))
		piece := a
		h.mu.Lock()
		piece.payload, piece.extra = p, append([]byte(nil), h.disk[off+uint64(at):][:n]...)
		h.mu.Unlock()
		list = append(list, piece)
	}
	mrand.Shuffle(len(list), func(i, k int) { list[i], list[k] = list[k], list[i] })
	return list
}

func (h *host) allocated(a answer, req []byte) answer {
	unit, start := binary.LittleEndian.Uint64(req[16:]), binary.LittleEndian.Uint64(req[24:])
	count := binary.LittleEndian.Uint64(req[32:])
	if start%unit != 0 || start+count*unit > h.size {
		a.kind, a.payload = 1, []byte{3, 0, 0, 0}
		return a
	}
	a.payload = make([]byte, 48)
	binary.LittleEndian.PutUint64(a.payload[32:], count)
	a.extra = make([]byte, (count+31)/32*4)
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range count {
		for _, b := range h.disk[start+i*unit:][:unit] {
			if b != 0 {
				a.extra[i/8] |= 1 << (i % 8)
				break
			}
		}
	}
	return a
}

// noise is n bytes of no pattern, by a seed.
func noise(seed uint64, n int) []byte {
	p := make([]byte, n)
	r := mrand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(p)
	return p
}

// open dials the host and opens its disk.
func (h *host) open(t testing.TB, write bool, opts *Options) *Disk {
	c, err := Dial(t.Context(), h.ticket(), opts)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	d, err := c.Open(t.Context(), h.path, write)
	require.NoError(t, err)
	return d
}
