package guest

import (
	"context"
	"fmt"
	"log/slog"
)

// Credential is what a channel logs in with. It prints as its user's name alone, however it is printed.
type Credential struct {
	User     string // root, DOMAIN\User, user@realm, HOST\User
	Password string

	// PrivateKey is an SSH key in OpenSSH or PEM form, Passphrase what it is locked with. Agent uses the SSH agent of
	// this process.
	PrivateKey []byte
	Passphrase string
	Agent      bool

	// KerberosOnly refuses NTLM. Realm and KDCs say where tickets come from; empty KDCs are looked up in DNS, and Config
	// is a krb5.conf in place of both.
	KerberosOnly bool
	Realm        string
	KDCs         []string
	Config       string

	// ManagedAccount names a group managed service account: only a proxy on Windows in its domain can use one.
	ManagedAccount bool
}

// String is the user's name.
func (c Credential) String() string { return c.User }

// Format prints the user's name, whatever the verb: a password must not get into a log by %+v.
func (c Credential) Format(f fmt.State, _ rune) { fmt.Fprint(f, c.User) }

// LogValue is the user's name.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.User) }

// MarshalJSON is the user's name: a credential is handed over by those who know how, never by accident.
func (c Credential) MarshalJSON() ([]byte, error) { return fmt.Appendf(nil, "%q", c.User), nil }

// Credentials hands out what is needed when it is needed. Nothing of it is kept.
type Credentials interface {
	// Credential answers fs.ErrNotExist where there is none for that kind of channel.
	Credential(ctx context.Context, guest string, kind Kind) (Credential, error)
}
