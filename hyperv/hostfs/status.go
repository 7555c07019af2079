package hostfs

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"

	"github.com/cloudsoda/go-smb2"

	"github.com/hikae/hikae/internal/smbwire"
	"github.com/hikae/hikae/pipe/diskfile"
)

var (
	// ErrLogon says that a server does not take the login, or only as a guest's. It is not tried again: servers lock accounts.
	ErrLogon = errors.New("the server does not accept the login")
	// ErrBusy says that somebody has the file open and shares it not so, for longer than was waited.
	ErrBusy = errors.New("somebody else has the file open")
	// ErrAway says that a server could not be reached for the time that was allowed.
	ErrAway = errors.New("the server is away")
	// ErrLost says that the connection was lost that a file was written by. What of the last writes arrived, nobody knows.
	ErrLost = errors.New("the connection that the file was written by is lost")
	// ErrNotEncrypted says that the share does not encrypt and was asked to.
	ErrNotEncrypted = errors.New("the share's traffic is not encrypted")
)

// errGuest says that the server let somebody in whom it does not know: package smbwire tells why the library does not see that.
var errGuest = fmt.Errorf("%w: only as a guest, who cannot sign", ErrLogon)

// Status codes as MS-ERREF 2.3.1 gives them, and what callers can do about them.
const (
	statusNameDeleted    = 0xc00000c9
	statusFileClosed     = 0xc0000128
	statusSessionDeleted = 0xc0000203
	statusSessionExpired = 0xc000035c
	statusNotDirectory   = 0xc0000103
)

var meanings = map[uint32]error{
	0xc0000043:         ErrBusy, // sharing violation
	0xc0000056:         ErrBusy, // about to be deleted
	0xc0000054:         ErrBusy, // locked
	0xc00000cc:         fs.ErrNotExist,
	0xc0000033:         fs.ErrInvalid, // a name that the server cannot have
	0xc000007f:         diskfile.ErrNoSpace,
	0xc0000044:         diskfile.ErrNoSpace,
	0xc0000802:         diskfile.ErrNoSpace,
	0xc0000904:         diskfile.ErrNoSpace, // longer than the file system allows
	0xc00000a2:         syscall.EROFS,
	0xc000011f:         syscall.EMFILE,
	0xc00000ba:         diskfile.ErrNotDisk, // a folder
	0x8000002d:         diskfile.ErrNotDisk, // a link
	statusNotDirectory: fs.ErrNotExist,      // nothing is below a file
	0xc0000101:         syscall.ENOTEMPTY,
	0xc00000e9:         syscall.EIO,
	0xc0000185:         syscall.EIO,
	0xc000006d:         ErrLogon,
	0xc000006e:         ErrLogon,
	0xc000006f:         ErrLogon,
	0xc0000070:         ErrLogon,
	0xc0000071:         ErrLogon,
	0xc0000072:         ErrLogon,
	0xc0000193:         ErrLogon,
	0xc000015b:         ErrLogon,
	0xc0000224:         ErrLogon,
	0xc0000234:         ErrLogon,
}

func status(err error) uint32 {
	var re *smb2.ResponseError
	if errors.As(err, &re) {
		return re.Code
	}
	return 0
}

// translate adds what a status code means.
func translate(err error) error {
	if meaning := meanings[status(err)]; meaning != nil && !errors.Is(err, meaning) {
		return fmt.Errorf("%w: %w", meaning, err)
	}
	return err
}

func busy(err error) bool { return meanings[status(err)] == ErrBusy }

// lost reports whether a connection, or what was open on it, is of no use any more.
func lost(err error) bool {
	var transport *smb2.TransportError
	var broken *smb2.InvalidResponseError
	switch status(err) {
	case statusNameDeleted, statusFileClosed, statusSessionDeleted, statusSessionExpired:
		return true
	}
	return errors.As(err, &transport) || errors.As(err, &broken) || errors.Is(err, smbwire.ErrKilled) || errors.Is(err, net.ErrClosed)
}

// refused reports whether connecting failed for a reason that time does not heal.
func refused(err error) bool {
	return errors.Is(err, ErrLogon) || errors.Is(err, ErrNotEncrypted) || errors.Is(err, fs.ErrInvalid) ||
		errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)
}

// guest reports whether the library's words say that the server took the user for a guest or for nobody.
func guest(err error) bool {
	var broken *smb2.InvalidResponseError
	return errors.As(err, &broken) && (strings.Contains(broken.Message, "guest") || strings.Contains(broken.Message, "anonymous"))
}
