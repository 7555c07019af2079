package smbstore

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"strings"

	"github.com/cloudsoda/go-smb2"
)

// Address says where a store is.
type Address struct {
	Host   string // name or address, with :port where it is not 445
	Share  string
	Folder string // in the share, parts separated by slashes; empty: the share itself
}

// ParseAddress reads smb://host[:port]/share[/folder…]. A user or a password in it is refused: addresses are printed.
func ParseAddress(raw string) (Address, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "smb" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return Address{}, fmt.Errorf("not of the form smb://host[:port]/share[/folder], without a user: %w", fs.ErrInvalid)
	}
	at := Address{Host: u.Host}
	at.Share, at.Folder, _ = strings.Cut(strings.Trim(u.Path, "/"), "/")
	return at, at.check()
}

// String is the address as ParseAddress takes it.
func (a Address) String() string {
	return (&url.URL{Scheme: "smb", Host: a.Host, Path: strings.TrimSuffix("/"+a.Share+"/"+a.Folder, "/")}).String()
}

// Limits of an address.
const (
	maxHost    = 260
	maxShare   = 80 // MS-SRVS 2.2.2.4
	maxFolders = 16
	maxFolder  = 128
)

func (a Address) check() error {
	switch {
	case a.Host == "" || len(a.Host) > maxHost || strings.ContainsAny(a.Host, `\/ `+"\x00"):
		return fmt.Errorf("no host %.300q: %w", a.Host, fs.ErrInvalid)
	case !validPart(a.Share, maxShare):
		return fmt.Errorf("no share %.100q: %w", a.Share, fs.ErrInvalid)
	case a.Folder == "":
		return nil
	}
	parts := strings.Split(a.Folder, "/")
	for _, part := range parts {
		if !validPart(part, maxFolder) || len(parts) > maxFolders {
			return fmt.Errorf("no folder of a share: %.300q: %w", a.Folder, fs.ErrInvalid)
		}
	}
	return nil
}

// validPart reports whether a part of a path means itself on every server: no step up, no stream, no pattern.
func validPart(s string, most int) bool {
	if s == "" || len(s) > most || strings.Trim(s, ". ") != s {
		return false
	}
	for _, r := range s {
		if r < ' ' || strings.ContainsRune(`\/:*?"<>|`, r) {
			return false
		}
	}
	return true
}

// hostPort is where to connect, host what the server is called in a share's path.
func (a Address) hostPort() (hostPort, host string) {
	host, port, err := net.SplitHostPort(a.Host)
	if err != nil {
		host, port = strings.Trim(a.Host, "[]"), "445"
	}
	return net.JoinHostPort(host, port), host
}

// Credentials are what a user logs on with. Printing them shows the user alone.
type Credentials struct {
	User     string
	Password string
	Domain   string
	// Initiator, where set, logs on instead: a smb2.Krb5Initiator for Kerberos. It serves one connection.
	Initiator smb2.Initiator
}

// CredentialsFunc gives the credentials for one connection; it is asked again for each, so that what has expired can be
// renewed. It must not block beyond ctx.
type CredentialsFunc func(ctx context.Context) (Credentials, error)

// String shows who, not how.
func (c Credentials) String() string { return strings.TrimPrefix(c.Domain+`\`+c.User, `\`) }

// GoString shows who, not how.
func (c Credentials) GoString() string { return fmt.Sprintf("smbstore.Credentials{%q}", c.String()) }

// LogValue shows who, not how.
func (c Credentials) LogValue() slog.Value { return slog.StringValue(c.String()) }

func (c Credentials) initiator() (smb2.Initiator, error) {
	switch {
	case c.Initiator != nil:
		return c.Initiator, nil
	case c.User == "":
		return nil, fmt.Errorf("no user: %w: %w", ErrLogon, fs.ErrInvalid)
	}
	return &smb2.NTLMInitiator{User: c.User, Password: c.Password, Domain: c.Domain}, nil
}
