package s3store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Credentials are what requests are signed with. Printing them shows the access key's id alone.
type Credentials struct {
	AccessKey    string // its id
	SecretKey    string
	SessionToken string    // of temporary credentials
	Expires      time.Time // zero: they do not, or nobody knows when
}

// CredentialsFunc gives credentials. It is asked again when they have expired, and once when the server says so. It must
// not block beyond ctx.
type CredentialsFunc func(ctx context.Context) (Credentials, error)

// String shows who, not how.
func (c Credentials) String() string { return c.AccessKey }

// GoString shows who, not how.
func (c Credentials) GoString() string { return fmt.Sprintf("s3store.Credentials{%q}", c.AccessKey) }

// LogValue shows who, not how.
func (c Credentials) LogValue() slog.Value { return slog.StringValue(c.AccessKey) }

// Static gives always the same credentials.
func Static(c Credentials) CredentialsFunc {
	return func(context.Context) (Credentials, error) { return c, nil }
}

// Environment reads AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.
func Environment() CredentialsFunc { return from(&credentials.EnvAWS{}) }

// File reads a profile of a file as AWS's tools have it, again each time. Empty: AWS_SHARED_CREDENTIALS_FILE or
// ~/.aws/credentials, and AWS_PROFILE or default.
func File(path, profile string) CredentialsFunc {
	return func(ctx context.Context) (Credentials, error) {
		return from(&credentials.FileAWSCredentials{Filename: path, Profile: profile})(ctx)
	}
}

// Instance asks the machine's own service: a role of an instance or a container, or a web identity token
// (AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN) that is exchanged at the STS endpoint; empty: the usual ones.
func Instance(endpoint string) CredentialsFunc {
	return from(&credentials.IAM{Endpoint: endpoint})
}

// Default is the first of Environment, File and Instance that has any.
func Default() CredentialsFunc {
	ways := []CredentialsFunc{Environment(), File("", ""), Instance("")}
	return func(ctx context.Context) (Credentials, error) {
		var errs []error
		for _, way := range ways {
			c, err := way(ctx)
			if err == nil && c.AccessKey != "" {
				return c, nil
			}
			if ctx.Err() != nil {
				return Credentials{}, ctx.Err()
			}
			errs = append(errs, err)
		}
		return Credentials{}, errors.Join(errs...)
	}
}

// from makes a provider of the client library a CredentialsFunc.
func from(p credentials.Provider) CredentialsFunc {
	return func(ctx context.Context) (Credentials, error) {
		v, err := p.RetrieveWithCredContext(&credentials.CredContext{Context: ctx, Client: plainClient()})
		if err != nil {
			return Credentials{}, noURL(err)
		}
		return Credentials{v.AccessKeyID, v.SecretAccessKey, v.SessionToken, v.Expiration}, nil
	}
}

// noURL takes the address out of an error: that of a token service has the token in it.
func noURL(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return ue.Err
	}
	return err
}

// provider makes a CredentialsFunc what the client library asks.
type provider struct {
	from    CredentialsFunc
	timeout time.Duration

	mu      sync.Mutex
	asked   bool
	expires time.Time
}

// early is how long before their end temporary credentials are renewed: a large request signed with them still arrives.
const early = time.Minute

func (p *provider) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	ctx := context.Background()
	if cc != nil && cc.Context != nil {
		ctx = cc.Context
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	c, err := p.from(ctx)
	if err == nil && (c.AccessKey == "" || c.SecretKey == "") {
		err = errors.New("there are none")
	}
	if err != nil {
		return credentials.Value{}, fmt.Errorf("%w: %w", ErrCredentials, noURL(err))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked, p.expires = true, c.Expires
	return credentials.Value{AccessKeyID: c.AccessKey, SecretAccessKey: c.SecretKey, SessionToken: c.SessionToken,
		Expiration: c.Expires, SignerType: credentials.SignatureV4}, nil
}

func (p *provider) Retrieve() (credentials.Value, error) { return p.RetrieveWithCredContext(nil) }

func (p *provider) IsExpired() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.asked || !p.expires.IsZero() && time.Until(p.expires) < early
}
