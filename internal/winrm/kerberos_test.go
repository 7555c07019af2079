package winrm

import (
	"context"
	"crypto/rand"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/asn1tools"
	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/iana/etypeID"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/internal/winrm/listener"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newKey(t testing.TB, kind int32, size int) types.EncryptionKey {
	t.Helper()
	k := types.EncryptionKey{KeyType: kind, KeyValue: make([]byte, size)}
	_, err := rand.Read(k.KeyValue)
	require.NoError(t, err)
	return k
}

// issue stands in for a domain controller: RFC 4120 5.3.
func issue(t testing.TB, service, session types.EncryptionKey) ticket {
	t.Helper()
	user := types.PrincipalName{NameType: 1, NameString: []string{"eva"}}
	host := types.PrincipalName{NameType: 2, NameString: []string{"HTTP", "hv1.corp.example"}}
	now := time.Now().UTC()
	part, err := asn1.Marshal(messages.EncTicketPart{Flags: types.NewKrbFlags(), Key: session, CRealm: "CORP.EXAMPLE", CName: user,
		Transited: messages.TransitedEncoding{}, AuthTime: now, StartTime: now, EndTime: now.Add(time.Hour), RenewTill: now.Add(time.Hour)})
	require.NoError(t, err)
	sealed, err := crypto.GetEncryptedData(asn1tools.AddASNAppTag(part, 3), service, 2, 1)
	require.NoError(t, err)
	return ticket{Ticket: messages.Ticket{TktVNO: 5, Realm: "CORP.EXAMPLE", SName: host, EncPart: sealed}, key: session, realm: "CORP.EXAMPLE", user: user}
}

// echo answers each message with its upper case, and counts logons.
func echo(t *testing.T, opts listener.Options, lose func(n int) bool) (*httptest.Server, *int) {
	t.Helper()
	door := listener.New(opts)
	n := 0
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Content-Length") != "0" {
			if n++; lose != nil && lose(n) {
				io.Copy(io.Discard, r.Body)
				door.Forget(w, r)
				return
			}
		}
		if in := door.Enter(w, r); in != nil {
			in.Answer(http.StatusOK, []byte(strings.ToUpper(string(in.Message))))
		}
	}))
	s.Config.ConnContext = door.Context
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	t.Cleanup(s.Close)
	return s, &n
}

func linkTo(t *testing.T, s *httptest.Server, login Login, tk *ticket) *Link {
	t.Helper()
	l, err := New(s.Listener.Addr().String(), login, &Options{Plain: true, ServerName: "hv1.corp.example"})
	require.NoError(t, err)
	if tk != nil {
		l.ticket = func(context.Context) (ticket, error) { return *tk, nil }
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// Messages of many lengths go there and back, each sealed under the key that the server handed out.
func TestKerberosSeals(t *testing.T) {
	for _, kind := range []struct {
		id   int32
		size int
	}{{etypeID.AES256_CTS_HMAC_SHA1_96, 32}, {etypeID.AES128_CTS_HMAC_SHA1_96, 16}} {
		service, session := newKey(t, kind.id, kind.size), newKey(t, kind.id, kind.size)
		tk := issue(t, service, session)
		s, _ := echo(t, listener.Options{Kerberos: &listener.Service{Key: service}}, nil)
		l := linkTo(t, s, Login{User: "eva", Realm: "corp.example"}, &tk)
		for _, n := range []int{1, 15, 16, 17, 100, 65537} {
			got, err := l.Post(t.Context(), []byte(strings.Repeat("a", n)))
			require.NoError(t, err)
			require.Equal(t, strings.Repeat("A", n), string(got))
		}
	}
}

// A server that cannot read the ticket is not the one; old kinds of keys are not used.
func TestKerberosProof(t *testing.T) {
	service, session := newKey(t, etypeID.AES256_CTS_HMAC_SHA1_96, 32), newKey(t, etypeID.AES256_CTS_HMAC_SHA1_96, 32)
	tk := issue(t, service, session)
	s, _ := echo(t, listener.Options{Kerberos: &listener.Service{Key: newKey(t, etypeID.AES256_CTS_HMAC_SHA1_96, 32)}}, nil)
	_, err := linkTo(t, s, Login{User: "eva", Realm: "corp.example"}, &tk).Post(t.Context(), []byte("secret"))
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, "login", e.Step)
	require.False(t, e.Sent)

	quiet := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		require.Empty(t, body)
		w.Header().Set("WWW-Authenticate", "Kerberos AAAA")
	}))
	t.Cleanup(quiet.Close)
	_, err = linkTo(t, quiet, Login{User: "eva", Realm: "corp.example"}, &tk).Post(t.Context(), []byte("secret"))
	require.ErrorIs(t, err, errProof)

	old := tk
	old.key = newKey(t, etypeID.RC4_HMAC, 16)
	_, _, err = newKerberos(old)
	require.ErrorIs(t, err, errEtype)
}

// A server that forgot a connection's logon gets the message again, once, after a new logon.
func TestSessionLost(t *testing.T) {
	s, n := echo(t, listener.Options{User: "eva", Password: "pw"}, func(n int) bool { return n == 2 })
	l := linkTo(t, s, Login{User: "eva", Password: "pw"}, nil)
	for range 3 {
		got, err := l.Post(t.Context(), []byte("abc"))
		require.NoError(t, err)
		require.Equal(t, "ABC", string(got))
	}
	require.Equal(t, 4, *n)
}

func FuzzProof(f *testing.F) {
	f.Add([]byte("\x60\x03\x06\x01\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		k := &krb{session: types.EncryptionKey{KeyType: 18, KeyValue: make([]byte, 32)}, key: types.EncryptionKey{KeyType: 18, KeyValue: make([]byte, 32)}}
		require.Error(t, k.proven(b))
		_, err := k.open(b)
		require.Error(t, err)
	})
}
