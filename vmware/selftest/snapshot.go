package selftest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job/selftest"
	"github.com/hikae/hikae/vmware"
)

// quiesced takes a snapshot with the guest quiet, where that is allowed, and removes it.
func (t *test) quiesced(ctx context.Context) (string, error) {
	if t.opts.VMware.Quiesce == vmware.NoQuiesce {
		return "", selftest.Untriedf("it was said that the guest is left alone")
	}
	if !t.before.on || !t.before.tools {
		return "", selftest.Untriedf("the VM is off, or VMware Tools do not run in it")
	}
	begun := time.Now()
	snap, err := t.take(ctx, vmware.RequireQuiesce)
	if err != nil {
		return "", selftest.Doubtf("no quiesced snapshot can be had: %v", err)
	}
	taken := time.Since(begun)
	t.facts["quiesced"] = snap.Consistency().String()
	err = t.drop(ctx, snap)
	return fmt.Sprintf("consistency %s; taken in %.1f s, removed in %.1f s", snap.Consistency(), taken.Seconds(), (time.Since(begun) - taken).Seconds()), err
}

// plain takes a snapshot with the guest left alone, and notes some of each disk's content as backups read it.
func (t *test) plain(ctx context.Context) (string, error) {
	begun := time.Now()
	snap, err := t.take(ctx, vmware.NoQuiesce)
	if err != nil {
		return "", err
	}
	t.snap = snap
	taken := time.Since(begun)
	ways := ""
	for _, d := range snap.VM().Disks {
		if d.Skip != "" {
			continue
		}
		s, err := t.sampleOf(ctx, d)
		if err != nil {
			return "", fmt.Errorf("disk %s: %w", d.Key, err)
		}
		t.samples = append(t.samples, s)
		ways += fmt.Sprintf(", disk %d by %s", len(t.samples), s.by)
	}
	return fmt.Sprintf("taken in %.1f s%s", taken.Seconds(), ways), nil
}

// take takes a snapshot by a policy of quiescing. It leaves tracking as it is.
func (t *test) take(ctx context.Context, quiesce vmware.Quiesce) (hikae.Snapshot, error) {
	o := *t.opts.VMware
	o.Quiesce, o.KeepTracking, o.ResetTrackingOnFull = quiesce, true, false
	p, err := vmware.New(t.client, t.refs(), &o)
	if err != nil {
		return nil, err
	}
	return p.Snapshot(ctx, t.vm.Value, &hikae.SnapshotOptions{Journal: t.opts.Journal})
}

// drop removes a snapshot, also when ctx has ended.
func (t *test) drop(ctx context.Context, snap hikae.Snapshot) error {
	host, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Minute)
	defer cancel()
	err := snap.Release(host)
	if err != nil {
		t.snap = snap // the end tries once more
	}
	return errors.Join(err, ctx.Err())
}
