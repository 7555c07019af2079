package vmwaretest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/nfc"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// TestLeasesAtOnce: leases on many VMs begin and end while others of the session wait for updates of those VMs and read their
// properties, and leftovers are asked for; every call is answered.
func TestLeasesAtOnce(t *testing.T) {
	const vms = 4
	r := newRig(t, &Options{VMs: vms, DiskBytes: 1 << 20, PoweredOff: true})
	ctx, cancel := context.WithTimeout(r.ctx, 30*time.Second)
	defer cancel()
	var work sync.WaitGroup
	failed := make(chan error, 2*vms)
	for i := range vms {
		v := r.s.VM(fmt.Sprintf("web%d", i))
		work.Go(func() {
			failed <- func() error {
				for n := range rounds(4, 60) {
					res, err := methods.ExportVm(ctx, r.c, &types.ExportVm{This: v.Ref()})
					if err != nil {
						return fmt.Errorf("export: %w", err)
					}
					lease := nfc.NewLease(r.c, res.Returnval)
					if n%4 != 3 { // else it ends before it is ready, maybe
						if _, err := lease.Wait(ctx, nil); err != nil {
							return fmt.Errorf("wait: %w", err)
						}
						if err := lease.Progress(ctx, 50); err != nil {
							return fmt.Errorf("progress: %w", err)
						}
					}
					end := lease.Complete
					if n%2 == 0 {
						end = func(ctx context.Context) error { return lease.Abort(ctx, nil) }
					}
					if err := end(ctx); err != nil {
						return fmt.Errorf("end: %w", err)
					}
					r.s.Leftovers()
				}
				return nil
			}()
		})
		work.Go(func() {
			failed <- func() error {
				for n := range rounds(4, 60) {
					if err := property.Wait(ctx, property.DefaultCollector(r.c), v.Ref(), []string{"config", "runtime"}, func([]types.PropertyChange) bool { return true }); err != nil {
						return fmt.Errorf("wait for updates: %w", err)
					}
					v.SetQuiescing([]Quiescing{QuiesceOK, QuiesceNoTools}[n%2])
				}
				return nil
			}()
		})
	}
	work.Wait()
	close(failed)
	var errs []error
	for err := range failed {
		errs = append(errs, err)
	}
	require.NoError(t, errors.Join(errs...))
	require.Empty(t, r.s.extras.leases.leftovers())
}

// TestFailedTaskLetsGo: a VM whose task failed without being begun takes the next one.
func TestFailedTaskLetsGo(t *testing.T) {
	r := newRig(t, &Options{DiskBytes: 1 << 20})
	v := r.s.VM("web0")
	for range 2 {
		r.s.Fail(Fault{Method: "CreateSnapshot_Task", InTask: true, Fault: &types.NoDiskSpace{}})
		res, err := methods.CreateSnapshot_Task(r.ctx, r.c, &types.CreateSnapshot_Task{This: v.Ref(), Name: "s"})
		_, err = r.wait(res.Returnval, err)
		require.True(t, fault.Is(err, &types.NoDiskSpace{}), "%v", err)
		require.Empty(t, v.Snapshots())
	}
	require.NoError(t, r.remove(r.create(v, false), false))
}

// TestPanicIsTold: a call that panics ends its connection, and the server's end tells of it, as its object is locked from then on.
func TestPanicIsTold(t *testing.T) {
	s, err := Start(&Options{DiskBytes: 1 << 20})
	require.NoError(t, err)
	func() {
		defer func() { require.Equal(t, http.ErrAbortHandler, recover()) }()
		s.call(nil, nil, nil)
	}()
	require.ErrorContains(t, s.Close(), "a call panicked")
}
