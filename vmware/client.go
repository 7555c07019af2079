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
	Token          string // a SAML bearer token of vCenter's single sign-on, as XML
	Session        string // the value of the cookie vmware_soap_session of a session that exists; Close leaves it open
}

// String says how, and not by which secret.
func (l Login) String() string {
	switch {
	case l.Session != "":
		return "a session that exists"
	case l.Token != "":
		return "a token"
	}
	return "user " + l.User
}

// GoString is String.
func (l Login) GoString() string { return l.String() }

// ConnectOptions change how a server is reached. Nil and zero fields are good defaults.
//
// Connections lead straight to the server: a proxy of the environment is not used, and no redirection to another host is
// followed.
type ConnectOptions struct {
	// CAFile holds certificates, in PEM, that are trusted beside those of the system.
	CAFile string
	// Thumbprint is the server's certificate by its SHA-256 digest, in hexadecimal with or without colons. That of SHA-1,
	// which old hosts publish, is taken too; a certificate can be forged for it by those who can spend enough. With a
	// thumbprint that certificate is taken and no other. Empty: the certificate must be trusted.
	Thumbprint string
	// KeepAlive is how often the server hears of an idle session, whose end is 30 minutes of silence. Zero: 5 minutes.
	KeepAlive time.Duration
	// CallTimeout bounds each call, and is tenfold for questions about changed blocks. Zero: one minute.
	CallTimeout time.Duration
	// TaskTimeout bounds the wait for each task of the server: to remove a snapshot may take hours. Zero: 12 hours.
	TaskTimeout time.Duration
	// Limits bound what this process asks of one host, datastore and server at once. All clients of one server share what
	// is taken, whoever made them.
	Limits Limits
	// Latency makes reading yield to the VMs of a busy datastore.
	Latency LatencyOptions
}

// withDefaults fills in what is zero.
func (o *ConnectOptions) withDefaults() ConnectOptions {
	var out ConnectOptions
	if o != nil {
		out = *o
	}
	orElse(&out.KeepAlive, 5*time.Minute)
	orElse(&out.CallTimeout, time.Minute)
	orElse(&out.TaskTimeout, 12*time.Hour)
	return out
}

func orElse(d *time.Duration, usual time.Duration) {
	if *d <= 0 {
		*d = usual
	}
}

// Client is one session with a vCenter Server or an ESXi host. Its methods may be called at once.
//
// A call whose session was lost logs in again and is made once more; all calls that wait for that share one login. A call
// that certainly did not arrive is made again a few times, and so is a question whose answer was lost; anything else whose
// answer was lost is an error, because it may have been done. The server's own errors, for which see [IsFault], come back as
// they are.
type Client struct {
	vim     *vim25.Client
	address *url.URL
	opts    ConnectOptions
	login   *login
	limits  *limiter
	latency *latency
	keeper  keeper
}

// Vim is the session for calls of vSphere's API. A call whose session was lost logs in again and is made once more.
func (c *Client) Vim() *vim25.Client { return c.vim }

// Address is the server's, as https://host[:port], without a user.
func (c *Client) Address() string { return (&url.URL{Scheme: "https", Host: c.address.Host}).String() }

// IsVCenter reports whether this is a vCenter Server; else it is a single host.
func (c *Client) IsVCenter() bool { return c.vim.IsVC() }

// HTTP is a client for files of datastores and for leases, with the session's cookie and the trust of its connection. Hosts
// whose thumbprint the server told are trusted too: Vim().SetThumbprint takes note of one.
func (c *Client) HTTP() *http.Client { return &c.vim.Client.Client }

// Wait waits for a task and returns what it was. It outlives a lost session and a server that is away for up to an hour, and
// is bounded by TaskTimeout. A task's fault comes back as a *TaskError.
//
// A task that can be cancelled is cancelled when ctx ends; what became of it then is in a *InterruptedError. One that the
// server no longer knows is a *TaskLostError: only the objects themselves tell how it went.
func (c *Client) Wait(ctx context.Context, task types.ManagedObjectReference) (*types.TaskInfo, error) {
	return c.wait(ctx, task)
}
