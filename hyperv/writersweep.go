package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/hikae/hikae"
)

// kindSet is a set of shadow copies. Its effect is written down before the host is asked, so it cannot name the set: the mark
// that the requester keeps with it does.
const kindSet = "hyperv.set"

// sweepMerge bounds how long a sweep waits for what a host merges: it stands at a session's start, and another one comes.
const sweepMerge = time.Minute

// undoSet deletes a dead session's set by its mark, and ends what its writer waits for. What the host merges afterwards is looked
// at, so that the effect stays for as long as that is pending.
func undoSet(ctx context.Context, p *Provider, e hikae.Effect, _ []hikae.ChangeID) error {
	mark, name := e.Facts["mark"], e.Facts["host"]
	if !goodMark.MatchString(mark) {
		return fmt.Errorf("effect %s: mark %.40q: %w", e.ID, mark, fs.ErrInvalid)
	}
	host, err := p.site.HostNamed(ctx, name)
	if err != nil {
		return fmt.Errorf("effect %s: host %s: %w", e.ID, name, err)
	}
	if p.opts.Requester == nil {
		return fmt.Errorf("effect %s: a set of shadow copies on %s is deleted by a requester, and none was given: %w", e.ID, name, errors.ErrUnsupported)
	}
	r, err := p.opts.Requester(ctx, host)
	if err != nil {
		return fmt.Errorf("effect %s: requester on %s: %w", e.ID, name, err)
	}
	if err := errors.Join(r.DeleteSet(ctx, mark), r.Close()); err != nil {
		return fmt.Errorf("effect %s: set %s on %s: %w", e.ID, mark, name, err)
	}
	if Procedure(e.Facts["procedure"]) == Writer2012 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, sweepMerge)
	defer cancel()
	var errs []error
	files := strings.Split(e.Facts["files"], "\n")
	for id := range strings.SplitSeq(e.Facts["vms"], ",") {
		if isGUID(id) {
			errs = append(errs, p.writerMerged(ctx, id, files))
		}
	}
	return errors.Join(errs...)
}
