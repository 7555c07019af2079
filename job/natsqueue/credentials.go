package natsqueue

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// Credentials are how a client logs on: a user and a password, a token, the seed of an nkey, or a file of credentials that names a JWT.
type Credentials struct {
	User, Password string
	Token          string
	Seed           string // SU…
	File           string // of a JWT and its seed
}

// ErrNoCredentials says that nothing was given to log on with. There is no connection without.
var ErrNoCredentials = errors.New("no credentials for the queue")

const maxCredentials = 64 << 10

// ReadCredentials reads a file that is one of
//
//	user=NAME and password=WORD, on a line each
//	token=WORD
//	SU…, the seed of an nkey
//	a file of credentials with a JWT, as the tools of NATS write it
//
// Empty lines and lines with # are left out. A file that others may read is refused.
func ReadCredentials(path string) (*Credentials, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s may be read by others (mode %o): chmod 600", path, info.Mode().Perm())
	}
	if info.Size() > maxCredentials {
		return nil, fmt.Errorf("%s has %d bytes, at most %d", path, info.Size(), maxCredentials)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if bytes.Contains(b, []byte("-----BEGIN NATS USER JWT-----")) {
		return &Credentials{File: path}, nil
	}
	c := &Credentials{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; lines.Scan(); n++ {
		if err := c.line(strings.TrimSpace(lines.Text())); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", path, n, err)
		}
	}
	if *c == (Credentials{}) {
		return nil, fmt.Errorf("%s: %w", path, ErrNoCredentials)
	}
	return c, lines.Err()
}

func (c *Credentials) line(text string) error {
	name, value, _ := strings.Cut(text, "=")
	switch {
	case text == "" || strings.HasPrefix(text, "#"):
	case name == "user":
		c.User = value
	case name == "password":
		c.Password = value
	case name == "token":
		c.Token = value
	case strings.HasPrefix(text, "SU"):
		c.Seed = text
	default:
		return errors.New("expected user=, password=, token= or the seed of an nkey") // never the text: it may be a secret
	}
	return nil
}

// option is how nats.go takes them.
func (c *Credentials) option() (nats.Option, error) {
	switch {
	case c == nil || *c == (Credentials{}):
		return nil, ErrNoCredentials
	case c.File != "":
		return nats.UserCredentials(c.File), nil
	case c.Seed != "":
		pair, err := nkeys.FromSeed([]byte(c.Seed))
		if err != nil {
			return nil, fmt.Errorf("the seed of the queue's nkey: %w", err)
		}
		public, err := pair.PublicKey()
		if err != nil {
			return nil, fmt.Errorf("the seed of the queue's nkey: %w", err)
		}
		return nats.Nkey(public, pair.Sign), nil
	case c.Token != "":
		return nats.Token(c.Token), nil
	case c.User == "" || c.Password == "":
		return nil, fmt.Errorf("a user needs a password: %w", ErrNoCredentials)
	}
	return nats.UserInfo(c.User, c.Password), nil
}
