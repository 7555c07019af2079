package hyperv

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/cim"
)

// deaf is a route that finds nothing.
type deaf struct {
	cim.Core
	closed *bool
}

func (d deaf) Query(context.Context, string, string, *cim.QueryOptions) iter.Seq2[*cim.Instance, error] {
	return func(func(*cim.Instance, error) bool) {}
}

func (d deaf) Close() error { *d.closed = true; return nil }

// The host is asked by the route that is handed in, which is closed where the host turns out to be none.
func TestConnectByAnotherRoute(t *testing.T) {
	var closed bool
	var at string
	route := func(_ context.Context, addr string, login cim.Login) (cim.Caller, error) {
		at = login.User + "@" + addr
		return cim.Complete(deaf{closed: &closed}), nil
	}
	_, err := Connect(t.Context(), "hv1", cim.Login{User: "eva"}, &Options{Route: route})
	require.ErrorIs(t, err, fs.ErrNotExist)
	assert.Equal(t, "eva@hv1", at)
	assert.True(t, closed)
}

// An address that says dcom is never reached another way because nobody handed the route in.
func TestParseURLTransport(t *testing.T) {
	a, err := ParseURL("hyperv://eva@hv1/?transport=dcom")
	require.NoError(t, err)
	assert.Equal(t, TransportDCOM, a.Transport)
	o, err := a.SiteOptions()
	require.NoError(t, err)
	_, err = Connect(t.Context(), "hv1.invalid", a.Login(""), &o.Host)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	for _, bad := range []string{"&tls", "&realm=CORP", "&kdc=dc1", "&thumbprint=a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1"} {
		_, err := ParseURL("hyperv://eva@hv1/?transport=dcom" + bad)
		assert.ErrorIs(t, err, fs.ErrInvalid, bad)
	}
	a, err = ParseURL("hyperv://eva@hv1/")
	require.NoError(t, err)
	assert.Equal(t, TransportWSMan, a.Transport)
}
