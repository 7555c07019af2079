package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

const secret = "hunter2-hunter2"

func credentialsIn(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "credentials.json")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "pw"), []byte(secret+"\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "key"), []byte("-----BEGIN "+secret), 0o600))
	return path
}

func TestCredentialsFile(t *testing.T) {
	path := credentialsIn(t, `{
		"default": {"user": "everybody", "passwordFile": "pw"},
		"kinds": {"smb": {"user": "EXAMPLE\\share", "password": "`+secret+`", "kerberosOnly": true, "realm": "EXAMPLE.ORG", "kdcs": ["dc1"]}},
		"guests": {
			"web1": {"default": {"user": "root", "privateKeyFile": "key"}, "kinds": {"winrm": {"user": "admin", "agent": true}}},
			"db1": {"kinds": {"ssh": {"user": "dba"}}}
		}}`)
	c, err := OpenCredentials(path)
	require.NoError(t, err)
	for _, want := range []struct {
		guest string
		kind  Kind
		user  string
	}{
		{"web1", WinRM, "admin"}, {"web1", SSH, "root"}, {"web1", SMB, "root"},
		{"db1", SSH, "dba"}, {"db1", SMB, `EXAMPLE\share`}, {"db1", WinRM, "everybody"}, {"other", SSH, "everybody"},
	} {
		got, err := c.Credential(t.Context(), want.guest, want.kind)
		require.NoError(t, err)
		require.Equal(t, want.user, got.User, "%s %s", want.guest, want.kind)
	}
	share, err := c.Credential(t.Context(), "x", SMB)
	require.NoError(t, err)
	require.True(t, share.KerberosOnly)
	require.Equal(t, []string{"dc1"}, share.KDCs)
	all, err := c.Credential(t.Context(), "x", SSH)
	require.NoError(t, err)
	require.Equal(t, secret, all.Password, "without the line break")
	key, err := c.Credential(t.Context(), "web1", SSH)
	require.NoError(t, err)
	require.Contains(t, string(key.PrivateKey), secret)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Credential(ctx, "x", SSH)
	require.ErrorIs(t, err, context.Canceled)

	// What is changed counts at once.
	require.NoError(t, os.WriteFile(path, []byte(`{"guests": {}}`), 0o600))
	_, err = c.Credential(t.Context(), "x", SSH)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestCredentialsOpenToOthers(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the folder's access list decides on Windows")
	}
	path := credentialsIn(t, `{"default": {"user": "u", "passwordFile": "pw"}}`)
	require.NoError(t, os.Chmod(path, 0o640))
	_, err := OpenCredentials(path)
	require.ErrorIs(t, err, ErrOpenToOthers)

	require.NoError(t, os.Chmod(path, 0o600))
	c, err := OpenCredentials(path)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(filepath.Join(filepath.Dir(path), "pw"), 0o604))
	_, err = c.Credential(t.Context(), "g", SSH)
	require.ErrorIs(t, err, ErrOpenToOthers)
}

// Nothing that is printed, however it is printed, has a secret in it.
func TestSecretsAreNotPrinted(t *testing.T) {
	var out []string
	cred := Credential{User: "root", Password: secret, PrivateKey: []byte(secret), Passphrase: secret, Config: secret}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		out = append(out, fmt.Sprintf(verb, cred), fmt.Sprintf(verb, &cred), fmt.Sprintf(verb, []Credential{cred}))
	}
	data, err := json.Marshal(map[string]any{"c": cred, "p": &cred})
	require.NoError(t, err)
	out = append(out, string(data))

	for i, text := range []string{
		`{"default": {"user": "u", "password": "` + secret + `}`,
		`{"default": {"user": "u", "password": ` + secret + `}}`,
		`{"default": {"user": "u", "password": ["` + secret + `"]}}`,
		`{"default": {"user": "u", "` + secret + `": "x"}}`,
		`{"default": {"user": "u"}} {"password": "` + secret + `"}`,
		`{"kinds": {"telnet": {"user": "u", "password": "` + secret + `"}}}`,
		`"` + secret + `"`,
	} {
		_, err := OpenCredentials(credentialsIn(t, text))
		require.ErrorIs(t, err, fs.ErrInvalid, i)
		out = append(out, err.Error())
	}
	for _, text := range out {
		require.NotContains(t, text, secret)
		require.NotContains(t, text, "hunter2")
		require.NotContains(t, text, "68756e74657232", "in hexadecimal")
	}
}

func TestCredentialsFileIsBounded(t *testing.T) {
	path := credentialsIn(t, `{}`)
	require.NoError(t, os.Truncate(path, maxCredentials+1))
	_, err := OpenCredentials(path)
	require.ErrorIs(t, err, fs.ErrInvalid)
	_, err = OpenCredentials(t.TempDir())
	require.ErrorIs(t, err, fs.ErrInvalid)
	_, err = OpenCredentials(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}
