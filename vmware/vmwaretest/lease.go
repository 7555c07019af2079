package vmwaretest

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// leaseTimeout is how long a lease lives without a word of progress; real ones say 300 seconds.
const leaseTimeout = 300 * time.Second

// leases are those that are open, by the token in their addresses.
type leases struct {
	mu      sync.Mutex
	open    map[string]*lease
	timeout time.Duration
	taking  sync.WaitGroup // transfers under way
	closed  bool
}

// SetLeaseTimeout says how long the next leases live without progress. Zero: 300 seconds.
func (s *Server) SetLeaseTimeout(d time.Duration) {
	l := &s.extras.leases
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timeout = d
}

// lease is the right to read or to write the disks of one VM by HTTP, while its owner reports progress.
//
//	initializing ──► ready ──► done       complete
//	      │            ├─────► error      aborted, timed out, or the session ended
//	      └────────────┴─────► error      nothing could be opened
type lease struct {
	mo.HttpNfcLease

	s      *Server
	token  string
	upload bool

	// Guarded by the lock of all leases.
	vm    types.ManagedObjectReference
	disks []*leaseDisk

	mu      sync.Mutex // all below
	timer   *time.Timer
	timeout time.Duration
	ended   chan struct{} // closed when no more is given out or taken
	over    bool
	why     *types.LocalizedMethodFault // of its end, where that was an error

	undo func() // of an import: takes the VM away
}

// leaseDisk is one disk of a lease.
type leaseDisk struct {
	name      string // disk-0.vmdk, as in the address
	key       string
	importKey string
	file      string // on the datastore
	adapter   string
	size      int64

	mu   sync.Mutex
	sha1 string // of what passed, when it has passed whole
	sent int64
	held int64 // bytes of content
}

// newLease makes a lease in the session of a call. It is not ready yet.
func (s *Server) newLease(ctx *simulator.Context, vm types.ManagedObjectReference, upload bool) (*lease, types.BaseMethodFault) {
	all := &s.extras.leases
	l := &lease{s: s, token: strings.ToLower(rand.Text()), vm: vm, upload: upload, ended: make(chan struct{})}
	l.Self = types.ManagedObjectReference{Type: "HttpNfcLease", Value: fmt.Sprintf("session[%s]%s", ctx.Session.Key, newUUID())}
	l.State = types.HttpNfcLeaseStateInitializing
	l.Mode = string(types.HttpNfcLeaseModePushOrGet)
	if fault := all.admit(l); fault != nil {
		return nil, fault
	}
	ctx.Session.Registry.Put(l) // it has its name already, which others may be reading
	return l, nil
}

// admit notes a lease, unless its VM has one.
func (all *leases) admit(l *lease) types.BaseMethodFault {
	all.mu.Lock()
	defer all.mu.Unlock()
	if l.timeout = all.timeout; l.timeout <= 0 {
		l.timeout = leaseTimeout
	}
	for _, other := range all.open {
		if other.vm == l.vm && l.vm.Value != "" {
			return &types.TaskInProgress{Task: other.Self}
		}
	}
	if all.closed {
		return &types.HostNotConnected{}
	}
	if all.open == nil {
		all.open = map[string]*lease{}
	}
	all.open[l.token] = l
	return nil
}

// ready opens the lease for transfers and starts its clock.
func (l *lease) ready(ctx *simulator.Context) {
	all := &l.s.extras.leases
	all.mu.Lock()
	vm, disks := l.vm, l.disks
	all.mu.Unlock()
	info := &types.HttpNfcLeaseInfo{Lease: l.Self, Entity: vm, LeaseTimeout: int32(max(1, l.timeout/time.Second))}
	for _, d := range disks {
		info.TotalDiskCapacityInKB += d.size >> 10
		info.DeviceUrl = append(info.DeviceUrl, types.HttpNfcLeaseDeviceUrl{
			Key: d.key, ImportKey: d.importKey, TargetId: d.name, Disk: types.NewBool(true), Url: l.url(d),
			SslThumbprint: l.s.ThumbprintSHA1(),
		})
	}
	l.mu.Lock()
	if l.over { // by the end of the server, say
		l.mu.Unlock()
		return
	}
	l.timer = time.AfterFunc(l.timeout, func() { l.fail(l.s.context(), &types.Timedout{}, "the lease timed out") })
	l.mu.Unlock()
	l.update(ctx, []types.PropertyChange{{Name: "info", Val: info}, {Name: "state", Val: types.HttpNfcLeaseStateReady}})
}

