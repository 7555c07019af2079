package hypervtest

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hikae/hikae/pipe"
)

// ShareCopier makes shadow copies of shares, as the provider for those of a host's VSS does: it asks the file servers.
type ShareCopier interface {
	// Copy makes one set of shares (\\fs1\vms), of one moment.
	Copy(ctx context.Context, shares []string) (ShareSet, error)
}

// ShareSet is shadow copies of shares.
type ShareSet interface {
	// Share is the copy of a share: what it is exposed as, \\fs1\vms@{…}, and the folder of this machine in which the writer works before
	// the set is presented.
	Share(share string) (exposed, folder string)
	// Open opens a file of an exposed share, by the way on which the host reads it.
	Open(ctx context.Context, name string) (pipe.Image, error)
	Delete(ctx context.Context) error
}

// isShare: shares are other machines'.
func isShare(mount string) bool { return len(mount) > 1 && mount[0] == '\\' && mount[1] == '\\' }

// shareName is \\fs1\vms, of \\fs1\vms\.
func shareName(mount string) string { return mount[:len(mount)-1] }

// copiable: volumes of the host's own, and shares where a provider for these is there: from 2012 on.
func (v *hostVSS) copiable(mount string) bool {
	return v.supported(mount) || isShare(mount) && v.gen2012() && v.options().Shares != nil
}

func (v *hostVSS) gen2012() bool { return v.h.gen.since("2012") }

// copyShares has the file servers make the shadow copies of a set's shares.
func (v *hostVSS) copyShares(ctx context.Context, list []*shadow) error {
	var shares []string
	for _, s := range list {
		shares = append(shares, shareName(s.Volume))
	}
	if len(shares) == 0 {
		return nil
	}
	set, err := v.options().Shares.Copy(ctx, shares)
	if err != nil {
		return fmt.Errorf("shadow copies of shares: %w", err)
	}
	for _, s := range list {
		s.Device, s.dir = set.Share(shareName(s.Volume))
		s.shares = set
	}
	return nil
}

// dropShares ends the sets that shadow copies of shares are in.
func dropShares(list []*shadow) error {
	ended := map[ShareSet]bool{}
	var errs []error
	for _, s := range list {
		if s.shares != nil && !ended[s.shares] {
			ended[s.shares] = true
			errs = append(errs, s.shares.Delete(context.Background()))
		}
	}
	return errors.Join(errs...)
}

// openShared opens a file of a shadow copy that a file server exposes.
func (s *shadow) openShared(ctx context.Context, name string) (pipe.Image, error) {
	img, err := s.shares.Open(ctx, s.Device+`\`+strings.TrimLeft(name, `\`))
	if err != nil {
		return nil, err
	}
	return &shadowFile{img, s}, nil
}
