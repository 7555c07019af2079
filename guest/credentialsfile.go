package guest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// CredentialsFile hands out credentials from a file that only its owner may read. It is read at every call: a password
// that was changed counts at once, and nothing stays in memory.
//
//	{
//	  "default": {"user": "backup", "privateKeyFile": "id_ed25519"},
//	  "kinds":   {"smb": {"user": "EXAMPLE\\backup", "passwordFile": "smb.password", "kerberosOnly": true, "realm": "EXAMPLE.ORG"}},
//	  "guests":  {"web1": {"default": {"user": "root", "agent": true}, "kinds": {"winrm": {"user": "…", "password": "…"}}}}
//	}
//
// What is most particular is taken: of the guest for the kind, of the guest, for the kind, the default. Files that it
// names lie beside it unless their paths are absolute; the same permissions are asked of them. A password's file may end
// in one line break, which does not belong to it.
type CredentialsFile struct{ path string }

var _ Credentials = (*CredentialsFile)(nil)

// ErrOpenToOthers says that others may read a file of secrets.
var ErrOpenToOthers = errors.New("others may read it")

// OpenCredentials looks at the file once, so that mistakes show early.
func OpenCredentials(path string) (*CredentialsFile, error) {
	c := &CredentialsFile{path: path}
	_, err := c.read()
	return c, err
}

const (
	maxCredentials = 4 << 20  // bytes of the file
	maxSecret      = 64 << 10 // bytes of a key or a password
)

// entry is a credential as it is written.
type entry struct {
	User           string   `json:"user"`
	Password       string   `json:"password"`
	PasswordFile   string   `json:"passwordFile"`
	PrivateKeyFile string   `json:"privateKeyFile"`
	Passphrase     string   `json:"passphrase"`
	PassphraseFile string   `json:"passphraseFile"`
	Agent          bool     `json:"agent"`
	KerberosOnly   bool     `json:"kerberosOnly"`
	Realm          string   `json:"realm"`
	KDCs           []string `json:"kdcs"`
	Config         string   `json:"config"` // path of a krb5.conf
	ManagedAccount bool     `json:"managedAccount"`
}

type entries struct {
	Default *entry          `json:"default"`
	Kinds   map[Kind]*entry `json:"kinds"`
}

type credentialsFile struct {
	entries
	Guests map[string]entries `json:"guests"`
}

// Credential implements [Credentials].
func (c *CredentialsFile) Credential(ctx context.Context, guest string, kind Kind) (Credential, error) {
	if err := ctx.Err(); err != nil {
		return Credential{}, err
	}
	f, err := c.read()
	if err != nil {
		return Credential{}, err
	}
	own := f.Guests[guest]
	e := cmp.Or(own.Kinds[kind], own.Default, f.Kinds[kind], f.Default)
	if e == nil {
		return Credential{}, fmt.Errorf("%s: no credential for %s of guest %s: %w", c.path, kind, Printable(guest, maxName), fs.ErrNotExist)
	}
	return e.credential(filepath.Dir(c.path))
}

// String is the path.
func (c *CredentialsFile) String() string { return "credentials in " + c.path }

func (e *entry) credential(dir string) (Credential, error) {
	out := Credential{User: e.User, Password: e.Password, Passphrase: e.Passphrase, Agent: e.Agent,
		KerberosOnly: e.KerberosOnly, Realm: e.Realm, KDCs: slices.Clone(e.KDCs), ManagedAccount: e.ManagedAccount}
	for _, s := range []struct {
		path string
		take func([]byte)
	}{
		{e.PasswordFile, func(b []byte) { out.Password = line(b) }},
		{e.PassphraseFile, func(b []byte) { out.Passphrase = line(b) }},
		{e.PrivateKeyFile, func(b []byte) { out.PrivateKey = b }},
	} {
		if s.path == "" {
			continue
		}
		data, err := readSecret(beside(dir, s.path), maxSecret)
		if err != nil {
			return Credential{}, err
		}
		s.take(data)
	}
	if e.Config != "" {
		out.Config = beside(dir, e.Config)
	}
	return out, nil
}

// line is what a file of one line holds.
func line(b []byte) string {
	return strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
}

func beside(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

func (c *CredentialsFile) read() (*credentialsFile, error) {
	data, err := readSecret(c.path, maxCredentials)
	if err != nil {
		return nil, err
	}
	f := new(credentialsFile)
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	err = d.Decode(f)
	if err == nil {
		if _, end := d.Token(); end != io.EOF {
			err = errors.New("more than one value")
		}
	}
	if err != nil {
		// The decoder's own words may quote what stands there, and what stands there may be a password.
		return nil, fmt.Errorf("%s: line %d: it is not what credentials are written like, or names a field that there is not: %w",
			c.path, 1+bytes.Count(data[:min(int64(len(data)), d.InputOffset())], []byte("\n")), fs.ErrInvalid)
	}
	return f, f.check(c.path)
}

// check finds kinds that there are none of: a slip there would leave a guest with the default.
func (f *credentialsFile) check(path string) error {
	all := []entries{f.entries}
	for _, g := range f.Guests {
		all = append(all, g)
	}
	for _, e := range all {
		for kind := range e.Kinds {
			if err := (Order{kind}).Check(); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
	}
	return nil
}

// readSecret reads a regular file that only its owner may read. On Windows the folder's access list decides.
func readSecret(path string, max int64) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() { // a pipe would be waited for
		return nil, fmt.Errorf("%s is no regular file: %w", path, fs.ErrInvalid)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err = f.Stat(); err != nil {
		return nil, err
	}
	if open := fi.Mode().Perm() & 0o077; open != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("%s (mode %04o): %w: chmod 600 it", path, fi.Mode().Perm(), ErrOpenToOthers)
	}
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(data)) > max {
		err = fmt.Errorf("%s has more than %d bytes: %w", path, max, fs.ErrInvalid)
	}
	return data, err
}