// url is where a disk is. A host alone leaves it to the client by which name it is called.
func (l *lease) url(d *leaseDisk) string {
	u := *l.s.URL()
	u.User, u.RawQuery, u.Path = nil, "", leasePrefix+l.token+"/"+d.name
	if l.s.reg.IsESX() {
		u.Host = "*"
		return "https://*" + u.Path
	}
	return u.String()
}

// Lock and Unlock make the simulator take no lock around a call: what an end takes down has locks of its own.
func (l *lease) Lock()   {}
func (l *lease) Unlock() {}

// update tells the lease's properties. It is the only thing done under the simulator's lock of the lease, which goes by its
// reference, as the lease itself opts out of it; and no lock of ours is held meanwhile.
func (l *lease) update(ctx *simulator.Context, changes []types.PropertyChange) {
	ctx.WithLock(l.Self, func() { ctx.Update(l, changes) })
}

// holds are the disks that the lease is on.
func (l *lease) holds() []*leaseDisk {
	all := &l.s.extras.leases
	all.mu.Lock()
	defer all.mu.Unlock()
	return l.disks
}

// on says what the lease is on.
func (l *lease) on(vm types.ManagedObjectReference, disks []*leaseDisk) {
	all := &l.s.extras.leases
	all.mu.Lock()
	defer all.mu.Unlock()
	l.vm, l.disks = vm, disks
}

// finish ends the lease once, and says whether this was the time.
func (l *lease) finish(why *types.LocalizedMethodFault) bool {
	if !l.end(why) {
		return false
	}
	all := &l.s.extras.leases
	all.mu.Lock()
	delete(all.open, l.token)
	all.mu.Unlock()
	return true
}

func (l *lease) end(why *types.LocalizedMethodFault) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return false
	}
	l.over, l.why = true, why
	close(l.ended)
	if l.timer != nil {
		l.timer.Stop()
	}
	return true
}

// fail ends the lease as an error. What an import made goes away with it.
func (l *lease) fail(ctx *simulator.Context, fault types.BaseMethodFault, text string) {
	why := &types.LocalizedMethodFault{Fault: fault, LocalizedMessage: text}
	if !l.finish(why) {
		return
	}
	l.mu.Lock()
	undo := l.undo
	l.mu.Unlock()
	if undo != nil {
		undo()
	}
	l.update(ctx, []types.PropertyChange{{Name: "error", Val: why}, {Name: "state", Val: types.HttpNfcLeaseStateError}})
}

// refusal is the fault of a call to a lease that is over.
func (l *lease) refusal() *soap.Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		return nil
	}
	if l.why != nil {
		return simulator.Fault(l.why.LocalizedMessage, l.why.Fault)
	}
	return simulator.Fault("the lease is over", &types.InvalidState{})
}

// HttpNfcLeaseProgress implements the API's method: it keeps the lease alive.
func (l *lease) HttpNfcLeaseProgress(ctx *simulator.Context, req *types.HttpNfcLeaseProgress) soap.HasFault {
	body := &methods.HttpNfcLeaseProgressBody{Fault_: l.refusal()}
	if body.Fault_ != nil {
		return body
	}
	if req.Percent < 0 || req.Percent > 100 {
		body.Fault_ = simulator.Fault("", &types.InvalidArgument{InvalidProperty: "percent"})
		return body
	}
	l.mu.Lock()
	if l.timer != nil && !l.over {
		l.timer.Reset(l.timeout)
	}
	l.mu.Unlock()
	l.update(ctx, []types.PropertyChange{{Name: "transferProgress", Val: req.Percent}})
	body.Res = new(types.HttpNfcLeaseProgressResponse)
	return body
}

