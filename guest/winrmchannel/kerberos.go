package winrmchannel

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/jcmturner/gokrb5/v8/spnego"

	"github.com/hikae/hikae/internal/kerberos"
)

// ticket is what a request shows to log on. The library takes no context: what it waits for has limits of its own, and what
// comes too late is let go.
func (l *link) ticket(ctx context.Context) (string, error) {
	c := l.cred
	cl, err := kerberos.New(kerberos.Login{User: c.User, Password: c.Password, Realm: c.Realm, Config: c.Config, KDCs: c.KDCs})
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
