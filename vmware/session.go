package vmware

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

type vimSession = session.Manager

// login is one that lasts.
type login struct{ manager *vimSession }

// Connect logs in to the server at https://host[:port]/sdk. The caller closes the client.
func Connect(ctx context.Context, server *url.URL, who Login, opts *ConnectOptions) (*Client, error) {
	c := &Client{address: server}
	if opts != nil {
		c.opts = *opts
	}
	if c.opts.TaskTimeout <= 0 {
		c.opts.TaskTimeout = 12 * time.Hour
	}
	at := &url.URL{Scheme: "https", Host: server.Host, Path: "/sdk"}
	transport := soap.NewClient(at, false)
	if c.opts.CAFile != "" {
		if err := transport.SetRootCAs(c.opts.CAFile); err != nil {
			return nil, fmt.Errorf("%s: %w", c.Address(), err)
		}
	}
	if c.opts.Thumbprint != "" {
		transport.SetThumbprint(server.Host, c.opts.Thumbprint)
	}
	vim, err := vim25.NewClient(ctx, transport)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Address(), err)
	}
	c.vim = vim
	c.login = &login{manager: newManager(vim)}
	if err := c.login.manager.Login(ctx, url.UserPassword(who.User, who.Password)); err != nil {
		return nil, fmt.Errorf("%s: log in: %w", c.Address(), err)
	}
	return c, nil
}

// Close logs out.
func (c *Client) Close(ctx context.Context) error { return c.login.manager.Logout(ctx) }

func (c *Client) wait(ctx context.Context, task types.ManagedObjectReference) (*types.TaskInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.TaskTimeout)
	defer cancel()
	return object.NewTask(c.vim, task).WaitForResult(ctx)
}

func newManager(vim *vim25.Client) *vimSession { return session.NewManager(vim) }