// HttpNfcLeaseComplete implements the API's method. A disk that never came whole fails an import.
func (l *lease) HttpNfcLeaseComplete(ctx *simulator.Context, _ *types.HttpNfcLeaseComplete) soap.HasFault {
	body := &methods.HttpNfcLeaseCompleteBody{Fault_: l.refusal()}
	if body.Fault_ != nil {
		return body
	}
	for _, d := range l.holds() {
		if l.upload && !d.whole() {
			fault := &types.FileFault{File: d.file}
			body.Fault_ = simulator.Fault(d.name+" did not come whole", fault)
			l.fail(ctx, fault, d.name+" did not come whole")
			return body
		}
	}
	if l.finish(nil) {
		l.update(ctx, []types.PropertyChange{{Name: "state", Val: types.HttpNfcLeaseStateDone}})
	}
	body.Res = new(types.HttpNfcLeaseCompleteResponse)
	return body
}

// HttpNfcLeaseAbort implements the API's method. The VM of an import is destroyed.
func (l *lease) HttpNfcLeaseAbort(ctx *simulator.Context, req *types.HttpNfcLeaseAbort) soap.HasFault {
	body := &methods.HttpNfcLeaseAbortBody{Fault_: l.refusal()}
	if body.Fault_ != nil {
		return body
	}
	why := req.Fault
	if why == nil {
		why = &types.LocalizedMethodFault{Fault: &types.RequestCanceled{}, LocalizedMessage: "aborted"}
	}
	l.fail(ctx, why.Fault, why.LocalizedMessage)
	body.Res = new(types.HttpNfcLeaseAbortResponse)
	return body
}

// HttpNfcLeaseGetManifest implements the API's method: what passed whole, with its digest.
func (l *lease) HttpNfcLeaseGetManifest(*types.HttpNfcLeaseGetManifest) soap.HasFault {
	res := new(types.HttpNfcLeaseGetManifestResponse)
	for _, d := range l.holds() {
		d.mu.Lock()
		if d.sha1 != "" {
			res.Returnval = append(res.Returnval, types.HttpNfcLeaseManifestEntry{
				Key: d.key, Sha1: d.sha1, Checksum: d.sha1, ChecksumType: string(types.HttpNfcLeaseManifestEntryChecksumTypeSha1),
				Size: d.sent, Disk: true, Capacity: d.size, PopulatedSize: d.held,
			})
		}
		d.mu.Unlock()
	}
	return &methods.HttpNfcLeaseGetManifestBody{Res: res}
}

func (d *leaseDisk) whole() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sha1 != ""
}

// find returns an open lease and its disk by what an address says.
func (all *leases) find(token, name string) (*lease, *leaseDisk) {
	all.mu.Lock()
	defer all.mu.Unlock()
	l := all.open[token]
	if l == nil {
		return nil, nil
	}
	i := slices.IndexFunc(l.disks, func(d *leaseDisk) bool { return d.name == name })
	if i < 0 {
		return nil, nil
	}
	return l, l.disks[i]
}

// leftovers says in words which leases are open.
func (all *leases) leftovers() (out []string) {
	all.mu.Lock()
	defer all.mu.Unlock()
	for _, l := range all.open {
		out = append(out, fmt.Sprintf("lease %s on %s", l.Self.Value, l.vm.Value))
	}
	slices.Sort(out)
	return out
}

// close ends all leases and waits for their transfers.
func (all *leases) close() {
	all.mu.Lock()
	all.closed = true
	var open []*lease
	for _, l := range all.open {
		open = append(open, l)
	}
	all.mu.Unlock()
	for _, l := range open {
		l.fail(l.s.context(), &types.HostNotConnected{}, "the server ends")
	}
	all.taking.Wait()
}
