// Package kerberos logs a user on to a realm, for the channels that reach Windows: what a user may be called there, which
// realm that is, and where tickets are given.
package kerberos

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"strings"

	"github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
)

// ErrNoRealm says that nothing tells which realm the user is of.
var ErrNoRealm = errors.New("Kerberos needs a realm") //lint:ignore ST1005 a name

// Login is who logs on.
type Login struct {
	User     string // user, user@realm or DOMAIN\user; a domain with a dot is a realm
	Password string
	Realm    string   // empty: as the user's name says, or the configuration's default
	Config   string   // the text of a krb5.conf; empty: made of Realm and KDCs
	KDCs     []string // host or host:port; empty: asked of DNS
}

// New makes a client, which asks nobody before it is used. The caller ends it with Destroy. Errors are ErrNoRealm, or are
// about the configuration.
func New(l Login) (*client.Client, error) {
	domain, user := Split(l.User)
	realm := l.Realm
	if at := strings.LastIndexByte(user, '@'); at > 0 {
		user, realm = user[:at], either(realm, user[at+1:])
	}
	conf := config.New()
	if l.Config != "" {
		var err error
		if conf, err = config.NewFromString(l.Config); err != nil {
			return nil, fmt.Errorf("krb5.conf: %w", err)
		}
		realm = either(realm, conf.LibDefaults.DefaultRealm)
	}
	if strings.Contains(domain, ".") {
		realm = either(realm, domain)
	}
	realm = strings.ToUpper(realm)
	if realm == "" {
		return nil, ErrNoRealm
	}
	if l.Config == "" {
		conf.LibDefaults.DefaultRealm = realm
		conf.LibDefaults.DNSLookupKDC = len(l.KDCs) == 0
		conf.Realms = []config.Realm{{Realm: realm, KDC: withPort(l.KDCs)}}
	}
	quiet := log.New(io.Discard, "", 0)
	return client.NewWithPassword(user, realm, l.Password, conf, client.DisablePAFXFAST(true), client.Logger(quiet)), nil
}

// Split parts DOMAIN\user.
func Split(name string) (domain, user string) {
	if i := strings.IndexByte(name, '\\'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return "", name
}

func either(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func withPort(kdcs []string) (list []string) {
	for _, k := range kdcs {
		if _, _, err := net.SplitHostPort(k); err != nil {
			k = net.JoinHostPort(strings.Trim(k, "[]"), "88")
		}
		list = append(list, k)
	}
	return list
}
