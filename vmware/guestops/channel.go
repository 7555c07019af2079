package guestops

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
	vsphere "github.com/vmware/govmomi/guest"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	callLimit  = 60 * time.Second // one call, where the context has no deadline
	cleanLimit = 20 * time.Second // taking away what a call has made
	maxUpload  = 256 << 20
	// A file that is fetched may have no more.
	maxDownload = 256 << 20
)

// Channel is a way into one guest. It implements [hikae.GuestChannel]; its methods may be called by several goroutines. The
// client stays the caller's.
type Channel struct {
	client    *vim25.Client
	auth      types.BaseGuestAuthentication
	temp      []string // where runs have their folders; not on Windows
	files     *vsphere.FileManager
	processes *vsphere.ProcessManager
}

var _ hikae.GuestChannel = (*Channel)(nil)

// Password is an account in the guest.
func Password(c guest.Credential) types.BaseGuestAuthentication {
	return &types.NamePasswordAuthentication{Username: c.User, Password: c.Password}
}

// Open asks for the managers of guest operations. Nothing is done in the guest yet. Besides an account (see
// [Password]) auth may be whatever else vSphere takes: a SAML token, or credentials that were acquired by SSPI.
func Open(ctx context.Context, client *vim25.Client, vm types.ManagedObjectReference, auth types.BaseGuestAuthentication, opts *Options) (*Channel, error) {
	if opts == nil {
		opts = &Options{}
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	if client.ServiceContent.GuestOperationsManager == nil {
		return nil, &guest.WayError{Kind: guest.VSphere, Step: "connect", Problem: "the server has no guest operations",
			Hint: "connect to vCenter, or to an ESXi host of version 5 or newer"}
	}
	m := vsphere.NewOperationsManager(client, vm)
	files, err := m.FileManager(ctx)
	if err != nil {
		return nil, explain("connect", err)
	}
	processes, err := m.ProcessManager(ctx)
	if err != nil {
		return nil, explain("connect", err)
	}
	return &Channel{client: client, auth: auth, temp: slices.Clip(opts.Temp), files: files, processes: processes}, nil
}

// Close forgets the account. Nothing is open.
func (c *Channel) Close() error { return nil }

func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, callLimit)
}

// Upload implements [hikae.GuestChannel]. A file that is there already is fs.ErrExist where the host tells; mode is for
// systems other than Windows.
func (c *Channel) Upload(ctx context.Context, path string, data []byte, mode uint32) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := c.upload(ctx, path, data, mode); err != nil {
		return fmt.Errorf("upload %s: %w", guest.Printable(path, 300), err)
	}
	return nil
}

func (c *Channel) upload(ctx context.Context, path string, data []byte, mode uint32) error {
	windows, err := systemOf(path)
	if err != nil {
		return err
	}
	if len(data) > maxUpload {
		return fmt.Errorf("%d bytes, at most %d", len(data), maxUpload)
	}
	var attributes types.BaseGuestFileAttributes = &types.GuestWindowsFileAttributes{}
	if mode = mode & 0o777; !windows {
		attributes = &types.GuestPosixFileAttributes{Permissions: int64(mode)}
	}
	where, err := c.files.InitiateFileTransferToGuest(ctx, c.auth, path, attributes, int64(len(data)), false)
	if err != nil {
		return explain("upload", err)
	}
	u, err := c.transferURL(ctx, where)
	if err != nil {
		return err
	}
	// An empty body of known length; of a nil one the length would not be sent.
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, u.String(), io.NopCloser(strings.NewReader(string(data))))
	if err != nil {
		return errTransferURL
	}
	req.ContentLength = int64(len(data))
	if len(data) == 0 {
		req.Body = http.NoBody
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	if _, err = c.transfer(req, 0); err != nil || windows || mode == 0 {
		return err
	}
	// What a transfer was told about rights is not relied on.
	if err := c.files.ChangeFileAttributes(ctx, c.auth, path, attributes); err != nil {
		return explain("upload", err)
	}
	return nil
}

// Download implements [hikae.GuestChannel].
func (c *Channel) Download(ctx context.Context, path string, max int64) ([]byte, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	max = clamp(max)
	b, err := c.download(ctx, path, max)
	if err != nil {
		return nil, fmt.Errorf("download %s: %w", guest.Printable(path, 300), err)
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("download %s: longer than %d bytes", guest.Printable(path, 300), max)
	}
	return b, nil
}

func clamp(n int64) int64 { return min(max(n, 0), maxDownload) }

// download reads at most one byte more than max.
func (c *Channel) download(ctx context.Context, path string, max int64) ([]byte, error) {
	if _, err := systemOf(path); err != nil {
		return nil, err
	}
	info, err := c.files.InitiateFileTransferFromGuest(ctx, c.auth, path)
	if err != nil {
		return nil, explain("download", err)
	}
	u, err := c.transferURL(ctx, info.Url)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, errTransferURL
	}
	return c.transfer(req, max+1)
}

// The address of a transfer holds a ticket: it gets into no error.
var (
	errTransferURL = errors.New("the host named no address that a file could go to")
	errTransferTLS = errors.New("the host named an address without TLS for a file, and the connection to it has TLS")
)

// transferURL is where a file goes. A host that does not know its own address writes "*"; that of our connection stands in
// for it. The host's thumbprint comes from vCenter.
func (c *Channel) transferURL(ctx context.Context, text string) (*url.URL, error) {
	u, err := c.files.TransferURL(ctx, text)
	var malformed *url.Error
	switch {
	case errors.As(err, &malformed) && malformed.Op == "parse":
		return nil, errTransferURL
	case err != nil:
		return nil, explain("transfer", err)
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil:
		return nil, errTransferURL
	case u.Scheme == "http" && c.client.URL().Scheme == "https":
		return nil, errTransferTLS
	}
	return u, nil
}

// transfer makes one request and reads at most max bytes of its answer.
func (c *Channel) transfer(req *http.Request, max int64) ([]byte, error) {
	req.Close = true // a host drops such connections at will
	h := c.client.Client.Client
	h.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := h.Do(req)
	if err != nil {
		return nil, withoutURL(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusCreated {
		return nil, fmt.Errorf("the host answered %d", res.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, max))
	if err != nil {
		return nil, withoutURL(err)
	}
	if res.ContentLength > int64(len(b)) && int64(len(b)) < max {
		return nil, io.ErrUnexpectedEOF
	}
	return b, nil
}

func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
