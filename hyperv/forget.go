package hyperv

import (
	"context"
	"strings"

	"github.com/hikae/hikae"
)

// Forget gives up what a VM's host keeps for points that are thrown away: the reference points that these change ids rest on. The
// next backup that would have been an increment on such a point reads whole disks. Ids that are none of Hyper-V's, and reference
// points that are gone, are no error. It must not be called for the newest point of a VM that goes on being backed up.
func (p *Provider) Forget(ctx context.Context, vm string, ids []hikae.ChangeID) error {
	return p.dropReferences(ctx, strings.ToLower(vm), referencesOf(ids))
}
