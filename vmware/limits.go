package vmware

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// Limits bound what this process asks of a server at once. Zero fields are good defaults.
type Limits struct {
	// DisksPerHost are disks that are read or written through one ESXi host. Its network disk service has one buffer for all
	// of them. Zero: 8. No more than 50 are ever used, which is what VMware advises against exceeding.
	DisksPerHost int
	// DisksPerServer are disks that are read or written through one vCenter Server or host address. Zero, and at most: 52,
	// the connections that a vCenter Server grants.
	DisksPerServer int
	// SnapshotsPerDatastore are VMs that keep a snapshot open on one datastore. Zero: 4.
	SnapshotsPerDatastore int
}

const (
	hardDisksPerHost   = 50
	hardDisksPerServer = 52
	maxLimit           = 1 << 16
)

func (l Limits) disksPerHost() int { return within(l.DisksPerHost, 8, hardDisksPerHost) }
func (l Limits) disksPerServer() int {
	return within(l.DisksPerServer, hardDisksPerServer, hardDisksPerServer)
}
func (l Limits) snapshotsPerDatastore() int { return within(l.SnapshotsPerDatastore, 4, maxLimit) }

func within(n, usual, most int) int {
	if n <= 0 {
		n = usual
	}
	return min(n, most)
}

// Waiting is a piece of work that waits for a place.
type Waiting struct {
	For   string        // in words: "one of 8 disks of host-12"
	Since time.Duration // how long it waits
}

// Waiting tells what waits for a place at this server, of all clients of this process, the longest first.
func (c *Client) Waiting() []Waiting { return c.limits.places.waiting() }

// acquireDisk waits for a place to read or write one disk through a host, and until its datastore is not too busy. The caller
// releases it; releasing twice is no harm. An empty reference has no limit of its own.
func (c *Client) acquireDisk(ctx context.Context, host, datastore types.ManagedObjectReference) (release func(), err error) {
	if err := c.latency.admit(ctx, datastore); err != nil {
		return nil, err
	}
	claims := []claim{{key: "disks", limit: c.limits.wants.disksPerServer(), what: "disks of " + c.address.Host}}
	if host.Value != "" {
		claims = append(claims, claim{key: "disks " + host.Value, limit: c.limits.wants.disksPerHost(), what: "disks of " + host.Value})
	}
	return c.limits.places.take(ctx, claims)
}

// acquireSnapshot waits until a snapshot may be made that grows on these datastores. The place is held until the snapshot
// is gone.
func (c *Client) acquireSnapshot(ctx context.Context, datastores ...types.ManagedObjectReference) (release func(), err error) {
	var claims []claim
	for _, d := range datastores {
		key := "snapshots " + d.Value
		if d.Value != "" && !slices.ContainsFunc(claims, func(c claim) bool { return c.key == key }) {
			claims = append(claims, claim{key: key, limit: c.limits.wants.snapshotsPerDatastore(), what: "snapshots on " + d.Value})
		}
	}
	return c.limits.places.take(ctx, claims)
}

// limiter is one client's view of a server's places.
type limiter struct {
	wants  Limits
	places *places
}

// servers are the places of each server that this process ever spoke to: they are the server's, not a client's.
var servers struct {
	sync.Mutex
	places map[string]*places
}

func limiterOf(host string, wants Limits) *limiter {
	servers.Lock()
	defer servers.Unlock()
	if servers.places == nil {
		servers.places = map[string]*places{}
	}
	key := withPort(host)
	if servers.places[key] == nil {
		servers.places[key] = &places{used: map[string]int{}}
	}
	return &limiter{wants: wants, places: servers.places[key]}
}

// claim is one place of a kind, of which there are so many.
type claim struct {
	key   string
	limit int
	what  string
}

// places hands out places, several kinds at once or none, so that nobody holds one while waiting for another. First come,
// first served: whoever waits has one place of each kind kept free from those who came later, which a full host does not
// turn into waiting for those who want nothing of it.
type places struct {
	mu    sync.Mutex
	used  map[string]int
	queue []*waiter
	lines map[string]chan struct{}
}

// line is what requests of one kind are made over: as many at once as it has room for, by all clients of the server.
func (p *places) line(key string, most int) chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lines == nil {
		p.lines = map[string]chan struct{}{}
	}
	if p.lines[key] == nil {
		p.lines[key] = make(chan struct{}, most)
	}
	return p.lines[key]
}

type waiter struct {
	claims []claim
	ready  chan struct{} // closed when it has its places
	since  time.Time
	lacks  string // why it waits
}

func (p *places) take(ctx context.Context, claims []claim) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w := &waiter{claims: claims, ready: make(chan struct{}), since: time.Now()}
	p.mu.Lock()
	p.queue = append(p.queue, w)
	p.grant()
	p.mu.Unlock()
	select {
	case <-w.ready:
	case <-ctx.Done():
		if lacks, waits := p.leave(w); waits {
			return nil, fmt.Errorf("waiting for %s: %w", lacks, ctx.Err())
		}
		// It got them in the same moment. They are the caller's, who will see the context's end by itself.
	}
	return sync.OnceFunc(func() { p.give(claims) }), nil
}

// leave takes a waiter out of the queue, unless it has its places.
func (p *places) leave(w *waiter) (lacks string, waited bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.queue, w)
	if i < 0 {
		return "", false
	}
	p.queue = slices.Delete(p.queue, i, i+1)
	p.grant()
	return w.lacks, true
}

func (p *places) give(claims []claim) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range claims {
		if p.used[c.key]--; p.used[c.key] == 0 {
			delete(p.used, c.key)
		}
	}
	p.grant()
}

// grant serves whom it can, in the order in which they came.
func (p *places) grant() {
	kept := map[string]int{} // for those who came earlier and still wait
	p.queue = slices.DeleteFunc(p.queue, func(w *waiter) bool {
		lacks := p.lacking(w, kept)
		if len(lacks) == 0 {
			for _, c := range w.claims {
				p.used[c.key]++
			}
			close(w.ready)
			return true
		}
		w.lacks = strings.Join(lacks, " and ")
		for _, c := range w.claims {
			kept[c.key]++
		}
		return false
	})
}

func (p *places) lacking(w *waiter, kept map[string]int) (lacks []string) {
	for _, c := range w.claims {
		if p.used[c.key]+kept[c.key] >= c.limit {
			lacks = append(lacks, fmt.Sprintf("one of %d %s", c.limit, c.what))
		}
	}
	return lacks
}

func (p *places) waiting() []Waiting {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Waiting, 0, len(p.queue))
	for _, w := range p.queue {
		out = append(out, Waiting{For: w.lacks, Since: time.Since(w.since)})
	}
	return out
}
