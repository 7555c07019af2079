package hyperv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hikae/hikae"
)

// Requester asks a host's Volume Shadow Copy Service for a backup of VMs, by the Hyper-V writer. It runs on the host: see
// package hyperv/helper. Methods may be called at once, sets are made one at a time.
type Requester interface {
	// Components are the VMs that the writer offers.
	Components(ctx context.Context) ([]Component, error)
	// Take makes one set of shadow copies with these VMs in it. It returns when the set is there and the writer has done its part
	// inside it: auto-recovery takes minutes (R061). On error nothing is left.
	Take(ctx context.Context, r SetRequest) (Set, error)
	// DeleteSet deletes a set that a dead session left, by the mark that it was made with, and ends what the writers wait for. None
	// is no error.
	DeleteSet(ctx context.Context, mark string) error
	// Close ends the connection, and takes away what it brought to the host.
	Close() error
}

// Journaled is an optional ability of a [Requester] that brings something of its own to the host: it is told, before the first
// request, where to write that down first. Its effects have the kind "hyperv.helper" and name the site and the host;
// [ProviderOptions.UndoRequester] undoes them.
type Journaled interface {
	Journal(j hikae.Journal, site string)
}

// kindHelper is what a requester brought to a host.
const kindHelper = "hyperv.helper"

func undoHelper(ctx context.Context, p *Provider, e hikae.Effect) error {
	if p.opts.UndoRequester == nil {
		return fmt.Errorf("effect %s: what was brought to host %s is taken away by those who bring it, and none was given: %w",
			e.ID, e.Facts["host"], errors.ErrUnsupported)
	}
	return p.opts.UndoRequester(ctx, e)
}

// Component is a VM as the Hyper-V writer offers it.
type Component struct {
	VM      string   // GUID, in small letters
	Caption string   // as the writer says: Online\web1, Backup Using Saved State\web1 …
	Method  Method   // read from the caption
	Files   []string // of the VM: configuration and disks, as the host names them
	Volumes []string // that they lie on: C:\, \\?\Volume{…}\
}

// Method is how a writer gets a VM's data consistent.
type Method string

// Methods.
const (
	MethodOnline  Method = "online"  // by the integration components: a snapshot inside the guest
	MethodSaved   Method = "saved"   // the VM is put into saved state for a moment: it stands still
	MethodOffline Method = "offline" // it is off
	MethodUnknown Method = "unknown"
)

// SetRequest says what is to be in a set.
type SetRequest struct {
	Mark string   // [a-z2-7]{26}: by which a sweep finds it again
	VMs  []string // GUIDs
	Full bool     // the guests' logs are truncated; else it is a copy
	// Transportable asks for shadow copies that another machine can mount: a hardware provider is needed.
	Transportable bool
	Limit         time.Duration // for all of it. Zero: 20 min
}

// Set is a set of shadow copies. Its Files lead from production names into it.
type Set interface {
	Files
	ID() string
	// Consistency of one VM: what its writer did for it, and how that went.
	Outcome(vm string) SetOutcome
	// Finish tells the writer which VMs' backups are good (truncation where Full), and ends the backup. Where no VM's is, it
	// is aborted. The set stays until Delete.
	Finish(ctx context.Context, good map[string]bool) error
	// Delete deletes the shadow copies. It may be called again after an error.
	Delete(ctx context.Context) error
}

// SetOutcome is what became of one VM in a set.
type SetOutcome struct {
	Method    Method
	Files     []string // of its component
	Recovered bool     // the writer ran auto-recovery inside the set
	Err       error    // its part failed; nil: it is good
	Hint      string
}
