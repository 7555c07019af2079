package libvirt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// answer is what a daemon that a test plays replies to one procedure.
type answer struct {
	status  uint32
	payload []byte
	silent  bool
}

func xdr(build func(e *encoder)) []byte {
	var e encoder
	build(&e)
	return e.b
}

func refusal(code uint32, text string) answer {
	return answer{status: statusError, payload: xdr(func(e *encoder) {
		e.uint(code)
		e.uint(10)
		e.optional(true)
		e.text(text)
		e.uint(2) // and what is not looked at
		e.uint(0)
	})}
}

// qemuOnly sets the procedures of the second program apart.
const qemuOnly = 10_000

// play is a daemon at the other end of a pipe. Replies come with an event and a stray reply before them.
func play(t *testing.T, answers map[uint32]answer) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	var group sync.WaitGroup
	group.Go(func() {
		defer theirs.Close()
		for {
			p, err := readPacket(theirs)
			if err != nil {
				return
			}
			key := p.procedure
			if p.program == programQEMU {
				key += qemuOnly
			}
			a := answers[key]
			if a.silent {
				continue
			}
			for _, out := range []packet{
				{program: programRemote, procedure: 1000, kind: 2, serial: 0},
				{program: p.program, procedure: p.procedure, kind: typeReply, serial: p.serial + 1000},
				{program: p.program, procedure: p.procedure, kind: typeReply, serial: p.serial, status: a.status, payload: a.payload},
			} {
				text, err := out.encode()
				if err != nil {
					return
				}
				if _, err := theirs.Write(text); err != nil {
					return
				}
			}
		}
	})
	t.Cleanup(func() {
		ours.Close()
		group.Wait()
	})
	return ours
}

var nobodyAsks = answer{payload: xdr(func(e *encoder) { e.uint(1); e.uint(authNone) })}

