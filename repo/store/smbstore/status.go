package smbstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"

	"github.com/cloudsoda/go-smb2"

	"github.com/hikae/hikae/internal/smbwire"
	"github.com/hikae/hikae/repo/store/dirstore/vfs"
)

var (
	// ErrLogon says that the server does not take the credentials, or only as a guest's. It is not tried again for
	// long: servers lock accounts.
	ErrLogon = errors.New("the server does not accept the credentials")
	// ErrBusy says that another connection has the file open, or is about to make the name, and did so for longer
	// than was waited. Trying again later is right.
	ErrBusy = errors.New("in use by another connection")
	// ErrAway says that the server could not be reached for the time that was allowed.
	ErrAway = errors.New("the server is away")
	// ErrNotEncrypted says that the share does not encrypt and was asked to.
	ErrNotEncrypted = errors.New("the share's traffic is not encrypted")
)

// Status codes as MS-ERREF 2.3.1 gives them.
const (
	statusStoppedOnSymlink = 0x8000002d
	statusNotImplemented   = 0xc0000002
	statusInvalidParameter = 0xc000000d
	statusInvalidRequest   = 0xc0000010
	statusSharingViolation = 0xc0000043
	statusQuotaExceeded    = 0xc0000044
	statusDeletePending    = 0xc0000056
	statusLogonFailure     = 0xc000006d
	statusRestriction      = 0xc000006e
	statusLogonHours       = 0xc000006f
	statusWorkstation      = 0xc0000070
	statusPasswordExpired  = 0xc0000071
	statusAccountDisabled  = 0xc0000072
	statusDiskFull         = 0xc000007f
	statusWriteProtected   = 0xc00000a2
	statusFileIsDirectory  = 0xc00000ba
	statusNotSupported     = 0xc00000bb
	statusNameDeleted      = 0xc00000c9
	statusUnexpectedIO     = 0xc00000e9
	statusNotEmpty         = 0xc0000101
	statusNotDirectory     = 0xc0000103
	statusTooManyFiles     = 0xc000011f
	statusFileClosed       = 0xc0000128
	statusLogonType        = 0xc000015b
	statusDeviceError      = 0xc0000185
	statusAccountExpired   = 0xc0000193
	statusSessionDeleted   = 0xc0000203
	statusMustChange       = 0xc0000224
	statusLockedOut        = 0xc0000234
	statusSessionExpired   = 0xc000035c
	statusQuotaOfDisk      = 0xc0000802
)

// meanings of status codes that callers can act on.
var meanings = map[uint32]error{
	statusStoppedOnSymlink: vfs.ErrIrregular,
	statusSharingViolation: ErrBusy,
	statusDeletePending:    ErrBusy,
	statusQuotaExceeded:    syscall.EDQUOT,
	statusQuotaOfDisk:      syscall.EDQUOT,
	statusDiskFull:         syscall.ENOSPC,
	statusWriteProtected:   syscall.EROFS,
	statusTooManyFiles:     syscall.EMFILE,
	statusFileIsDirectory:  vfs.ErrIrregular,
	statusNotDirectory:     fs.ErrNotExist, // nothing is below a file
	statusNotEmpty:         syscall.ENOTEMPTY,
	statusUnexpectedIO:     syscall.EIO,
	statusDeviceError:      syscall.EIO,
	statusLogonFailure:     ErrLogon,
	statusRestriction:      ErrLogon,
	statusLogonHours:       ErrLogon,
	statusWorkstation:      ErrLogon,
	statusPasswordExpired:  ErrLogon,
	statusAccountDisabled:  ErrLogon,
	statusAccountExpired:   ErrLogon,
	statusLogonType:        ErrLogon,
	statusMustChange:       ErrLogon,
	statusLockedOut:        ErrLogon,
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

// lost reports whether the connection, or what was open on it, is of no use any more.
func lost(err error) bool {
	var transport *smb2.TransportError
	var broken *smb2.InvalidResponseError
	switch status(err) {
	case statusNameDeleted, statusFileClosed, statusSessionDeleted, statusSessionExpired:
		return true
	}
	return errors.As(err, &transport) || errors.As(err, &broken) || errors.Is(err, smbwire.ErrKilled) ||
		errors.Is(err, context.Canceled) || errors.Is(err, net.ErrClosed)
}

// refused reports whether logging on failed for a reason that time does not heal.
func refused(err error) bool {
	return errors.Is(err, ErrLogon) || errors.Is(err, ErrNotEncrypted) || errors.Is(err, fs.ErrInvalid)
}

// unable reports whether a server's answer to a flush of a folder says that it does no such thing.
func unable(err error) bool {
	switch status(err) {
	case statusNotSupported, statusNotImplemented, statusInvalidParameter, statusInvalidRequest, statusFileIsDirectory:
		return true
	}
	return errors.Is(err, fs.ErrPermission)
}

// guest reports whether the library's words say that the server took the user for a guest or for nobody.
func guest(err error) bool {
	var broken *smb2.InvalidResponseError
	return errors.As(err, &broken) && (strings.Contains(broken.Message, "guest") || strings.Contains(broken.Message, "anonymous"))
}
