package smbchannel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/smbchannel/rpc"
	"github.com/hikae/hikae/guest/smbchannel/scm"
)

// serverService is srvsvc: 4b324fc8-1670-01d3-1278-5a47bf6ee188, version 3.0 (MS-SRVS 1.9).
var serverService = rpc.Interface{Major: 3, UUID: [16]byte{
	0xc8, 0x4f, 0x32, 0x4b, 0x70, 0x16, 0xd3, 0x01, 0x12, 0x78, 0x5a, 0x47, 0xbf, 0x6e, 0xe1, 0x88,
}}

// Procedures and bounds of MS-SRVS 3.1.4.
const (
	getShareInfo  = 16
	getServerInfo = 21
	maxWord       = 1024 // characters of a name, a comment or a path
)

// learn finds out what the guest is, and that the account may make services. Errors are *guest.WayError.
func (c *channel) learn(ctx context.Context) error {
	w := c.way
	root, name, err := c.askServer(ctx)
	if err != nil {
		if denied(err) {
			return w.because(w.rights("the account may not ask what ADMIN$ is"), err)
		}
		return w.because(reason{"share", "the guest does not say what ADMIN$ is: " + words(err), "its Server service must answer at the pipe srvsvc"}, err)
	}
	arch, err := c.architecture(ctx)
	if err != nil {
		return w.because(reason{"system", "what the guest's processor is cannot be seen: " + words(err), "ADMIN$ must be the folder of a Windows"}, err)
	}
	c.root = root
	c.system = guest.System{OS: "windows", Arch: arch, Name: name, User: w.cred.User, Admin: true, Temp: []string{root}}
	c.services, err = scm.Open(ctx, func(ctx context.Context) (io.ReadWriteCloser, error) { return c.link.openPipe(ctx, scm.Pipe) })
	switch {
	case denied(err):
		return w.because(w.rights("the account may not make services"), err)
	case err != nil:
		return w.because(reason{"services", "the service control manager cannot be used: " + words(err), "check that nothing in the guest blocks the pipe svcctl"}, err)
	}
	return nil
}

func denied(err error) bool {
	var fault *rpc.Fault
	return errors.Is(err, fs.ErrPermission) || errors.As(err, &fault) && fault.Status == rpc.FaultAccessDenied
}

// askServer asks for the folder behind ADMIN$ and for the guest's name.
func (c *channel) askServer(ctx context.Context) (root, name string, err error) {
	p, err := c.link.openPipe(ctx, "srvsvc")
	if err != nil {
		return "", "", err
	}
	conn, err := rpc.Bind(ctx, p, serverService)
	if err != nil {
		return "", "", err
	}
	defer conn.Close()
	if root, err = shareFolder(ctx, conn, "ADMIN$"); err != nil {
		return "", "", err
	}
	name, err = serverName(ctx, conn)
	return root, name, err
}

// shareFolder calls NetrShareGetInfo at level 2.
func shareFolder(ctx context.Context, conn *rpc.Conn, share string) (string, error) {
	var w rpc.Writer
	w.OptionalString("") // the server that is asked
	w.String(share)
	w.Uint32(2)
	results, err := conn.Call(ctx, getShareInfo, w.Data)
	if err != nil {
		return "", err
	}
	r := rpc.Reader{Data: results}
	folder := readShare(&r)
	if err := outcome(&r, "share "+share); err != nil {
		return "", err
	}
	return folder, validRoot(folder)
}

// readShare reads SHARE_INFO_2 (MS-SRVS 2.2.4.24) and returns its path. Strings follow in the order of their pointers.
func readShare(r *rpc.Reader) (folder string) {
	if r.Uint32() != 2 || !r.Pointer() {
		return ""
	}
	name := r.Pointer()
	r.Uint32()
	remark := r.Pointer()
	r.Bytes(12) // permissions, uses
	path, password := r.Pointer(), r.Pointer()
	for _, s := range []struct {
		set  bool
		into *string
	}{{name, new(string)}, {remark, new(string)}, {path, &folder}, {password, new(string)}} {
		if s.set {
			*s.into = r.String(maxWord)
		}
	}
	return folder
}

