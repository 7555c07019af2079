package vmware

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"sync"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware/vmdk"
	"github.com/vmware/govmomi/vim25/types"
)

// httpsLines is how many requests a host answers at a time: the service is made for files of configurations, and its host
// has others to serve.
const httpsLines = 2

// overHTTPS reads the files of a disk from its datastore over port 443, and puts them together here. It has a few hundred
// MB/s at best, and nothing else to ask for than that port and the privileges to browse and to read files.
//
//	GET /folder/web1/web1-flat.vmdk?dcPath=/DC0&dsName=store1     Range: bytes=0-4194303
//	206                                                           Content-Range: bytes 0-4194303/68719476736
type overHTTPS struct {
	mu    sync.Mutex
	lines map[types.ManagedObjectReference]chan struct{} // by host
}

func newHTTPS() *overHTTPS {
	return &overHTTPS{lines: map[types.ManagedObjectReference]chan struct{}{}}
}

func (t *overHTTPS) Name() string { return HTTPS }

// Check implements [Transport].
func (t *overHTTPS) Check(ctx context.Context, p *Pinned) error {
	_, _, err := diskFiles(ctx, HTTPS, p)
	return asUnfit(HTTPS, err)
}

// Open implements [Transport]. Nothing happens on the host but reading.
func (t *overHTTPS) Open(ctx context.Context, p *Pinned) (pipe.Image, error) {
	all, at, err := diskFiles(ctx, HTTPS, p)
	if err != nil {
		return nil, asUnfit(HTTPS, err)
	}
	g := t.getter(p)
	folder := &storeFolder{stores: all, home: at, open: func(ctx context.Context, at place) (pipe.Image, error) {
		return g.open(ctx, at, fileURL(p.Client, at))
	}}
	img, err := vmdk.OpenIn(ctx, folder, path.Base(at.file), nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %v: %w", HTTPS, at, err)
	}
	return &httpsDisk{Image: img}, nil
}

func (t *overHTTPS) getter(p *Pinned) *getter {
	return &getter{session: p.Client, line: t.line(p.Host), windows: newWindows()}
}

// line is what a host is asked over, by all that this transport reads.
func (t *overHTTPS) line(host types.ManagedObjectReference) chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.lines[host]
	if l == nil {
		l = make(chan struct{}, httpsLines)
		t.lines[host] = l
	}
	return l
}

// fileURL is where the server has a file. Names stand as the inventory has them, where a slash is %2f already: that is
// escaped once more.
func fileURL(c *Client, at place) *url.URL {
	q := url.Values{"dcPath": {at.datacenter}, "dsName": {at.name}}
	return &url.URL{Scheme: "https", Host: c.address.Host, Path: "/folder/" + at.file, RawQuery: q.Encode()}
}

// httpsDisk is a disk over HTTPS.
type httpsDisk struct{ *vmdk.Image }

// Flight keeps both lines busy: two windows of four reads.
func (d *httpsDisk) Flight() pipe.Flight {
	return pipe.Flight{Reads: 2 * httpsLines * 4, Bytes: 2 * httpsLines * windowBytes * 2}
}

var _ pipe.Far = (*httpsDisk)(nil)

// errShrunk is wrapped where a file became shorter while it was read.
var errShrunk = errors.New("it has become shorter")
