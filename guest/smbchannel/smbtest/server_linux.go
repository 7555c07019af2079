package smbtest

import (
	"io"

	"github.com/hikae/hikae/guest/smbchannel/rpc"
)

// serverInterface is srvsvc 3.0.
var serverInterface = rpc.Interface{Major: 3, UUID: [16]byte{
	0xc8, 0x4f, 0x32, 0x4b, 0x70, 0x16, 0xd3, 0x01, 0x12, 0x78, 0x5a, 0x47, 0xbf, 0x6e, 0xe1, 0x88,
}}

// Where the guest says that ADMIN$ is, and what it is called where settings do not say.
const (
	Root = `C:\Windows`
	Name = "GUEST1"
)

// serveServer answers NetrShareGetInfo for ADMIN$ and NetrServerGetInfo (MS-SRVS 3.1.4.10, 3.1.4.17).
func (g *Guest) serveServer(pipe io.ReadWriter) error {
	return rpc.Serve(pipe, `\PIPE\srvsvc`, serverInterface, func(procedure uint16, args []byte) ([]byte, error) {
		r := rpc.Reader{Data: args}
		r.OptionalString(1024)
		switch procedure {
		case 16:
			return shareInfo(&r)
		case 21:
			return serverInfo(&r, g.name)
		}
		return nil, &rpc.Fault{Status: rpc.FaultUnknownProcedure}
	})
}

func shareInfo(r *rpc.Reader) ([]byte, error) {
	share, level := r.String(81), r.Uint32()
	if r.End() != nil || level != 2 {
		return nil, &rpc.Fault{Status: rpc.FaultBadStub}
	}
	var w rpc.Writer
	w.Uint32(level)
	if share != "ADMIN$" {
		w.Pointer(false)
		w.Uint32(2310)
		return w.Data, nil
	}
	w.Pointer(true)
	w.Pointer(true) // name
	w.Uint32(0x80000000)
	w.Pointer(true) // remark
	w.Uint32(0)
	w.Uint32(0xffffffff)
	w.Uint32(1)
	w.Pointer(true)  // path
	w.Pointer(false) // password
	w.String(share)
	w.String("Remote Admin")
	w.String(Root)
	w.Uint32(0)
	return w.Data, nil
}

func serverInfo(r *rpc.Reader, name string) ([]byte, error) {
	if level := r.Uint32(); r.End() != nil || level != 101 {
		return nil, &rpc.Fault{Status: rpc.FaultBadStub}
	}
	var w rpc.Writer
	w.Uint32(101)
	w.Pointer(true)
	w.Uint32(500)
	w.Pointer(true) // name
	w.Uint32(10)
	w.Uint32(0)
	w.Uint32(0x9003)
	w.Pointer(true) // comment
	w.String(name)
	w.String("")
	w.Uint32(0)
	return w.Data, nil
}