func connect(t *testing.T, answers map[uint32]answer) *Conn {
	t.Helper()
	if _, ok := answers[procAuthList]; !ok {
		answers[procAuthList] = nobodyAsks
	}
	c, err := New(t.Context(), play(t, answers), "qemu:///system")
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

var web1 = Domain{Name: "web1", UUID: UUID{1, 2, 15: 9}, ID: -1}

func TestCalls(t *testing.T) {
	c := connect(t, map[uint32]answer{
		procLibVersion:                {payload: xdr(func(e *encoder) { e.uint(0); e.uint(9_000_000) })},
		procLookupByUUID:              {payload: xdr(func(e *encoder) { e.domain(web1) })},
		procLookupByName:              refusal(CodeNoDomain, "Domain not found"),
		procDomainState:               {payload: xdr(func(e *encoder) { e.uint(5); e.uint(OffMigrated) })},
		procDomainXML:                 {payload: xdr(func(e *encoder) { e.text("<domain/>\n") })},
		procListAllDomains:            {payload: xdr(func(e *encoder) { e.uint(2); e.domain(web1); e.domain(web1); e.uint(2) })},
		qemuOnly + procMonitorCommand: {payload: xdr(func(e *encoder) { e.text(strings.Repeat("x", 3<<20)) })},
		qemuOnly + procAgentCommand:   {payload: xdr(func(e *encoder) { e.optional(true); e.text(`{"return":1}`) })},
	})
	ctx := t.Context()
	n, err := c.Version(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 9_000_000, n)
	dom, err := c.Lookup(ctx, web1.UUID)
	require.NoError(t, err)
	require.Equal(t, web1, dom)
	_, err = c.LookupName(ctx, "nobody")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.True(t, IsCode(err, CodeNoDomain))
	require.ErrorContains(t, err, "Domain not found")
	state, reason, err := c.State(ctx, dom)
	require.NoError(t, err)
	require.Equal(t, Off, state)
	require.Equal(t, OffMigrated, reason)
	require.Equal(t, "off", state.String())
	text, err := c.XML(ctx, dom, true)
	require.NoError(t, err)
	require.Equal(t, "<domain/>\n", string(text))
	all, err := c.Domains(ctx)
	require.NoError(t, err)
	require.Equal(t, []Domain{web1, web1}, all)
	text, err = c.Monitor(ctx, dom, []byte("{}"))
	require.NoError(t, err)
	require.Len(t, text, 3<<20)
	text, err = c.Agent(ctx, dom, []byte("{}"))
	require.NoError(t, err)
	require.Equal(t, `{"return":1}`, string(text))
	_, err = c.Monitor(ctx, dom, make([]byte, MaxMessage))
	require.ErrorIs(t, err, ErrTooLong)
}

// A wait ends with its deadline, and with the connection; the calls after a lost answer go on.
func TestSilence(t *testing.T) {
	c := connect(t, map[uint32]answer{
		procDomainXML:  {silent: true},
		procLibVersion: {payload: xdr(func(e *encoder) { e.uint(0); e.uint(1) })},
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err := c.XML(ctx, web1, false)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = c.Version(t.Context())
	require.NoError(t, err)
	time.AfterFunc(30*time.Millisecond, func() { c.Close() })
	_, err = c.XML(t.Context(), web1, false)
	require.ErrorIs(t, err, ErrClosed)
	_, err = c.Version(t.Context())
	require.ErrorIs(t, err, ErrClosed)
}

func TestWhoIsThere(t *testing.T) {
	ways := func(list ...uint32) answer {
		return answer{payload: xdr(func(e *encoder) {
			e.uint(uint32(len(list)))
			for _, w := range list {
				e.uint(w)
			}
		})}
	}
	connect(t, map[uint32]answer{procAuthList: ways()})
	connect(t, map[uint32]answer{procAuthList: ways(authPolkit), procAuthPolkit: {payload: xdr(func(e *encoder) { e.uint(1) })}})
	for name, answers := range map[string]map[uint32]answer{
		"passwords": {procAuthList: ways(1)},
		"polkit":    {procAuthList: ways(1, authPolkit), procAuthPolkit: refusal(45, "authentication failed")},
	} {
		_, err := New(t.Context(), play(t, answers), "qemu:///system")
		require.ErrorIs(t, err, ErrAuth, name)
	}
	_, err := New(t.Context(), play(t, map[uint32]answer{procAuthList: nobodyAsks, procOpen: refusal(38, "no driver")}), "xen:///system")
	require.ErrorContains(t, err, "no driver")
}

// Answers that make no sense are errors, and take neither memory nor time.
func TestBrokenPeers(t *testing.T) {
	for name, a := range map[string]answer{
		"too short":        {payload: []byte{0, 0}},
		"a long text":      {payload: xdr(func(e *encoder) { e.uint(maxText + 1) })},
		"a text that ends": {payload: xdr(func(e *encoder) { e.uint(100); e.uint(0) })},
		"filled with ones": {payload: []byte{0, 0, 0, 1, 'x', 1, 1, 1}},
		"more behind it":   {payload: xdr(func(e *encoder) { e.text("x"); e.uint(0) })},
		"a strange status": {status: 7},
		"an empty refusal": {status: statusError},
	} {
		_, err := connect(t, map[uint32]answer{procDomainXML: a}).XML(t.Context(), web1, false)
		require.ErrorIs(t, err, ErrProtocol, name)
	}
	_, err := connect(t, map[uint32]answer{procListAllDomains: {payload: xdr(func(e *encoder) { e.uint(1 << 30) })}}).Domains(t.Context())
	require.ErrorIs(t, err, ErrProtocol)

	for name, head := range map[string][]byte{
		"too long":          binary.BigEndian.AppendUint32(nil, MaxMessage+1),
		"too short":         binary.BigEndian.AppendUint32(nil, 8),
		"no such version":   xdr(func(e *encoder) { e.uint(headerBytes); e.uint(programRemote); e.uint(2) }),
		"it is not libvirt": []byte("SSH-2.0-OpenSSH\r\n"),
	} {
		_, err := readPacket(bytes.NewReader(append(head, make([]byte, 64)...)))
		require.True(t, errors.Is(err, ErrProtocol) || errors.Is(err, ErrTooLong), name)
	}
	_, err = readPacket(bytes.NewReader(append(binary.BigEndian.AppendUint32(nil, MaxMessage), make([]byte, 64)...)))
	require.Error(t, err, "a length that announces more than comes")
}

func TestNoDaemon(t *testing.T) {
	_, err := Dial(t.Context(), filepath.Join(t.TempDir(), "none"), "qemu:///system")
	var daemon *DaemonError
	require.ErrorAs(t, err, &daemon)
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	_, err = Socket("qemu:///session")
	require.ErrorAs(t, err, &daemon)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = Socket("xen:///system")
	require.ErrorIs(t, err, fs.ErrInvalid)
}

func TestUUID(t *testing.T) {
	u, err := ParseUUID("6dc005b0-0797-4c02-a1ab-a1263e1f5e36")
	require.NoError(t, err)
	require.Equal(t, "6dc005b0-0797-4c02-a1ab-a1263e1f5e36", u.String())
	for _, bad := range []string{"", "web1", "6dc005b0-0797-4c02-a1ab-a1263e1f5e3", "6dc005b0-0797-4c02-a1ab-a1263e1f5e3600"} {
		_, err := ParseUUID(bad)
		require.ErrorIs(t, err, fs.ErrInvalid, bad)
	}
	require.Contains(t, State(99).String(), "unknown")
}

// A packet that is read is the packet that was written, byte for byte.
func FuzzPacket(f *testing.F) {
	p := packet{program: programQEMU, procedure: 1, serial: 7, payload: xdr(func(e *encoder) { e.domain(web1); e.text("{}") })}
	text, err := p.encode()
	require.NoError(f, err)
	f.Add(text)
	f.Add(text[:20])
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := readPacket(bytes.NewReader(text))
		if err != nil {
			return
		}
		again, err := p.encode()
		require.NoError(t, err)
		require.Equal(t, text[:len(again)], again)
		d := decoder{b: p.payload} // whatever it holds, it is read to its end or refused
		for d.err == nil && len(d.b) > 0 {
			d.domain()
			d.optionalText()
		}
		require.True(t, d.err == nil || errors.Is(d.err, ErrProtocol))
	})
}
