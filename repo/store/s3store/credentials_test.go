package s3store_test

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/s3store"
	"github.com/hikae/hikae/repo/store/s3store/s3test"
)

func TestSecretsAreNotPrinted(t *testing.T) {
	t.Parallel()
	c := s3store.Credentials{AccessKey: "id", SecretKey: "sEcrEt", SessionToken: "sEcrEt"}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		assert.NotContains(t, fmt.Sprintf(format, c), "sEcrEt")
		assert.NotContains(t, fmt.Sprintf(format, &c), "sEcrEt")
	}
	assert.Contains(t, fmt.Sprint(c), "id")
}

func TestEnvironmentAndFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials")
	require.NoError(t, os.WriteFile(file, []byte("[default]\naws_access_key_id = one\naws_secret_access_key = sEcrEt1\n"+
		"[other]\naws_access_key_id = two\naws_secret_access_key = sEcrEt2\naws_session_token = token\n"), 0o600))
	for _, v := range []string{"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"} {
		t.Setenv(v, "")
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	c, err := s3store.Default()(t.Context())
	require.NoError(t, err)
	assert.Equal(t, s3store.Credentials{AccessKey: "one", SecretKey: "sEcrEt1"}, c)
	c, err = s3store.File(file, "other")(t.Context())
	require.NoError(t, err)
	assert.Equal(t, s3store.Credentials{AccessKey: "two", SecretKey: "sEcrEt2", SessionToken: "token"}, c)
	t.Setenv("AWS_ACCESS_KEY_ID", "three")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "sEcrEt3")
	c, err = s3store.Default()(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "three", c.AccessKey)
}

// A web identity token is exchanged at a token service; what it gave ends, and is asked for anew. The token stands in no
// error.
func TestTokenService(t *testing.T) {
	srv := s3test.Start(t)
	asked := 0
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		if r.Form.Get("WebIdentityToken") != "t0ken-sEcrEt" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		asked++
		fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>
<Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken></SessionToken><Expiration>%s</Expiration></Credentials>
</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, srv.AccessKey, srv.SecretKey, time.Now().Add(30*time.Second).UTC().Format(time.RFC3339))
	}))
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte("t0ken-sEcrEt"), 0o600))
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", file)
	t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/backup")
	st, err := s3store.Open(t.Context(), place(t, srv, s3test.Plain), s3store.Instance(sts.URL), quick)
	require.NoError(t, err)
	defer st.Close()
	require.NoError(t, st.Create(t.Context(), "x", []byte("x")))
	assert.Greater(t, asked, 1, "what ends within a minute is renewed")

	sts.Close()
	err = st.Create(t.Context(), "y", []byte("y"))
	require.ErrorIs(t, err, s3store.ErrCredentials)
	assert.NotContains(t, err.Error(), "t0ken-sEcrEt")
	assert.NotContains(t, err.Error(), srv.SecretKey)
}

// Over TLS the server is held against the given authority, and no other will do.
func TestTLS(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	b := newBetween(t, srv)
	front := httptest.NewTLSServer(b)
	defer front.Close()
	front.Config.ErrorLog = nil
	at := place(t, srv, s3test.Versioned)
	at.Host, at.Plain = strings.TrimPrefix(front.URL, "https://"), false
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})
	st := open(t, srv, at, &s3store.Options{CA: ca, GiveUp: time.Second, PartSize: 5 << 20})
	for name, size := range map[string]int{"small": 10, "large": 21 << 20} {
		data := newImage(3, size)
		require.NoError(t, st.Create(t.Context(), name, data))
		got, err := store.ReadAll(t.Context(), st, name, 30<<20)
		require.NoError(t, err)
		require.Equal(t, []byte(data), got)
	}
	begin := time.Now()
	_, err := s3store.Open(t.Context(), at, keys(srv), nil)
	require.ErrorContains(t, err, "certificate")
	_, err = s3store.Open(t.Context(), at, keys(srv), &s3store.Options{CA: []byte("none")})
	require.Error(t, err)
	at.Host = srv.Host
	_, err = s3store.Open(t.Context(), at, keys(srv), nil)
	require.Error(t, err, "a server without TLS")
	assert.Less(t, time.Since(begin), 5*time.Second, "time heals none of it")
}
