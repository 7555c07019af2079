package vmware

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware/vmdk"
)

// httpsLines is how many requests a host answers at a time: the service is made for files of configurations, and its host
// has others to serve.
const httpsLines = 2

// overHTTPS reads the files of a disk from its datastore over port 443, and puts them together here. It has a few hundred
// MB/s at best, and nothing else to ask for than that port and the privileges to browse and to read files.
//
//	GET /folder/web1/web1-flat.vmdk?dcPath=/DC0&dsName=store1     Range: bytes=0-4194303
//	206                                                           Content-Range: bytes 0-4194303/68719476736
type overHTTPS struct{}

func newHTTPS() *overHTTPS { return &overHTTPS{} }

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

// getter reads over the lines that all of this process has to a host, whichever client and whichever provider asks.
func (t *overHTTPS) getter(p *Pinned) *getter {
	return &getter{session: p.Client, line: p.Client.limits.places.line("GET "+p.Host.Value, httpsLines), windows: newWindows()}
}

// uploadLine is what files are put on a host over, one at a time, so that reading goes on beside them.
func uploadLine(p *Pinned) chan struct{} {
	return p.Client.limits.places.line("PUT "+p.Host.Value, 1)
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
