package vmware

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware/vmdk"
	"github.com/vmware/govmomi/vim25/types"
)

// kindLease is the effect of an export: a lease keeps a VM from being moved, and from being started where it is off.
const kindLease = "vmware.lease"

func init() { undoers[kindLease] = undoLease }

// byExport has the host send the whole disk in one stream, and keeps it in a file of this machine while it is read. It works
// wherever a disk lies, and is the last that is tried: the whole disk crosses the line whatever is asked of it, and the VM
// can be neither moved nor started meanwhile.
//
//	ExportSnapshot ──► lease, ready ──► GET url, one stream ──► scratch file ──► reads
//	                     └── progress every 30 s, or the host ends it after 300 s
type byExport struct {
	every time.Duration // between two signs of life
}

func newExport() *byExport { return &byExport{every: 30 * time.Second} }

func (t *byExport) Name() string { return Export }

// Check implements [Transport].
func (t *byExport) Check(_ context.Context, p *Pinned) error {
	unfit := func(reason string) error { return &UnfitError{Transport: Export, Reason: reason} }
	switch {
	case p.Snapshot.Value == "" && p.PoweredOn:
		return unfit("the VM runs, and there is no snapshot that could be exported")
	case p.Disk.Encrypted:
		return unfit("the disk is encrypted, and hosts do not export such")
	}
	return nil
}

// Open implements [Transport]. When it returns, the disk is here and the lease is over.
func (t *byExport) Open(ctx context.Context, p *Pinned) (_ pipe.Image, err error) {
	s, err := newScratch(p.Scratch, p.Disk.Size, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Export, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	l, err := t.lease(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Export, err)
	}
	err = l.use(ctx, t.every, func(ctx context.Context) error { return t.fetch(ctx, l, p, s) })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Export, err)
	}
	return s, nil
}

// fetch reads the disk's stream into the file.
func (t *byExport) fetch(ctx context.Context, l *lease, p *Pinned, s *scratch) error {
	device, err := deviceOf(l.devices, p)
	if err != nil {
		return err
	}
	if err := s.room(min(device.FileSize, p.Disk.Size)); err != nil {
		return err
	}
	at, err := leaseURL(p.Client, device.Url)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return err
	}
	if device.SslThumbprint != "" && at.Host != p.Client.address.Host {
		p.Client.Vim().SetThumbprint(at.Host, device.SslThumbprint) // a host of vCenter's, which shows its own certificate
	}
	name := "the stream of " + path.Base(at.Path)
	res, err := plain(p.Client.HTTP()).Do(req)
	if err != nil {
		return fmt.Errorf("GET %s: %w", name, unwrapURL(err))
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return &StatusError{http.MethodGet, name, res.StatusCode}
	}
	body := watched(res.Body, cancel)
	defer body.stop()
	if err := unpack(ctx, body, p, s, l); err != nil {
		err = body.why(err)
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("GET %s: after %d bytes: %w", name, body.passed(), err)
	}
	return nil
}

// unpack writes the grains of a stream to their places.
func unpack(ctx context.Context, body *watchedReader, p *Pinned, s *scratch, l *lease) error {
	stream, err := vmdk.ReadStream(ctx, body)
	if err != nil {
		return err
	}
	if stream.Size() != p.Disk.Size {
		return fmt.Errorf("it holds a disk of %d bytes, the configuration says %d", stream.Size(), p.Disk.Size)
	}
	for g, err := range stream.Grains(ctx) {
		if err != nil {
			return err
		}
		if err := s.put(g.Data, g.Off); err != nil {
			return err
		}
		l.at(int32(100 * (g.Off + 1) / (p.Disk.Size + 1)))
	}
	return nil
}

// deviceOf finds a disk among what a lease offers, by the place where it hangs: the name of its kind of controller, its bus
// and its unit stand in the offer's key. One that cannot be told from another is an error: never another disk.
func deviceOf(all []types.HttpNfcLeaseDeviceUrl, p *Pinned) (types.HttpNfcLeaseDeviceUrl, error) {
	var disks []types.HttpNfcLeaseDeviceUrl
	var keys []string
	for _, d := range all {
		if isTrue(d.Disk) {
			disks, keys = append(disks, d), append(keys, d.Key)
		}
	}
	var found []types.HttpNfcLeaseDeviceUrl
	for _, d := range disks {
		if slotInKey(d.Key, p.Disk.Slot) || strings.HasSuffix(d.Key, "/"+strconv.Itoa(int(p.Disk.Device))) {
			found = append(found, d)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	return types.HttpNfcLeaseDeviceUrl{}, fmt.Errorf("disk %s at %s is not told apart among what the host offers: %q", p.Disk.Key, p.Disk.Slot, keys)
}

// slotInKey reports whether a key such as "/vm-42/VirtualLsiLogicController0:1" is that of slot "scsi0:1".
func slotInKey(key, slot string) bool {
	name := key[strings.LastIndexByte(key, '/')+1:]
	kind, at, ok := cutDigits(slot)
	if !ok || !strings.HasSuffix(name, at) {
		return false
	}
	name = strings.ToLower(strings.TrimSuffix(name, at))
	if name != "" && name[len(name)-1] >= '0' && name[len(name)-1] <= '9' { // of a longer number
		return false
	}
	for _, word := range controllerWords[kind] {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

// controllerWords are in the names of the API's types of controllers.
var controllerWords = map[string][]string{
	"scsi": {"scsi", "lsilogic", "buslogic"}, "sata": {"sata", "ahci"}, "nvme": {"nvme"}, "ide": {"ide"},
}

// cutDigits divides "scsi0:1".
func cutDigits(slot string) (kind, at string, ok bool) {
	i := strings.IndexAny(slot, "0123456789")
	if i <= 0 {
		return "", "", false
	}
	return slot[:i], slot[i:], true
}

// leaseURL is where a stream is. "*" stands for the server that was asked.
func leaseURL(c *Client, s string) (*url.URL, error) {
	if len(s) > maxFileName {
		return nil, fmt.Errorf("the host gives an address of %d bytes", len(s))
	}
	rest, ok := strings.CutPrefix(s, "https://")
	if !ok {
		return nil, fmt.Errorf("the host gives an address that is not https")
	}
	if after, ok := strings.CutPrefix(rest, "*"); ok && strings.HasPrefix(after, ":") {
		rest = bracketed(c.address.Hostname()) + after
	} else if ok { // behind a forwarded port there is no other way to it than ours
		rest = c.address.Host + after
	}
	at, err := url.Parse("https://" + rest)
	if err != nil || at.Host == "" || at.User != nil {
		return nil, errors.New("the host gives an address that is none")
	}
	return at, nil
}

func bracketed(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// undoLease ends the lease of a dead session. One whose name never became known has nobody who reports progress, and is ended
// by its host after five minutes.
func undoLease(ctx context.Context, c *Client, e hikae.Effect, _ []hikae.ChangeID) error {
	id := e.Facts["lease"]
	if id == "" {
		return nil
	}
	return abortLease(ctx, c, types.ManagedObjectReference{Type: "HttpNfcLease", Value: id})
}
