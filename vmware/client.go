package vmware

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"
)

// Login is who logs in, and how. One of User with Password, Token, or Session is needed.
type Login struct {
	User, Password string
	Token          string // a SAML token of vCenter's single sign-on, as XML
	Session        string // the value of the cookie vmware_soap_session of a session that exists
}

// ConnectOptions change how a server is reached. Nil and zero fields are good defaults.
type ConnectOptions struct {
	// CAFile holds certificates, in PEM, that are trusted beside those of the system.
	CAFile string
	// Thumbprint is the server's certificate by its SHA-256 digest, in hexadecimal with or without colons. That of SHA-1,
	// which old hosts publish, is taken too. Empty: the certificate must be trusted.
	Thumbprint string
	// KeepAlive is how often the server hears of an idle session, whose end is 30 minutes of silence. Zero: 5 minutes.
	KeepAlive time.Duration
	// CallTimeout bounds each call. Zero: one minute.
	CallTimeout time.Duration
	// TaskTimeout bounds the wait for each task of the server: to remove a snapshot may take hours. Zero: 12 hours.
	TaskTimeout time.Duration
}

// Client is one session with a vCenter Server or an ESXi host. Its methods may be called at once.
type Client struct {
	vim     *vim25.Client
	address *url.URL
	opts    ConnectOptions
	login   *login
}

// Vim is the session for calls of vSphere's API. A call whose session was lost logs in again and is made once more.
func (c *Client) Vim() *vim25.Client { return c.vim }

// Address is the server's, as https://host[:port], without a user.
func (c *Client) Address() string { return (&url.URL{Scheme: "https", Host: c.address.Host}).String() }

// IsVCenter reports whether this is a vCenter Server; else it is a single host.
func (c *Client) IsVCenter() bool { return c.vim.IsVC() }

// HTTP is a client for files of datastores and for leases, with the session's cookie and the trust of its connection.
func (c *Client) HTTP() *http.Client { return &c.vim.Client.Client }

// Wait waits for a task and returns what it was. It outlives a lost session, and is bounded by TaskTimeout; a task's fault comes
// back as a *TaskError.
func (c *Client) Wait(ctx context.Context, task types.ManagedObjectReference) (*types.TaskInfo, error) {
	return c.wait(ctx, task)
}