// validRoot holds a folder that the guest names to the form drive:\parts.
func validRoot(root string) error {
	if len(root) < 4 || root[1] != ':' || root[2] != '\\' || !letter(root[0]) {
		return fmt.Errorf("%w: ADMIN$ is at %.80q", rpc.ErrMalformed, root)
	}
	_, err := inShare(root[:2], root)
	if err != nil || len(root) > 120 {
		return fmt.Errorf("%w: ADMIN$ is at %.80q", rpc.ErrMalformed, root)
	}
	return nil
}

func letter(b byte) bool { return b|0x20 >= 'a' && b|0x20 <= 'z' }

// serverName calls NetrServerGetInfo at level 101.
func serverName(ctx context.Context, conn *rpc.Conn) (name string, err error) {
	var w rpc.Writer
	w.OptionalString("")
	w.Uint32(101)
	results, err := conn.Call(ctx, getServerInfo, w.Data)
	if err != nil {
		return "", err
	}
	r := rpc.Reader{Data: results}
	if r.Uint32() == 101 && r.Pointer() {
		r.Uint32() // platform
		named := r.Pointer()
		r.Bytes(12) // versions, type
		comment := r.Pointer()
		if named {
			name = r.String(maxWord)
		}
		if comment {
			_ = r.String(maxWord)
		}
	}
	if err := outcome(&r, "server"); err != nil {
		return "", err
	}
	return hostName(name), nil
}

// hostName keeps of a name what one may have.
func hostName(s string) string {
	return strings.Map(func(r rune) rune {
		if r > ' ' && r < 0x7f && !strings.ContainsRune(`\/:*?"<>|`, r) {
			return r
		}
		return -1
	}, s[:min(len(s), 255)])
}

// outcome reads the error that ends the results.
func outcome(r *rpc.Reader, of string) error {
	code := r.Uint32()
	switch err := r.End(); {
	case err != nil:
		return fmt.Errorf("%s: %w", of, err)
	case code == scm.AccessDenied:
		return fmt.Errorf("%s: %w", of, fs.ErrPermission)
	case code == 2310 || code == scm.FileNotFound:
		return fmt.Errorf("%s: %w", of, fs.ErrNotExist)
	case code != 0:
		return fmt.Errorf("%s: error %d", of, code)
	}
	return nil
}

// System libraries are built for the processor alone, on every edition: also where no folder for 32-bit programs is, and
// on ARM64, which has folders of three kinds.
const systemLibrary = `System32\ntdll.dll`

// architecture reads the machine that a system library is for (PE format: the header's offset is at 0x3c).
func (c *channel) architecture(ctx context.Context) (string, error) {
	head := make([]byte, 4096)
	n := 0
	err := c.link.run(ctx, func() error {
		f, err := c.link.admin.OpenFile(systemLibrary, os.O_RDONLY, 0)
		if err != nil {
			return err
		}
		n, err = f.ReadAt(head, 0)
		_ = f.Close()
		return err
	})
	if err != nil && !(errors.Is(err, io.EOF) && n > 0) {
		return "", err
	}
	return machine(head[:n])
}

func machine(head []byte) (string, error) {
	if len(head) < 0x40 || string(head[:2]) != "MZ" {
		return "", fmt.Errorf("%s is no program", systemLibrary)
	}
	at := int64(binary.LittleEndian.Uint32(head[0x3c:]))
	if at+6 > int64(len(head)) || string(head[at:at+4]) != "PE\x00\x00" {
		return "", fmt.Errorf("%s is no program", systemLibrary)
	}
	switch m := binary.LittleEndian.Uint16(head[at+4:]); m {
	case 0x8664:
		return "amd64", nil
	case 0xaa64:
		return "arm64", nil
	case 0x014c:
		return "386", nil
	default:
		return "", fmt.Errorf("%s is for machine %#x", systemLibrary, m)
	}
}
