package nfsserve

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"time"
)

// Portmap answers where the mount and NFS programs listen, by version 2 of the port mapper (RFC 1833, 3): an ESXi host asks
// for that at UDP port 111 and has no other way to be told. It needs the right to listen there, and no other port mapper on
// this machine. It answers only the server's clients, and ends with the context; the connection is closed.
func (s *Server) Portmap(ctx context.Context, conn net.PacketConn, port uint16) error {
	s.serving.Add(1)
	defer s.serving.Done()
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer context.AfterFunc(s.ctx, func() { conn.Close() })()
	g := gate{clients: s.opts.Clients}
	in := make([]byte, 1024)
	for {
		n, from, err := conn.ReadFrom(in)
		if ctx.Err() != nil || s.ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if !g.knows(from) {
			continue
		}
		if answer := mapped(in[:n], port); answer != nil {
			conn.SetWriteDeadline(time.Now().Add(time.Second))
			_, err = conn.WriteTo(answer, from)
		}
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
	}
}

// Numbers of RFC 5531, 9 and RFC 1833, 3.
const (
	programMap, programNFS, programMount = 100000, 100003, 100005
	procNull, procGetPort                = 0, 3
	protocolTCP                          = 6

	acceptOK, acceptNoProgram, acceptNoVersion, acceptNoProc, acceptGarbage = 0, 1, 2, 3, 4
)

// mapped answers one call; nil: it is none.
func mapped(call []byte, port uint16) []byte {
	words := make([]uint32, 0, 6)
	for len(words) < 6 { // xid, call, RPC version, program, version, procedure
		if len(call) < 4 {
			return nil
		}
		words, call = append(words, binary.BigEndian.Uint32(call)), call[4:]
	}
	if words[1] != 0 || words[2] != 2 {
		return nil
	}
	status, result := uint32(acceptOK), []uint32{}
	switch program, version, proc := words[3], words[4], words[5]; {
	case program != programMap:
		status = acceptNoProgram
	case version != 2:
		status, result = acceptNoVersion, []uint32{2, 2}
	case proc == procNull:
	case proc == procGetPort:
		args, ok := afterAuth(call)
		if !ok {
			status = acceptGarbage
			break
		}
		result = []uint32{0}
		if wanted := binary.BigEndian.Uint32(args); (wanted == programNFS || wanted == programMount) &&
			binary.BigEndian.Uint32(args[4:]) == 3 && binary.BigEndian.Uint32(args[8:]) == protocolTCP {
			result = []uint32{uint32(port)}
		}
	default:
		status = acceptNoProc
	}
	answer := make([]byte, 0, 32)
	for _, w := range append([]uint32{words[0], 1, 0, 0, 0, status}, result...) { // xid, reply, accepted, no verifier
		answer = binary.BigEndian.AppendUint32(answer, w)
	}
	return answer
}

// afterAuth passes over credential and verifier, and wants a mapping behind them.
func afterAuth(b []byte) ([]byte, bool) {
	for range 2 {
		if len(b) < 8 {
			return nil, false
		}
		n := (int64(binary.BigEndian.Uint32(b[4:])) + 3) &^ 3
		if n > 400 || int64(len(b)-8) < n {
			return nil, false
		}
		b = b[8+n:]
	}
	return b, len(b) >= 16
}

// Allowed parses addresses of hosts, each alone or as a prefix with its length.
func Allowed(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range list {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			a, alone := netip.ParseAddr(text)
			if alone != nil {
				return nil, err
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
