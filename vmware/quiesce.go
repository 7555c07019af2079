package vmware

import (
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// Quiesce is a policy for VMware Tools, which make a guest's file systems, and the applications of a Windows guest, consistent
// for a snapshot.
type Quiesce int

const (
	TryQuiesce     Quiesce = iota // where it fails the snapshot is as after a power cut, and a warning says so
	RequireQuiesce                // where it fails there is no snapshot
	NoQuiesce                     // it is not tried
)

var quiesceNames = [...]string{"try", "require", "off"}

// String is the word in options and reports.
func (q Quiesce) String() string {
	if q < 0 || int(q) >= len(quiesceNames) {
		return fmt.Sprintf("quiesce(%d)", int(q))
	}
	return quiesceNames[q]
}

// ParseQuiesce takes what String says. Any other word is an error that wraps fs.ErrInvalid.
func ParseQuiesce(word string) (Quiesce, error) {
	for i, name := range quiesceNames {
		if name == word {
			return Quiesce(i), nil
		}
	}
	return 0, fmt.Errorf("quiesce %q: %w: try, require or off", word, fs.ErrInvalid)
}

// quiesceBy is how VMware Tools are asked.
type quiesceBy struct {
	// spec asks for VSS with its writers. Nil: file systems, in the host's own way.
	spec types.BaseVirtualMachineGuestQuiesceSpec
}

// VSS backup types. A copy leaves the guest's logs alone: a full one would have the writers drop theirs at the end of the
// snapshot, when no restore point is durable.
const vssCopy = 5

// toolsRun reports whether VMware Tools answer. Without them a host takes a snapshot that was to be quiesced all the same, and
// does not say that it was not.
func (m *machine) toolsRun() bool {
	return m.Guest != nil && m.Guest.ToolsRunningStatus == string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
}

func (m *machine) windows() bool {
	if m.Guest != nil && m.Guest.GuestFamily != "" {
		return m.Guest.GuestFamily == string(types.VirtualMachineGuestOsFamilyWindowsGuest)
	}
	return strings.HasPrefix(m.Config.GuestId, "win")
}

// quiesceSpec is how the guest of a VM is best quiesced. Applications need vSphere 6.5 on the server and on the host.
func (c *Client) quiesceSpec(m *machine, timeout time.Duration) *quiesceBy {
	api := c.vim.ServiceContent.About.ApiVersion
	if !m.windows() || older(m.release, 6, 5) || !atLeast(api, 6, 5) {
		return &quiesceBy{}
	}
	yes, no := true, false
	spec := &types.VirtualMachineWindowsQuiesceSpec{
		VssBackupType: vssCopy, VssBootableSystemState: &yes, VssPartialFileSupport: &no,
		VssBackupContext: string(types.VirtualMachineWindowsQuiesceSpecVssBackupContextCtx_backup),
	}
	if timeout > 0 {
		spec.Timeout = int32(min(max(timeout, 5*time.Minute), 240*time.Minute) / time.Minute)
	}
	return &quiesceBy{spec: spec}
}

func older(r release, major, minor int) bool {
	return r.major < major || r.major == major && r.minor < minor
}

func atLeast(version string, major, minor int) bool {
	var a, b int
	if n, _ := fmt.Sscanf(version, "%d.%d", &a, &b); n != 2 {
		return false
	}
	return a > major || a == major && b >= minor
}

// notQuiesced reports whether a snapshot failed because its guest could not be quiesced.
func notQuiesced(err error) bool {
	return isFault[*types.ApplicationQuiesceFault](err) || isFault[*types.FilesystemQuiesceFault](err) ||
		isFault[*types.ToolsUnavailable](err) || saysOf(err, "quiesc")
}
