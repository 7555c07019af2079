package vmware

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	logoutTimeout = 30 * time.Second
	maxRedirects  = 3
	maxAnswer     = 256 << 20 // bytes of one answer to a call
)

// Connect logs in to the server at https://host[:port]/sdk. The caller closes the client.
func Connect(ctx context.Context, server *url.URL, who Login, opts *ConnectOptions) (*Client, error) {
	c := &Client{address: &url.URL{Scheme: "https", Host: server.Host}, opts: opts.withDefaults()}
	if server.Hostname() == "" {
		return nil, fmt.Errorf("%s: %w: the server's name is missing", server.Redacted(), fs.ErrInvalid)
	}
	if err := who.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Address(), err)
	}
	if err := c.prepare(); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Address(), err)
	}
	if err := c.logIn(ctx, who); err != nil {
		c.vim.CloseIdleConnections()
		return nil, fmt.Errorf("%s: %w", c.Address(), err)
	}
	c.limits = limiterOf(c.address.Host, c.opts.Limits)
	c.latency = newLatency(c, c.opts.Latency)
	c.keeper.start(c.opts.KeepAlive, func(ctx context.Context) { c.keepAlive(ctx) })
	return c, nil
}

// prepare makes what calls go through, and sends nothing.
func (c *Client) prepare() error {
	trust, err := newTrust(c.address.Host, &c.opts)
	if err != nil {
		return err
	}
	sc := soap.NewClient(&url.URL{Scheme: "https", Host: c.address.Host, Path: vim25.Path}, false)
	trust.told = sc.Thumbprint
	t := sc.DefaultTransport()
	t.Proxy, t.DialTLSContext = nil, trust.dial
	t.MaxIdleConnsPerHost = 16 // 2 by default: with more calls at once, each of the others would shake hands anew
	sc.Client.Transport = &calls{below: t}
	sc.Client.CheckRedirect = stayHere
	sc.Namespace, sc.Version = "urn:"+vim25.Namespace, vim25.Version
	sc.UserAgent = "hikae" // the library would name this program and its build
	c.vim = &vim25.Client{Client: sc, RoundTripper: &caller{c: c, soap: sc}}
	return nil
}

// stayHere lets nobody send the session, or a request with a password in it, to another place.
func stayHere(req *http.Request, via []*http.Request) error {
	from := via[len(via)-1].URL
	if req.URL.Scheme != "https" || !strings.EqualFold(req.URL.Host, from.Host) {
		return fmt.Errorf("%s leads to %s://%s, where nobody follows", from.Redacted(), req.URL.Scheme, req.URL.Host)
	}
	if len(via) > maxRedirects {
		return fmt.Errorf("%s leads on more than %d times", from.Redacted(), maxRedirects)
	}
	return nil
}

func (c *Client) logIn(ctx context.Context, who Login) error {
	c.login = newLogin(c, who)
	content, err := methods.GetServiceContent(ctx, c.vim)
	if err != nil {
		return err
	}
	// The library follows these without a look.
	if content.SessionManager == nil || content.PropertyCollector.Value == "" || content.RootFolder.Value == "" {
		return errors.New("this is no vSphere server: it names no session manager, property collector or root folder")
	}
	c.vim.ServiceContent = content
	return c.login.first(ctx)
}

// Close ends the session: what still waits for a call gets an error. A session that was only lent stays open.
func (c *Client) Close(ctx context.Context) error {
	c.keeper.stop()
	c.latency.stop()
	defer c.vim.CloseIdleConnections()
	if !c.login.close() {
		return nil
	}
	// The session counts against the server's maximum until it is gone, so that it is ended even by one in a hurry.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logoutTimeout)
	defer cancel()
	body := methods.LogoutBody{Req: &types.Logout{This: *c.vim.ServiceContent.SessionManager}}
	err := c.vim.Client.RoundTrip(ctx, &body, &body)
	if err != nil && !isFault[*types.NotAuthenticated](err) {
		return fmt.Errorf("%s: log out: %w", c.Address(), err)
	}
	return nil
}

// keepAlive asks something that only a session may: to ask for the time, as is usual, does not tell that it is lost.
func (c *Client) keepAlive(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.CallTimeout)
	defer cancel()
	// A call that matters will find out about an error.
	_, _ = c.currentSession(ctx, c.vim)
}

// keeper does something every so often until it is stopped.
type keeper struct {
	cancel context.CancelFunc
	done   chan struct{}
}

func (k *keeper) start(every time.Duration, do func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	k.cancel, k.done = cancel, make(chan struct{})
	go func() {
		defer close(k.done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				do(ctx)
			}
		}
	}()
}

// stop waits for the end. It may be called again.
func (k *keeper) stop() {
	if k.cancel != nil {
		k.cancel()
		<-k.done
	}
}
