package winrmchannel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"

	"github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/spnego"

	"github.com/hikae/hikae/guest"
)

var errNoRealm = errors.New("Kerberos needs a realm") //lint:ignore ST1005 a name

// ticket is what a request shows to log on. The library takes no context: what it waits for has limits of its own, and what
// comes too late is let go.
func (l *link) ticket(ctx context.Context) (string, error) {
	cl, err := newKerberos(l.cred)
	if err != nil {
		return "", err
	}
	type answer struct {
		header string
		err    error
	}
	got := make(chan answer, 1)
	go func() {
		defer cl.Destroy()
		req, err := http.NewRequest(http.MethodPost, l.url, nil)
		if err == nil {
			err = spnego.SetSPNEGOHeader(cl, req, "HTTP/"+strings.TrimSuffix(l.host, "."))
		}
		if err != nil {
			got <- answer{err: fmt.Errorf("no Kerberos ticket for the guest: %w", err)}
			return
		}
		got <- answer{header: req.Header.Get("Authorization")}
	}()
	select {
	case a := <-got:
		return a.header, a.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

func newKerberos(c guest.Credential) (*client.Client, error) {
	user, realm := c.User, c.Realm
	if i := strings.IndexByte(user, '\\'); i >= 0 {
		user = user[i+1:]
	}
	if at := strings.LastIndexByte(user, '@'); at > 0 {
		if realm == "" {
			realm = user[at+1:]
		}
		user = user[:at]
	}
	conf := config.New()
	if c.Config != "" {
		var err error
		if conf, err = config.NewFromString(c.Config); err != nil {
			return nil, fmt.Errorf("krb5.conf: %w", err)
		}
		if realm == "" {
			realm = conf.LibDefaults.DefaultRealm
		}
	}
	if realm = strings.ToUpper(realm); realm == "" {
		return nil, errNoRealm
	}
	if c.Config == "" {
		r := config.Realm{Realm: realm}
		for _, k := range c.KDCs {
			if _, _, err := net.SplitHostPort(k); err != nil {
				k = net.JoinHostPort(strings.Trim(k, "[]"), "88")
			}
			r.KDC = append(r.KDC, k)
		}
		conf.LibDefaults.DefaultRealm = realm
		conf.LibDefaults.DNSLookupKDC = len(c.KDCs) == 0
		conf.Realms = []config.Realm{r}
	}
	quiet := log.New(io.Discard, "", 0)
	return client.NewWithPassword(user, realm, c.Password, conf, client.DisablePAFXFAST(true), client.Logger(quiet)), nil
}
