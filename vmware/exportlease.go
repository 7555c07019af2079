package vmware

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	leaseReady   = 10 * time.Minute // a host may take so long to make a lease ready
	leasePoll    = 250 * time.Millisecond
	leaseEnd     = time.Minute // for its end
	leaseDevices = 1024
)

// lease is an export that a host has granted.
type lease struct {
	client  *Client
	ref     types.ManagedObjectReference
	devices []types.HttpNfcLeaseDeviceUrl
	percent atomic.Int32
	done    func(context.Context) error // of its effect
}

// lease asks for one, and waits until it is ready. It is written down twice: before it is asked for, and when it has a name.
func (t *byExport) lease(ctx context.Context, p *Pinned) (*lease, error) {
	before, err := intend(ctx, p.Journal, p.Client.effect(kindLease, p.VM.Value, nil))
	if err != nil {
		return nil, err
	}
	l := &lease{client: p.Client, done: before}
	if l.ref, err = askLease(ctx, p); err != nil {
		if isAnswer(err) { // there is none
			err = errors.Join(err, before(context.WithoutCancel(ctx)))
		}
		return nil, err
	}
	named, err := intend(ctx, p.Journal, p.Client.effect(kindLease, p.VM.Value, map[string]string{"lease": l.ref.Value}))
	if err != nil {
		return nil, errors.Join(err, l.end(ctx, false))
	}
	l.done = func(ctx context.Context) error { return errors.Join(before(ctx), named(ctx)) }
	if err := l.ready(ctx); err != nil {
		return nil, errors.Join(err, l.end(ctx, false))
	}
	return l, nil
}

func askLease(ctx context.Context, p *Pinned) (types.ManagedObjectReference, error) {
	if p.Snapshot.Value != "" {
		res, err := methods.ExportSnapshot(ctx, p.Client.Vim(), &types.ExportSnapshot{This: p.Snapshot})
		if err != nil {
			return types.ManagedObjectReference{}, fmt.Errorf("ExportSnapshot of %s: %w", p.Snapshot.Value, err)
		}
		return res.Returnval, nil
	}
	res, err := methods.ExportVm(ctx, p.Client.Vim(), &types.ExportVm{This: p.VM})
	if err != nil {
		return types.ManagedObjectReference{}, fmt.Errorf("ExportVm of %s: %w", p.VM.Value, err)
	}
	return res.Returnval, nil
}

// ready waits for what the lease offers.
func (l *lease) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaseReady)
	defer cancel()
	for {
		var m mo.HttpNfcLease
		err := property.DefaultCollector(l.client.Vim()).RetrieveOne(ctx, l.ref, []string{"state", "info", "error"}, &m)
		switch {
		case err != nil:
			return fmt.Errorf("lease %s: %w", l.ref.Value, err)
		case m.State == types.HttpNfcLeaseStateError:
			return fmt.Errorf("lease %s: %s", l.ref.Value, faultText(m.Error))
		case m.State == types.HttpNfcLeaseStateDone:
			return fmt.Errorf("lease %s is over", l.ref.Value)
		case m.State == types.HttpNfcLeaseStateReady && m.Info != nil:
			if l.devices = m.Info.DeviceUrl; len(l.devices) > leaseDevices {
				return fmt.Errorf("lease %s offers %d files", l.ref.Value, len(l.devices))
			}
			return nil
		}
		if err := httpsPause(ctx, leasePoll); err != nil {
			return fmt.Errorf("lease %s does not become ready: %w", l.ref.Value, err)
		}
	}
}

func faultText(f *types.LocalizedMethodFault) string {
	if f == nil {
		return "it failed"
	}
	if f.LocalizedMessage != "" {
		return f.LocalizedMessage
	}
	return fmt.Sprintf("%T", f.Fault)
}

// at notes how much has come, in percent.
func (l *lease) at(percent int32) { l.percent.Store(min(max(percent, 0), 100)) }

// use keeps the lease alive while work runs, and ends it. A lease that its host ends meanwhile ends the work.
func (l *lease) use(ctx context.Context, every time.Duration, work func(context.Context) error) error {
	inner, cancel := context.WithCancelCause(ctx)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		l.keep(inner, every, cancel)
	}()
	err := work(inner)
	if cause := context.Cause(inner); err != nil && cause != nil && ctx.Err() == nil {
		err = cause
	}
	cancel(nil)
	<-stopped
	return errors.Join(err, l.end(ctx, err == nil))
}

// keep reports progress. One report that is lost does no harm; the host waits for ten.
func (l *lease) keep(ctx context.Context, every time.Duration, lost context.CancelCauseFunc) {
	for failed := 0; httpsPause(ctx, every) == nil; {
		call, cancel := context.WithTimeout(ctx, every)
		_, err := methods.HttpNfcLeaseProgress(call, l.client.Vim(), &types.HttpNfcLeaseProgress{This: l.ref, Percent: l.percent.Load()})
		cancel()
		if err == nil {
			failed = 0
			continue
		}
		if failed++; failed >= 8 || isAnswer(err) {
			lost(fmt.Errorf("lease %s: %w", l.ref.Value, err))
			return
		}
	}
}

// end completes the lease, or aborts it. It takes its own time: the caller's may be over.
func (l *lease) end(ctx context.Context, whole bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseEnd)
	defer cancel()
	var err error
	if whole {
		_, err = methods.HttpNfcLeaseComplete(ctx, l.client.Vim(), &types.HttpNfcLeaseComplete{This: l.ref})
	}
	if !whole || err != nil {
		err = abortLease(ctx, l.client, l.ref)
	}
	if err != nil {
		return fmt.Errorf("end lease %s: %w", l.ref.Value, err)
	}
	return l.done(ctx)
}

// abortLease ends a lease. One that is over is as good as one that was ended.
func abortLease(ctx context.Context, c *Client, ref types.ManagedObjectReference) error {
	_, err := methods.HttpNfcLeaseAbort(ctx, c.Vim(), &types.HttpNfcLeaseAbort{This: ref})
	if isGone(err) || isFault[*types.InvalidState](err) {
		return nil
	}
	return err
}
